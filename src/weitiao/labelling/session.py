"""One annotator's way through a project: which text comes next, what an answer does, when the head is fitted anew."""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.labelling.learner import Learner, accuracy
from weitiao.labelling.project import CHECK, RANDOM, Given, Journal, Project, append
from weitiao.selection.base import Selection

ENOUGH = 10  # labels drawn each way, from which on the two ways are compared


@dataclass
class Texts:
    """The rows to label: their numbers as a person counts, what of them is shown, and those of the columns."""

    numbers: list[int]
    shown: list[str]
    cells: list[dict[str, str]]

    def __post_init__(self) -> None:
        self.place = {number: place for place, number in enumerate(self.numbers)}

    def __len__(self) -> int:
        return len(self.numbers)

    def by_number(self) -> dict[int, dict[str, str]]:
        """The cells by row number."""
        return dict(zip(self.numbers, self.cells, strict=True))


@dataclass
class Settings:
    """How texts are drawn: by a selection; a share at random; a share that another annotator has answered."""

    selection: Selection
    strategy: str
    retrain_every: int = 20
    random_share: float = 0.2
    overlap: float = 0.2
    suggest: bool = False


@dataclass
class Scored:
    """Rows whose labels are known, to score heads on."""

    features_NF: np.ndarray
    labels_N: np.ndarray


@dataclass
class Session:
    """Safe to use from several threads."""

    project: Project
    journal: Journal
    texts: Texts
    labels: list[str]
    learner: Learner
    settings: Settings
    test: Scored | None = None
    label_key: str = "label"
    rounds: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.queue: np.ndarray
        self.fitted_at: int
        self.queue = np.empty(0, np.int64)  # what was chosen, the first to label first
        self.fitted_at = 0  # answers that this annotator had given then
        self.fit()

    # --- what comes next

    def upcoming(self, count: int) -> list[tuple[int, str]]:
        """The next places to label and how each was drawn; fewer where the table ends."""
        with self.lock:
            mine = {self.texts.place[row] for row in self.journal.answers}
            found: list[tuple[int, str]] = []
            while len(found) < count:
                taken = mine | {place for place, _ in found}
                drawn = self._draw(len(self.journal.done) + len(found), taken)
                if drawn is None:
                    break
                found.append(drawn)
            return found

    def _draw(self, number: int, taken: set[int]) -> tuple[int, str] | None:
        if _due(number, self.settings.overlap):
            for place in self.theirs:
                if place not in taken:
                    return place, CHECK
        at_random = _due(number, self.settings.random_share)
        ways = [(self.shuffled, RANDOM), (self.queue, self.settings.strategy)]
        for places, drawn in ways if at_random else ways[::-1]:
            for place in places:
                if place not in taken and place not in self.answered:
                    return place, drawn
        return None

    # --- what an annotator does

    def answer(self, row: int, label: str, note: str = "", seconds: float = 0.0, drawn: str = "") -> None:
        """Keep an answer; an empty label passes the text.

        Raises:
            WeitiaoError: no such row or label.
        """
        with self.lock:
            self.check(row, label)
            if not drawn:
                place = self.texts.place[row]
                drawn = next((how for at, how in self.upcoming(1) if at == place), "")
            self.keep(row, label, note, drawn, seconds)
            if len(self.journal.done) - self.fitted_at >= self.settings.retrain_every:
                self.fit()

    def keep(self, row: int, label: str, note: str, drawn: str, seconds: float = 0.0) -> None:
        """Keep an answer that was checked; the head is not fitted."""
        self.journal.add(Given(row, label, note, drawn, round(seconds, 1)))
        self.answered.add(self.texts.place[row])

    def check(self, row: int, label: str) -> None:
        """Raise ``WeitiaoError`` where there is no such row or label."""
        if row not in self.texts.place:
            raise WeitiaoError(say(f"The table has no row {row}", f"表中没有第 {row} 行"))
        if label and label not in self.labels:
            from weitiao.core.errors import unknown_name

            raise unknown_name(say("label", "标签"), label, self.labels)

    def undo(self) -> None:
        """Take the last answer back; that text comes again."""
        with self.lock:
            given = self.journal.undo()
            if given is not None:
                place = self.texts.place[given.row]
                self.answered = self._answered()
                self.queue = np.concatenate([[place], self.queue[self.queue != place]])
                self.fitted_at = min(self.fitted_at, len(self.journal.done))

    # --- fitting

    def fit(self) -> dict[str, Any]:
        """Fit the head to all labels, rank what is left, and keep a line about it in ``rounds.jsonl``."""
        with self.lock:
            self.answered = self._answered()
            by = self.project.by_annotator()
            me = self.journal.path.stem
            self.theirs = sorted({self.texts.place[r] for n, given in by.items() if n != me for r in given})
            random = np.random.default_rng(self.learner.seed)
            self.shuffled = random.permutation(len(self.texts))
            known = self._classes()
            self.head = self.learner.fit(known)
            left = np.array([p for p in range(len(self.texts)) if p not in self.answered], np.int64)
            count = max(self.settings.retrain_every, 1) * 2
            self.queue = self.learner.choose(self.settings.selection, known, left, count, len(known))
            self.fitted_at = len(self.journal.done)
            entry: dict[str, Any] = {"labels": len(known), "annotator": me, **self._scores(known)}
            if self.journal.done and (not self.rounds or self.rounds[-1]["labels"] != len(known)):
                entry["time"] = time.strftime("%Y-%m-%dT%H:%M:%S")
                append(self.project.folder / "rounds.jsonl", entry)
            self.rounds.append(entry)
            return entry

    def _scores(self, known: dict[int, int]) -> dict[str, Any]:
        """The score on the test rows, and what choosing gained over drawing at random, at equal labels."""
        if self.test is None:
            return {}
        test = self.test.features_NF, self.test.labels_N
        found: dict[str, Any] = {"score": accuracy(self.head, *test)}
        ways: dict[bool, list[int]] = {True: [], False: []}
        for name in self.project.annotators():
            journal = self.journal if name == self.journal.path.stem else self.project.journal(name)
            for given in journal.answers.values():
                place = self.texts.place[given.row]
                if place in known and given.drawn not in ("", CHECK):
                    ways[given.drawn == RANDOM].append(place)
        each = min(map(len, ways.values()))
        if each >= ENOUGH:
            at_random, chosen = (
                accuracy(self.learner.fit(known, ways[way][:each]), *test) for way in (True, False)
            )
            found |= {"labels_each": each, "chosen": chosen, "random": at_random, "gain": chosen - at_random}
        return found

    def _answered(self) -> set[int]:
        """The places that anyone has answered or passed."""
        everyone = [self.journal, *(self.project.journal(name) for name in self.project.annotators())]
        return {self.texts.place[row] for journal in everyone for row in journal.answers}

    def _classes(self) -> dict[int, int]:
        """The class of each labelled place."""
        number = {name: i for i, name in enumerate(self.labels)}
        return {
            self.texts.place[row]: number[label] for row, label in self.project.settled_labels()[0].items()
        }

    # --- for the page

    def state(self) -> dict[str, Any]:
        """All that the page shows."""
        with self.lock:
            drawn = self.upcoming(1)
            answers = self.journal.answers
            last = self.rounds[-1]
            found: dict[str, Any] = {
                "labels": self.labels,
                "annotator": self.journal.path.stem,
                "done": len(self.journal.labels),
                "passed": sum(not given.label for given in answers.values()),
                "total": len(self.texts),
                "until_fit": max(self.settings.retrain_every - len(self.journal.done) + self.fitted_at, 0),
                "can_undo": bool(self.journal.done),
                "score": last.get("score"),
                "gain": last.get("gain"),
                "item": None,
            }
            if drawn:
                place, how = drawn[0]
                found["item"] = {
                    "row": self.texts.numbers[place],
                    "text": self.texts.shown[place],
                    "check": how == CHECK,
                    "suggestion": self._suggestion(place),
                }
            return found

    def _suggestion(self, place: int) -> dict[str, Any] | None:
        if not self.settings.suggest or self.head is None:
            return None
        p_C = self.head.probabilities(self.learner.features_NF[[place]])[0]
        return {"label": self.labels[int(p_C.argmax())], "score": float(p_C.max())}


def _due(number: int, share: float) -> bool:
    """Whether the ``number``-th text (from 0) is one of a share spread evenly."""
    return int((number + 1) * share + 1e-9) > int(number * share + 1e-9)


def shares_text(rounds: Sequence[dict[str, Any]]) -> str:
    """The last round for people."""
    last = rounds[-1] if rounds else {}
    if last.get("score") is None:
        return ""
    score = f"{100 * last['score']:.1f}%"
    if last.get("gain") is None:
        return say(f"accuracy on the test rows: {score}", f"测试集准确率 {score}")
    each, gain = last["labels_each"], f"{100 * last['gain']:+.1f}"
    return say(
        f"accuracy on the test rows: {score}; at {each} labels each, chosen texts give {gain} points over random ones",
        f"测试集准确率 {score}；各用 {each} 个标签时，选取的文本比随机文本高 {gain} 个百分点",
    )
