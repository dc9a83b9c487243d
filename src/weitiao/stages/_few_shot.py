"""Which few-shot method a run takes: the one that was asked for, or the best of those that can be tried in the time.

A trial is a run of the method on some of the few labelled texts, scored on the others; all methods get the same folds.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from weitiao.core import catalogue
from weitiao.core.config import make_member
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event, NoteEvent, ProgressEvent
from weitiao.core.messages import say
from weitiao.data.cloze import TEXT, answered
from weitiao.data.splits import column, folds
from weitiao.few_shot.base import FewShot, Situation
from weitiao.models.backbone import read_config
from weitiao.models.cloze import has_mask_head
from weitiao.models.llama import MODEL_TYPES
from weitiao.stages import finetune
from weitiao.stages._rehearsal import understudy
from weitiao.tasks.base import softmax

if TYPE_CHECKING:
    from weitiao.stages._training import Training


def settle(run: "Training") -> Iterator[Event]:
    """Check the method of ``run.config``, or choose one; ``run.config`` then holds all that it stands for.

    Raises:
        WeitiaoError: the method cannot work on what there is.
    """
    config = run.config
    labels = column(run.data.records["train"], run.task.label_key)
    if run.answers.kind != "classes" or not all(isinstance(label, str) for label in labels):
        raise WeitiaoError(
            say(
                f"--few-shot learns single classes; {config.task} has {run.answers.kind} here",
                f"--few-shot 用于单标签分类，而此处 {config.task} 的目标是 {run.answers.kind}",
            )
        )
    counts = Counter(labels)
    folder = run.source.path
    causal = read_config(folder).get("model_type") in MODEL_TYPES
    there = Situation(
        len(labels), len(counts), min(counts.values()), has_mask_head(folder), causal, vars(run.task)
    )
    method = make_member("few_shot", config.few_shot, config.member_values)
    if method.chooses:
        yield from _choose(run, method, there, labels)
    elif reason := _unfit(method, there):
        raise WeitiaoError(f"--few-shot {config.few_shot.replace('_', '-')}: {reason}")
    if run.config.few_shot == "in_context":
        _demonstrate(run)


def _choose(run: "Training", method: Any, there: Situation, labels: list[str]) -> Iterator[Event]:
    """Take the best of the methods that fit."""
    able, why = _able(run.config, there)
    if len(able) == 1 or there.fewest < 2:
        chosen, reason = able[0], why or say("the only one that fits", "只有它适用")
    else:
        scores = yield from _tried(run, able, method, labels)
        chosen, reason = _best(scores, run.monitor, len(labels))
    yield NoteEvent(say(f"Few-shot method: {chosen}; {reason}", f"小样本方法：{chosen}；{reason}"))
    run.config = finetune.checked(dataclasses.replace(run.config, few_shot=chosen))


def _unfit(method: FewShot, there: Situation) -> str:
    """Why a method cannot be used."""
    if there.causal and not method.causal:
        return say(
            "it is for encoders, and this model writes on: use --few-shot in-context",
            "它用于编码器，而该模型是生成式的：请使用 --few-shot in-context",
        )
    if method.causal and not there.causal:
        return say(
            "it needs a model that writes on, as --model SmolLM2-135M-Instruct",
            "它需要生成式模型，例如 --model SmolLM2-135M-Instruct",
        )
    return method.unfit(there)


def _able(config: Any, there: Situation) -> tuple[list[str], str]:
    """The methods that fit, and why others that could be thought of do not."""
    able, reasons = [], []
    for name in catalogue.members("few_shot"):
        method: FewShot = make_member("few_shot", name, config.member_values)
        if method.chooses or method.causal != there.causal:
            continue
        if "tuning" in method.settings() and config.tuning not in ("full", method.settings()["tuning"]):
            continue  # the user wants another
        reason = method.unfit(there)
        if not reason:
            able.append(name)
        elif name != "cloze":  # which nobody asks for without a template
            reasons.append(f"{name}: {reason}")
    if not able:
        raise WeitiaoError(say("No few-shot method fits. ", "没有适用的小样本方法。") + "; ".join(reasons))
    return able, "; ".join(reasons)


def _demonstrate(run: "Training") -> None:
    """Put labelled texts before the text in the template, all classes in turn; the template is saved with the model."""
    config, task = run.config, run.task
    method = make_member("few_shot", "in_context", config.member_values)
    template = getattr(task, "template", "") or say("Text: {text}\nLabel:", "文本：{text}\n类别：")
    records = run.data.records["train"].shuffle(seed=config.seed)
    turn: Counter[str] = Counter()
    ranked = []
    for row in records:
        turn[row["label"]] += 1
        ranked.append((turn[row["label"]], row))
    ranked.sort(key=lambda pair: pair[0])
    shown = [
        answered(template.replace(TEXT, row["text"].replace("{", "(").replace("}", ")")), word) + "\n\n"
        for _, row in ranked[: method.demonstrations]
        for word in [task.verbaliser.get(row["label"], row["label"]).split("|")[0]]
    ]
    values = config.member_values | {"template": "".join(shown) + template}
    run.config = dataclasses.replace(config, member_values=values)
    run.task = make_member("tasks", config.task, values)
    run.task.check(run.answers, run.tokenizer)


def calibrate(run: "Training") -> None:
    """Divide out what the model answers without a text: the mean over some that say nothing (Zhao et al. 2021)."""
    texts = [{"text": text} for text in ("N/A", "", "[MASK]")]
    encoded = run.task.encode(texts, run.tokenizer, run.config.max_length, None)
    chances_C = softmax(np.stack(run.outputs(encoded, texts)).astype(np.float64)).mean(0)
    linear = run.model.head.linear
    assert linear is not None
    with torch.no_grad():
        linear.bias -= torch.from_numpy(np.log(chances_C + 1e-12)).float()


def _tried(
    run: "Training", able: list[str], method: Any, labels: list[str]
) -> Generator[Event, None, dict[str, list[float]]]:
    """Scores of each method on the folds that were reached in the time, ``{name: [score, ...]}``, quickest first."""
    count = min(method.shot_folds, *Counter(labels).values())
    fold_N = folds(labels, count, run.config.seed)
    scores: dict[str, list[float]] = {name: [] for name in able}
    longest: dict[str, float] = dict.fromkeys(able, 0.0)
    began = time.monotonic()
    for fold in range(count):
        # Whole rounds alone can be compared; the first is always run.
        if fold and time.monotonic() - began + sum(longest.values()) > method.shot_budget:
            break
        for number, name in enumerate(able):
            what = say(f"trying {name} on the few labels", f"在少量标注上试验 {name}")
            yield ProgressEvent(what, fold * len(able) + number, count * len(able))
            start = time.monotonic()
            scores[name].append(_trial(run, name, fold_N != fold))
            longest[name] = max(longest[name], time.monotonic() - start)
    yield ProgressEvent(say("tried", "试验完成"), count * len(able), count * len(able))
    return {name: scores[name] for name in sorted(able, key=longest.__getitem__)}


def _trial(run: "Training", name: str, kept_N: np.ndarray) -> float:
    """Learn from the rows that are kept; the score on the others."""
    config = finetune.checked(dataclasses.replace(run.config, few_shot=name))
    kept, held = (run.data.records["train"].select(np.flatnonzero(mask)) for mask in (kept_N, ~kept_N))
    learnt, asked = (
        run.task.encode(part, run.tokenizer, config.max_length, run.answers) for part in (kept, held)
    )
    trial = understudy(run, config, learnt)
    run.monitor = trial.monitor
    return trial.scores(trial.outputs(asked, held), asked, held)[trial.monitor]


def _best(scores: dict[str, list[float]], monitor: str, rows: int) -> tuple[str, str]:
    """The method with the best mean, of equals the first; and the reason in words."""
    means = {name: float(np.mean(found)) for name, found in scores.items()}
    chosen = max(means, key=means.__getitem__)
    shown = ", ".join(f"{name} {mean:.3f}" for name, mean in means.items())
    count = len(scores[chosen])
    folds = "one fold" if count == 1 else f"{count} folds"
    return chosen, say(
        f"best {monitor} on {rows:,} texts, {folds} of cross-validation: {shown}",
        f"在 {rows:,} 条文本上交叉验证（{count} 折）的 {monitor} 最高：{shown}",
    )
