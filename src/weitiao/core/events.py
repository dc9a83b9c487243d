"""What a stage tells its consumers: a stream of small typed events.

The recorder, the progress bar, TensorBoard, W&B and early stopping all read this stream; none of them is
called by the training loop. An event serialises to one JSON line (``events.jsonl``).
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """The base of all events."""

    def as_json(self) -> dict[str, Any]:
        """``{"event": <class name without 'Event'>, ...fields}``."""
        return {"event": type(self).__name__.removesuffix("Event").lower(), **dataclasses.asdict(self)}


@dataclass(frozen=True)
class NoteEvent(Event):
    """A line for people. ``level`` is ``info`` or ``warning``."""

    text: str
    level: str = "info"


@dataclass(frozen=True)
class TextEvent(Event):
    """A piece of a text as it is being written; ``last``: the text ends with it."""

    piece: str
    last: bool = False


@dataclass(frozen=True)
class ProgressEvent(Event):
    """``done`` of ``total`` units of something that may take more than two seconds."""

    what: str
    done: int
    total: int


@dataclass(frozen=True)
class EstimateEvent(Event):
    """What the run will cost, said before its first step; and, with ``actual``, what it did cost.

    ``gpu_bytes`` is memory of a GPU, where there is one.
    """

    memory_bytes: int
    seconds: float
    actual: bool = False
    gpu_bytes: int = 0


@dataclass(frozen=True)
class StepEvent(Event):
    """One optimizer step. ``loss`` is the mean over the step's valid targets; tokens without padding."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    tokens_per_second: float


@dataclass(frozen=True)
class EvaluationEvent(Event):
    """Scores on a split after ``step``. ``monitor`` chooses the best checkpoint (higher is better)."""

    step: int
    split: str
    scores: dict[str, float]
    monitor: str
    best: bool = False


@dataclass(frozen=True)
class CheckpointEvent(Event):
    """A complete checkpoint now lies at ``path``."""

    step: int
    path: str


@dataclass(frozen=True)
class ResultEvent(Event):
    """The last event of a stage: what it made."""

    output: str
    result: dict[str, Any] = field(default_factory=dict)
