"""A run's ledger: what each update learnt, what it did to the tasks before it, and which of them answers now.

``ledger.json`` in the run folder. Row t of the matrix holds the scores after update t on the test rows of every task
so far, a_ti; from it follow, over the promoted updates:

- average forgetting (Chaudhry et al. 2018): the mean over the earlier tasks of max_l a_li - a_Ti;
- backward transfer (Lopez-Paz and Ranzato 2017): the mean over the earlier tasks of a_Ti - a_ii;
- forward transfer (the same): the mean over later tasks of a_(i-1)i - b_i, with the majority baseline for b; only
  tasks of which the model knew a label before count.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from weitiao.core.messages import say, width
from weitiao.core.runs import CURRENT, atomic_file, read_json, write_json

FILE = "ledger.json"


@dataclass
class Time:
    """One update. ``scores`` are by task, those of promoted tasks and of its own."""

    folder: str
    method: str
    task: str
    promoted: bool
    scores: dict[str, float]
    before: float | None = None  # the score on its own test rows before it, where a label was known
    baseline: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Ledger:
    """The times of a run, the first of which is the run itself."""

    monitor: str
    times: list[Time] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "Ledger | None":
        """A run's ledger; None where it was never updated."""
        file = folder / FILE
        if not file.exists():
            return None
        held = read_json(file)
        return cls(held["monitor"], [Time(**time) for time in held["times"]])

    @property
    def promoted(self) -> list[Time]:
        """The run, and the updates that answered or answer."""
        return [time for time in self.times if time.promoted]

    def write(self, folder: Path) -> dict[str, Any]:
        """Write ``ledger.json`` and ``current``. Returns what the ledger holds."""
        held = {
            "monitor": self.monitor,
            **transfers(self.promoted),
            "times": [asdict(time) for time in self.times],
        }
        write_json(folder / FILE, held)
        if self.promoted[-1].folder:
            with atomic_file(folder / CURRENT) as file:
                file.write(self.promoted[-1].folder + "\n")
        return held


def transfers(times: list[Time]) -> dict[str, float | None]:
    """Average forgetting, backward and forward transfer of some times; None before there are two tasks."""
    last, earlier = times[-1], times[:-1]
    if not earlier:
        return {"average_forgetting": None, "backward_transfer": None, "forward_transfer": None}
    tasks = [time.task for time in earlier]
    best = {task: max(time.scores[task] for time in earlier if task in time.scores) for task in tasks}
    known = [time for time in times[1:] if time.before is not None and time.baseline is not None]
    forward = [float(time.before) - float(time.baseline) for time in known]  # type: ignore[arg-type]
    return {
        "average_forgetting": _mean([best[task] - last.scores[task] for task in tasks]),
        "backward_transfer": _mean([last.scores[time.task] - time.scores[time.task] for time in earlier]),
        "forward_transfer": _mean(forward) if forward else None,
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def matrix_text(ledger: Ledger) -> str:
    """The matrix for a terminal: a line a time, a column a task (the newest six)."""
    tasks = list(dict.fromkeys(time.task for time in ledger.promoted))
    if ledger.times[-1].task not in tasks:
        tasks.append(ledger.times[-1].task)
    tasks = tasks[-6:]
    rows = [[say("after", "之后"), *(task[:12] for task in tasks), ""]]
    for number, time in enumerate(ledger.times):
        name = say("the run", "初次训练") if not number else f"{time.folder} {time.method}"
        cells = [f"{100 * time.scores[task]:.1f}" if task in time.scores else "–" for task in tasks]
        rows.append([name, *cells, "" if time.promoted else say("not promoted", "未启用")])
    wide = [max(width(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [
        "  ".join([row[0] + " " * (wide[0] - width(row[0]))]
                  + [" " * (wide[i] - width(cell)) + cell for i, cell in enumerate(row[1:], 1)]).rstrip()
        for row in rows
    ]  # fmt: skip
    return "\n".join(lines)
