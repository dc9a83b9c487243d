"""Events on their way to people, kept in the run folder and given to the trackers once the folder is there."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from weitiao.core.errors import Interrupted, WeitiaoError
from weitiao.core.events import Event
from weitiao.core.messages import say
from weitiao.core.runs import Recorder
from weitiao.stages._resume import how_to_resume


def refuse_taken(folder: Path, resume: bool, overwrite: bool) -> None:
    """Raises a ``WeitiaoError`` where the folder holds a run that is neither to go on nor to be replaced."""
    if not resume and (folder / "config.yaml").exists() and not overwrite:
        raise WeitiaoError(
            say(
                f"{folder} already holds a run: choose another --output, or pass --resume or --overwrite",
                f"{folder} 中已有一次运行：请换一个 --output，或加上 --resume 或 --overwrite",
            )
        )


def recorded(
    events: Iterator[Event],
    opened: Callable[[], bool],
    folder: Path,
    trackers: Sequence[str] = (),
    settings: str = "",
) -> Iterator[Event]:
    """The events, each also written to ``events.jsonl`` once the folder is ``opened``; those before are written then.

    Args:
        trackers: what is told of them too, with the settings as YAML.
    """
    early: list[Event] = []
    consumers: list[Any] = []
    try:
        for event in events:
            if not consumers and opened():
                consumers.append(Recorder(folder))
                if trackers:
                    from weitiao.reporting.trackers import make

                    consumers += make(list(trackers), folder, {"settings": settings})
                for consume in consumers:
                    for earlier in early:
                        consume(earlier)
            for consume in consumers or [early.append]:
                consume(event)
            yield event
    finally:
        for consume in consumers:
            consume.close()


@contextlib.contextmanager
def resumable(opened: Callable[[], bool], folder: Path, stage: str) -> Iterator[None]:
    """Ctrl-C inside becomes ``Interrupted``, which says how to go on, where the folder was ``opened`` before."""
    try:
        yield
    except KeyboardInterrupt:
        if not opened():
            raise
        way = how_to_resume(folder, stage)
        raise Interrupted(say(f"Stopped. {way}", f"已停止。{way}")) from None
