"""What additions that compare the texts of a step ask of the training table."""

from typing import TYPE_CHECKING

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say

if TYPE_CHECKING:
    from torch import Tensor


def need_two_classes(name: str, targets: "Tensor") -> None:
    """Refuse a table of one class.

    Raises:
        WeitiaoError: there is nothing to compare.
    """
    if len(targets.unique()) < 2:
        raise WeitiaoError(
            say(
                f"{name} needs texts of two classes or more: the training table has one",
                f"{name} 需要至少两个类别，而训练表中只有一个",
            )
        )
