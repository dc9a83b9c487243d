"""The contract of a tuning method.

A member is a dataclass whose ``option`` fields are settings. ``apply`` decides what is trained; the contract tests
check that just those parameters move, that a saved model predicts as before, and that a resumed run ends the same.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from weitiao.models.backbone import TextModel


class Tuning(ABC):
    """How a model is adapted."""

    learning_rate: ClassVar[float]  # the default, where the user gives none
    num_epochs: ClassVar[int] = 3  # the default; 0: the head is fitted, nothing is trained step by step
    saves_adapter: ClassVar[bool] = False  # the model folder holds an adapter instead of the backbone

    @abstractmethod
    def apply(self, model: "TextModel") -> None:
        """Mark what is trained (``requires_grad``) and put in what is added."""

    def save_adapter(self, model: "TextModel", folder: Path, base: str) -> None:  # noqa: B027 (optional)
        """Write the adapter's files; only for methods that save one."""

    def load_adapter(self, model: "TextModel", folder: Path) -> None:  # noqa: B027 (optional)
        """Read the adapter's files into a model that ``apply`` was called on."""


def freeze(model: "TextModel") -> None:
    """Freeze the backbone, leave the head trainable."""
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    for parameter in model.head.parameters():
        parameter.requires_grad_(True)
