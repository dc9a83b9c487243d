"""List known pretrained models / 列出已知的预训练模型."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from weitiao.core.config import option
from weitiao.core.events import Event, NoteEvent, ResultEvent
from weitiao.core.messages import say, width
from weitiao.reporting.terminal import COLUMNS, wrap
from weitiao.reporting.text import size

EXAMPLES = ("weitiao models", "weitiao models --fetch all-MiniLM-L6-v2")


@dataclass
class Config:
    """Which model to fetch, if any."""

    fetch: str = option(
        "", "fetch this model now, so that it can be used offline", "现在获取该模型，之后可离线使用"
    )


def run(config: Config) -> Iterator[Event]:
    """The known models, their licences and what is cached; ``--fetch`` gets one first.

    Raises:
        WeitiaoError: no such model, or no route to it.
    """
    from weitiao.models.known import list_models

    if config.fetch:
        yield from _fetch(config.fetch)
    models = list_models()
    yield ResultEvent("", {"models": models, "text": table(models)})


def _fetch(name: str) -> Iterator[Event]:
    """Fetch a model on another thread, so that its lines of progress are shown as they come."""
    from weitiao.models.known import resolve_model

    lines: SimpleQueue[str] = SimpleQueue()
    with ThreadPoolExecutor(max_workers=1) as pool:
        fetching = pool.submit(resolve_model, name, lines.put)
        fetching.add_done_callback(lambda _: lines.put(""))
        while line := lines.get():
            yield NoteEvent(line)
    found = fetching.result()
    note = say(f" ({found.note})", f"（{found.note}）") if found.note else ""
    yield NoteEvent(f"{found.name}: {found.path}{note}")


def table(models: list[dict[str, Any]]) -> str:
    """The models as lines of at most 100 terminal columns: the facts on one, the description below."""
    heads = [
        say("name", "名称"),
        say("download", "下载量"),
        say("licence", "许可证"),
        say("cached", "已缓存"),
    ]
    rows = [
        [m["name"], size(m["size_bytes"]), m["licence"], say("yes", "是") if m["cached"] else say("no", "否")]
        for m in models
    ]
    columns = [max(width(row[place]) for row in [heads, *rows]) for place in range(len(heads))]

    def line(cells: list[str]) -> str:
        return "  ".join(
            cell + " " * (wide - width(cell)) for cell, wide in zip(cells, columns, strict=True)
        ).rstrip()

    lines = [line(heads)]
    for row, model in zip(rows, models, strict=True):
        lines.append(line(row))
        lines += ["    " + part for part in wrap(model["description"], COLUMNS - 4).split("\n")]
    lines += [
        "",
        say(
            "A folder or a hub id (owner/name) will do as well.",
            "也可以使用目录，或 hub 上的 id（owner/name）。",
        ),
    ]
    return "\n".join(lines)
