"""The contract of a tuning method.

A member is a dataclass whose ``option`` fields are settings. ``apply`` decides what is trained; the contract tests
check that just those parameters move, that a saved model predicts as before, and that a resumed run ends the same.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from weitiao.core import catalogue
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.training.hooks import Hooks

if TYPE_CHECKING:
    from weitiao.models.backbone import TextModel


class Tuning(Hooks, ABC):
    """How a model is adapted. What it may do during training: see ``training.hooks``."""

    learning_rate: ClassVar[float]  # the default, where the user gives none
    # The new head's own rate, where the user gives neither this one nor ``learning_rate``; None: as the rest.
    head_learning_rate: ClassVar[float | None] = None
    num_epochs: ClassVar[int] = 3  # the default; 0: the head is fitted, nothing is trained step by step
    saves_adapter: ClassVar[bool] = False  # the model folder holds an adapter instead of the backbone
    merges: ClassVar[bool] = False  # what it adds can go into the backbone's own weights
    opens_in_peft: ClassVar[bool] = False  # ``peft`` opens its folder
    base_in_peft: ClassVar[tuple[str, str]] = ("the base model", "基座模型")  # over this
    needs_gpu: ClassVar[bool] = False  # to train, in one process

    def check(self) -> None:
        """Refuse what cannot be trained here, before anything is read.

        Raises:
            WeitiaoError: names the methods that can.
        """

    @abstractmethod
    def apply(self, model: "TextModel") -> None:
        """Mark what is trained (``requires_grad``) and put in what is added."""

    def pack(self, model: "TextModel") -> None:
        """Hold frozen weights in less memory while the model is trained; it is about to go to its device."""

    def unpack(self, model: "TextModel") -> None:
        """Undo ``pack`` after training."""

    def save_adapter(self, model: "TextModel", folder: Path, base: str) -> None:
        """Write the adapter's files; only for methods that save one."""

    def load_adapter(self, model: "TextModel", folder: Path) -> None:
        """Read the adapter's files into a model that ``apply`` was called on."""

    def merge(self, model: "TextModel") -> None:
        """Put what was added into the backbone's own weights, which then has its plain shape.

        Raises:
            WeitiaoError: the method adds what weights of that shape cannot hold.
        """
        if self.saves_adapter:
            name = type(self).__module__.rsplit(".", 1)[-1]
            able = ", ".join(n for n in catalogue.members("tuning") if catalogue.member("tuning", n).merges)
            raise WeitiaoError(
                say(
                    f"A model tuned with {name} cannot be merged into its base model's weights. These can: {able}; "
                    "full, head and bitfit have nothing to merge",
                    f"用 {name} 微调的模型无法合并进基座模型的权重。可以合并的方法：{able}；full、head 与 bitfit 无需合并",
                )
            )


def freeze(model: "TextModel") -> None:
    """Freeze the backbone, leave the head trainable."""
    for parameter in model.backbone.parameters():
        parameter.requires_grad_(False)
    for parameter in model.head.parameters():
        parameter.requires_grad_(True)
