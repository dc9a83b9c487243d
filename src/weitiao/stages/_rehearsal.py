"""A run beside a run: trained on some of its rows and kept in memory, to learn something for the run itself."""

from typing import TYPE_CHECKING, Any

from weitiao.data.encode import Encoded
from weitiao.stages._prepare import Prepared

if TYPE_CHECKING:
    from weitiao.stages._training import Training


def understudy(run: "Training", config: Any, encoded: Encoded) -> "Training":
    """A run of these settings that has learnt from ``encoded`` with the model and tokenizer of ``run``.

    It writes nothing, holds nothing out and says nothing.
    """
    other = type(run)(config, run.folder)
    for name in ("source", "tokenizer", "threads", "answers"):
        setattr(other, name, getattr(run, name))
    other.data = Prepared({}, {}, run.answers, encoded={"train": encoded})
    for _ in other.rehearse():
        pass
    return other
