"""Events on their way to people, kept in the run folder and given to the trackers once the folder is there."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from weitiao.core.errors import Interrupted, WeitiaoError
from weitiao.core.events import Event
from weitiao.core.messages import say
from weitiao.core.runs import Recorder
from weitiao.stages._resume import how_to_resume


class Work(Protocol):
    """What is recorded: ``opened`` says that the run folder is there."""

    opened: bool

    def events(self) -> Iterator[Event]:
        """Do it."""


def refuse_taken(folder: Path, resume: bool, overwrite: bool) -> None:
    """Raises a ``WeitiaoError`` where the folder holds a run that is neither to go on nor to be replaced."""
    if not resume and (folder / "config.yaml").exists() and not overwrite:
        raise WeitiaoError(
            say(
                f"{folder} already holds a run: choose another --output, or pass --resume or --overwrite",
                f"{folder} 中已有一次运行：请换一个 --output，或加上 --resume 或 --overwrite",
            )
        )


def recorded(work: Work, folder: Path, stage: str, trackers: list[str], settings: str) -> Iterator[Event]:
    """The work's events, each also written to ``events.jsonl``; those before the folder was there are written then.

    Raises:
        Interrupted: Ctrl-C after the folder was opened; it says how to go on.
    """
    early: list[Event] = []
    consumers: list[Any] = []
    try:
        for event in work.events():
            if not consumers and work.opened:
                consumers.append(Recorder(folder))
                if trackers:
                    from weitiao.reporting.trackers import make

                    consumers += make(trackers, folder, {"settings": settings})
                for consume in consumers:
                    for earlier in early:
                        consume(earlier)
            for consume in consumers or [early.append]:
                consume(event)
            yield event
    except KeyboardInterrupt:
        if not work.opened:
            raise
        way = how_to_resume(folder, stage)
        raise Interrupted(say(f"Stopped. {way}", f"已停止。{way}")) from None
    finally:
        for consume in consumers:
            consume.close()
