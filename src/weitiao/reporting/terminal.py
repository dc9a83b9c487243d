"""A stage's events for people: progress bars, one line for each thing worth knowing, answers as JSON lines.

Answers, scores and notes go to standard output; bars and warnings go to standard error, so that
``weitiao predict ... > answers.jsonl`` holds answers only. Lines keep within 100 terminal columns.
"""

import json
import shutil
import sys
import time
import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from weitiao.core.events import (
    EstimateEvent,
    EvaluationEvent,
    Event,
    NoteEvent,
    ProgressEvent,
    ResultEvent,
    StepEvent,
    TextEvent,
)
from weitiao.core.messages import say, width
from weitiao.reporting.text import SCORES, number, size

if TYPE_CHECKING:
    from tqdm import tqdm

COLUMNS = 100
QUIET_SECONDS = 10.0  # where no bar can be drawn (a file, a pipe), a line of progress at most this often
BAR = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}"


def show(events: Iterator[Event]) -> int:
    """Show events as they come. Returns 0; what the stage raises passes through, with the bars closed."""
    screen = _Screen()
    try:
        for event in events:
            screen.show(event)
    finally:
        screen.close()
    return 0


def wrap(text: str, columns: int = COLUMNS) -> str:
    """Lines longer than ``columns`` broken at a space or between Chinese characters; others left as they are.

    What has no such place (a path) stays whole, so that it can be copied.
    """
    return "\n".join(part for line in text.split("\n") for part in _broken(line, columns))


def span(seconds: float) -> str:
    """A length of time in the reader's language: ``8.2 s``, ``75 s``, ``12 min``, ``2 h 10 min``."""
    if seconds < 120:
        shown = f"{seconds:.1f}" if seconds < 9.95 else f"{seconds:.0f}"
        return say(f"{shown} s", f"{shown} 秒")
    minutes = round(seconds / 60)
    if minutes < 120:
        return say(f"{minutes} min", f"{minutes} 分钟")
    hours, minutes = divmod(minutes, 60)
    return say(f"{hours} h {minutes} min", f"{hours} 小时 {minutes} 分钟")


def json_line(value: Any) -> str:
    """One JSON line that standard output can hold: ASCII where its encoding lacks a character."""
    line = json.dumps(value, ensure_ascii=False, default=str)
    try:
        line.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, default=str)
    return line


def _broken(line: str, columns: int) -> Iterator[str]:
    while width(line) > columns:
        cut, used = 0, 0
        for place, mark in enumerate(line):
            used += width(mark)
            if used > columns and cut:
                break
            follows = line[place + 1 : place + 2]
            # No line starts with a closing mark: the fullwidth ones are punctuation (P.), not letters (Lo).
            if follows == " " or (_is_wide(mark) and follows and unicodedata.category(follows) == "Lo"):
                cut = place + 1
        if not cut or not line[:cut].strip():
            break
        yield line[:cut].rstrip()
        line = line[cut:].lstrip()
    yield line


def _is_wide(mark: str) -> bool:
    return unicodedata.east_asian_width(mark) in "WF"


class _Screen:
    """What is on the screen now: a bar for the steps, and one for whatever else is under way."""

    def __init__(self) -> None:
        self.bars_drawn = sys.stderr.isatty()
        self.columns = min(COLUMNS, shutil.get_terminal_size((COLUMNS, 24)).columns)
        self.steps: tqdm[Any] | None = None
        self.progress: tqdm[Any] | None = None
        self.what = ""
        self.estimate: EstimateEvent | None = None
        self.first_step: tuple[int, float] | None = None
        self.told = time.monotonic()

    def show(self, event: Event) -> None:
        """Show one event. Those that say nothing to people (a checkpoint) are passed over."""
        match event:
            case StepEvent():
                self._step(event)
            case ProgressEvent():
                self._progress(event)
            case EvaluationEvent():
                self._print(evaluation_line(event))
            case EstimateEvent():
                self._print(estimate_line(event, self.estimate))
                self.estimate = event
                if event.actual:
                    self.close()
            case TextEvent():
                self._piece(event)
            case NoteEvent(level="warning"):
                self._print(say("Warning: ", "警告：") + event.text, sys.stderr)
            case NoteEvent():
                self._print(event.text)
            case ResultEvent():
                self._result(event)

    def close(self) -> None:
        """Take the bars off the screen; the finished one of the steps stays."""
        for bar in (self.progress, self.steps):
            if bar is not None:
                bar.close()
        self.progress = self.steps = None

    def _step(self, event: StepEvent) -> None:
        speed = f"{event.tokens_per_second:,.0f} tokens/s"
        if self.first_step is None:
            # The first step is slower than the rest (memory is claimed, kernels chosen): measure after it.
            self.first_step = (event.step, time.monotonic())
        left = self._left(event)
        shown = say(f"loss {event.loss:.4f}, {speed}", f"损失 {event.loss:.4f}，{speed}") + left
        if not self.bars_drawn:
            self._tell(
                say(f"step {event.step}/{event.total_steps}: ", f"第 {event.step}/{event.total_steps} 步：")
                + shown,
                always=event.step == event.total_steps,
            )
            return
        if self.steps is None:
            self.steps = self._bar(say("training", "训练"), event.total_steps, event.step - 1, leave=True)
        self.steps.set_postfix_str(shown, refresh=False)
        self.steps.update(event.step - self.steps.n)
        if event.step == event.total_steps:
            self.steps.refresh()

    def _left(self, event: StepEvent) -> str:
        """The time left at the mean speed since the first step, evaluations included."""
        assert self.first_step is not None
        step, moment = self.first_step
        if step == event.step or event.step >= event.total_steps:
            return ""
        seconds = (time.monotonic() - moment) / (event.step - step) * (event.total_steps - event.step)
        return say(f", {span(seconds)} left", f"，还需 {span(seconds)}")

    def _progress(self, event: ProgressEvent) -> None:
        if not self.bars_drawn:
            self._tell(f"{event.what}: {event.done:,}/{event.total:,}")
            return
        if self.progress is None or self.what != event.what:
            if self.progress is not None:
                self.progress.close()
            self.what = event.what
            self.progress = self._bar(event.what, event.total, 0, leave=False)
        self.progress.total = event.total
        self.progress.update(event.done - self.progress.n)
        self.progress.refresh()
        if event.done >= event.total:
            self.progress.close()
            self.progress = None

    def _bar(self, what: str, total: int, start: int, leave: bool) -> "tqdm[Any]":
        from tqdm import tqdm

        return tqdm(desc=what, total=total, initial=start, leave=leave, ncols=self.columns, bar_format=BAR)

    def _tell(self, line: str, always: bool = False) -> None:
        now = time.monotonic()
        if always or now - self.told >= QUIET_SECONDS:
            self._print(line, sys.stderr)
            self.told = now

    def _print(self, text: str, stream: Any = None) -> None:
        from tqdm import tqdm

        stream = stream or sys.stdout
        # A text from outside may hold what the terminal's encoding lacks; it must not end the run.
        encoding = stream.encoding or "utf-8"
        tqdm.write(wrap(text).encode(encoding, "backslashreplace").decode(encoding), file=stream)
        stream.flush()

    def _piece(self, event: TextEvent) -> None:
        """Text as it comes, unbroken, so that it can be piped on as it is."""
        encoding = sys.stdout.encoding or "utf-8"
        piece = event.piece + ("\n" if event.last else "")
        sys.stdout.write(piece.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()

    def _result(self, event: ResultEvent) -> None:
        self.close()
        if text := event.result.get("text"):
            self._print(text)
        for value in event.result.get("jsonl", ()):
            print(json_line(value))


def evaluation_line(event: EvaluationEvent) -> str:
    """The scores on one line, the one that chooses the checkpoint first; those without room are left out."""
    split = say(
        *{"dev": ("dev", "验证集"), "test": ("test", "测试集")}.get(event.split, (event.split, event.split))
    )
    line = say(f"step {event.step}, {split}: ", f"第 {event.step} 步，{split}：")
    end = say("  (best so far)", "（目前最佳）") if event.best else ""
    names = sorted(event.scores, key=lambda name: name != event.monitor)
    comma = say(", ", "，")
    for place, name in enumerate(names):
        shown = f"{say(*SCORES.get(name, (name, name)))} {number(name, event.scores[name])}"
        longer = line + comma * (place > 0) + shown
        if place and width(longer + end) > COLUMNS:
            break
        line = longer
    return line + end


def estimate_line(event: EstimateEvent, before: EstimateEvent | None = None) -> str:
    """What a run will cost; or what it did cost, beside the estimate made ``before``."""
    cost = _cost(event)
    if not event.actual:
        return say(f"Estimate: about {cost}", f"预计：约 {cost}")
    if before is None:
        return say(f"Took {cost}", f"实际用去 {cost}")
    off = [
        f"{100 * (actual / estimated - 1):+.0f}%"
        for actual, estimated in ((event.seconds, before.seconds), (event.memory_bytes, before.memory_bytes))
        if estimated
    ]
    beside = ", ".join(off)
    return say(
        f"Took {cost} (estimated {_cost(before)}: {beside})",
        f"实际用去 {cost}（预计 {_cost(before)}：{beside}）",
    )


def _cost(event: EstimateEvent) -> str:
    if not event.memory_bytes:
        return span(event.seconds)
    parts = [span(event.seconds), size(event.memory_bytes)]
    if event.gpu_bytes:
        parts.append(say(f"{size(event.gpu_bytes)} on the GPU", f"GPU {size(event.gpu_bytes)}"))
    return say(" and ", "，").join(parts)
