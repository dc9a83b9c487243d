"""The contract of a few-shot method: the settings of ``weitiao finetune`` that it stands for, and where it works.

A member trains nothing by itself. It names a tuning, an objective, a number of passes; the user's own settings go
before them. So what a method does can be read from its file and is written to the run's ``config.yaml``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Situation:
    """What there is to learn from.

    Attributes:
        rows: labelled texts.
        classes: how many classes there are.
        fewest: the texts of the smallest class.
        masked_lm: whether the model's folder holds a masked-LM head.
        causal: whether the model writes on, as Llama does.
        options: the task's settings (``template``, for one).
    """

    rows: int
    classes: int
    fewest: int
    masked_lm: bool
    causal: bool
    options: Mapping[str, Any]


class FewShot(ABC):
    """A way to learn from few labelled texts."""

    chooses: ClassVar[bool] = False  # it tries the others and takes the best
    causal: ClassVar[bool] = False  # it is for models that write on, the others are for encoders

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Settings of ``weitiao finetune``, where the user gives none."""

    def unfit(self, there: Situation) -> str:
        """Why the method cannot be used, with the way out, in the reader's language; "" where it can."""
        return ""
