"""Label texts: what to label next, a page to label on, label noise / 标注：选出下一批、标注页面、检查错误标签.

The model's features are read once and stay as they are; after every so many labels a head is fitted to them anew,
which takes a second. When the labels are there, ``finetune`` trains on OUTPUT/labels.csv.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ProgressEvent, ResultEvent
from weitiao.core.messages import say

EXAMPLES = (
    "weitiao label --data unlabelled.csv --run runs/x --output labels/",
    "weitiao label --data reviews.csv --run runs/x --audit",
    "weitiao label --data unlabelled.csv --labels good,bad --output labels/ --batch 50",
    "weitiao label --data unlabelled.csv --output labels/ --take labels/batch.csv",
    "weitiao label --output labels/ --agreement",
)


@dataclass
class Config:
    """What is labelled, with whose help, and how."""

    data: str = option("", "table of the texts to label; with --audit, of labelled texts",
                       "待标注的文本表；配合 --audit 时为已标注的表")  # fmt: skip
    run: str = option(
        "",
        "a run whose model, labels and training rows are the beginning",
        "以该运行的模型、标签和训练数据为起点",
    )
    model: str = option("multilingual-e5-small", "without --run: whose features are read",
                        "没有 --run 时：用哪个模型提取特征")  # fmt: skip
    task: str = option(
        "text_classification", "without --run: what is labelled", "没有 --run 时：标注任务", family="tasks"
    )
    labels: list[str] = option(
        [], "the labels, a,b,c; with --run: further ones", "标签 a,b,c；有 --run 时为新增的标签"
    )
    columns: dict[str, str] = option({}, "columns by role: text=review", "各角色对应的列：text=评论")
    output: str = option(
        "", "the project's folder (default: labels-<data>)", "标注项目的目录（默认 labels-<数据名>）"
    )
    audit: bool = option(
        False,
        "instead: list the labels of --data that are likely wrong, the most suspicious first",
        "改为列出 --data 中可能有误的标签，最可疑的在前",
    )
    agreement: bool = option(False, "instead: how far the annotators agree", "改为报告各标注者之间的一致程度")
    batch: int = option(
        0,
        "instead of the page: write the next N rows to OUTPUT/batch.csv, to be filled in anywhere",
        "不打开页面，而把接下来的 N 行写入 OUTPUT/batch.csv，可在任何软件中填写",
        least=0,
    )
    take: str = option("", "take such a table back, with its column label filled in", "读回填好 label 列的表")
    annotator: str = option("me", "who labels; each has a file of their own", "标注者姓名，每人一个文件")
    strategy: str = option("margin", "which texts come next", "如何选取下一批文本", family="selection")
    retrain_every: int = option(
        20, "fit the head anew after every N labels", "每标注 N 条重新拟合一次", least=1
    )
    random_share: float = option(
        0.2,
        "share of texts drawn at random: what choosing gains is measured against them",
        "随机抽取的比例：以此衡量主动选取的收益",
        least=0,
        most=1,
    )
    overlap: float = option(
        0.2,
        "share of texts that another annotator has labelled too, while there are any",
        "与其他标注者重复标注的比例（有可重复的文本时）",
        least=0,
        most=1,
    )
    test_data: str = option("", "labelled table to score the head on (default: the run's test part)",
                            "用于评分的已标注表（默认用运行的测试部分）")  # fmt: skip
    suggest: bool = option(
        False,
        "mark the model's guess on the page; guesses sway people",
        "在页面上标出模型的猜测（会影响判断）",
    )
    folds: int = option(
        5, "with --audit: parts of the cross-validation", "配合 --audit：交叉验证的份数", least=2, most=50
    )
    max_length: int = option(128, "without --run: tokens a text is cut to", "没有 --run 时：文本截断的 token 数",
                             least=8, most=8192)  # fmt: skip
    port: int = option(0, "port of the page on this machine; 0 takes a free one", "页面端口；0 表示任选空闲端口",
                       least=0, most=65535)  # fmt: skip
    threads: int = option(0, "CPU threads (0: all)", "CPU 线程数（0：全部）", least=0)
    seed: int = option(42, "seed of everything random", "随机种子", least=0)
    member_values: dict[str, Any] = field(default_factory=dict)


def run(config: Config) -> Iterator[Event]:
    """List wrong labels, report agreement, or label by page or by table. Ends in a ``ResultEvent``.

    Raises:
        WeitiaoError: anything the user can mend; nothing half-written is left.
    """
    modes = [name for name in ("audit", "agreement", "batch", "take") if getattr(config, name)]
    if len(modes) > 1:
        raise WeitiaoError(
            say(f"--{modes[0]} and --{modes[1]} are two things: give one",
                f"--{modes[0]} 与 --{modes[1]} 不能同时使用")
        )  # fmt: skip
    if config.agreement:
        yield from _agreement(config)
        return
    if not config.data:
        raise WeitiaoError(say("No data: name a table with --data", "没有数据：请用 --data 指定数据表"))
    if config.audit:
        from weitiao.stages._noise import audit

        yield from audit(config)
        return
    from weitiao.stages._label import open_session

    session: Any = None
    for item in open_session(config):
        if isinstance(item, Event):
            yield item
        else:
            session = item
    if config.take:
        yield from _take(config, session)
    elif config.batch:
        yield from _batch(config, session)
    else:
        yield from _page(config, session)


def _agreement(config: Config) -> Iterator[Event]:
    from weitiao.labelling.agreement import report
    from weitiao.labelling.project import Project

    folder = Path(config.output or ".")
    by = Project(folder).by_annotator()
    if len(by) < 2:
        raise WeitiaoError(
            say(
                f"{folder} has answers of {len(by)} annotators; agreement needs two (--annotator NAME)",
                f"{folder} 中有 {len(by)} 位标注者的答案；一致性至少需要两位（--annotator 姓名）",
            )
        )
    found = report(by)
    yield NoteEvent(_agreement_text(found))
    yield ResultEvent(str(folder), {"agreement": found})


def _agreement_text(found: dict[str, Any]) -> str:
    shown = "–" if found["alpha"] is None else f"{found['alpha']:.3f}"
    lines = [
        say(f"Krippendorff's alpha over all annotators: {shown}", f"全部标注者的 Krippendorff α：{shown}")
    ]
    for pair in found["pairs"]:
        a, b = pair["annotators"]
        if not pair["texts"]:
            lines.append(say(f"{a} and {b}: no text in common", f"{a} 与 {b}：没有共同标注的文本"))
            continue
        kappa = "–" if pair["kappa"] is None else f"{pair['kappa']:.3f}"
        alike = f"{100 * pair['alike']:.1f}%"
        lines.append(say(f"{a} and {b}: {pair['texts']} texts, {alike} alike, Cohen's kappa {kappa}",
                         f"{a} 与 {b}：{pair['texts']} 条，相同 {alike}，Cohen κ {kappa}"))  # fmt: skip
        for one, other, count in pair["differences"][:3]:
            lines.append(f"  {one} / {other}: {count}")
    return "\n".join(lines)


def _batch(config: Config, session: Any) -> Iterator[Event]:
    from weitiao.labelling.tables import write_batch

    path = session.project.folder / "batch.csv"
    count = write_batch(path, session, config.batch)
    if not count:
        raise WeitiaoError(say("Every text is labelled or passed already", "全部文本都已标注或跳过"))
    yield NoteEvent(
        say(
            f"{count} rows to label: {path}. Fill in its column label, then: weitiao label ... --take {path}",
            f"{count} 行待标注：{path}。填写 label 列之后运行：weitiao label … --take {path}",
        )
    )
    yield ResultEvent(str(path), {"rows": count})


def _take(config: Config, session: Any) -> Iterator[Event]:
    from weitiao.labelling.tables import take_back

    kept, empty = take_back(Path(config.take), session, bool(config.labels))
    text = say(f"{kept} labels taken from {config.take}", f"从 {config.take} 读入 {kept} 个标签")
    if empty:
        text += say(f"; {empty} rows without one stay to be labelled", f"；{empty} 行未填，仍待标注")
    yield NoteEvent(text)
    session.fit()
    yield from _finish(session)


def _page(config: Config, session: Any) -> Iterator[Event]:
    """Serve the page until Ctrl-C."""
    import queue

    from weitiao.labelling.server import Server

    answered: queue.Queue[bool] = queue.Queue()
    total = len(session.texts)
    with Server(session, config.port, lambda: answered.put(True)) as server:
        yield NoteEvent(
            say(
                f"Label on this page, which this machine alone can open: {server.address}",
                f"请在此页面标注（只有本机可以打开）：{server.address}",
            )
        )
        yield NoteEvent(say("Every answer is kept at once. Ctrl-C ends; the same command goes on",
                            "每个答案立即保存。按 Ctrl-C 结束；再次运行同一命令即可继续"))  # fmt: skip
        try:
            while True:
                yield ProgressEvent(say("labelled", "已标注"), len(session.journal.answers), total)
                answered.get()
        except KeyboardInterrupt:
            pass
    yield from _finish(session)


def _finish(session: Any) -> Iterator[Event]:
    """Write the tables, and say where the project stands."""
    from weitiao.labelling.session import shares_text

    labelled, apart = session.project.write_labels(session.texts.by_number(), session.label_key)
    file = session.project.folder / "labels.csv"
    text = say(f"{labelled} labelled texts: {file}", f"{labelled} 条已标注文本：{file}")
    if apart:
        text += say(f"; {apart} on which annotators differ: {file.with_name('disagreements.csv')}",
                    f"；标注者意见不一的 {apart} 条：{file.with_name('disagreements.csv')}")  # fmt: skip
    yield NoteEvent(text)
    if scores := shares_text(session.rounds):
        yield NoteEvent(scores)
    yield ResultEvent(str(session.project.folder), {"labels": labelled, "round": session.rounds[-1]})
