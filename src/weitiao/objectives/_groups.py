"""What the objectives that look at groups of examples share: the column that names them, and their numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.data.columns import GROUP
from weitiao.objectives.base import Addition

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from weitiao.training.passes import Passes


@dataclass
class Grouped(Addition):
    """An addition that needs each training example's group. It compares them, so its steps are kept whole."""

    group_column: str = option(
        "",
        "the training table's column that says which group (source, dialect, gender ...) a text is of",
        "训练表中标明每条文本所属分组（来源、方言、性别……）的列",
    )
    counts: dict[str, int] = field(
        default_factory=dict
    )  # training examples by group, in the order of first sight

    fits = ("classes", "labels")
    heads = ("pooled", "marker")
    compares_examples = True

    def check(self) -> None:
        if not self.group_column:
            name = type(self).__module__.rsplit(".", 1)[-1]
            raise WeitiaoError(
                say(
                    f"{name} compares groups of texts: name the column that holds them with --group-column",
                    f"{name} 要比较不同分组的文本：请用 --group-column 指定表示分组的列",
                )
            )

    def facts(
        self, texts: Sequence[str], groups: Sequence[str], names: Sequence[str]
    ) -> "dict[str, np.ndarray]":
        import numpy as np

        for group in groups:
            self.counts[group] = self.counts.get(group, 0) + 1
        number = {group: i for i, group in enumerate(self.counts)}
        return {GROUP: np.array([number[group] for group in groups], np.int64)}

    def prepare(self, targets: "Tensor", classes: int) -> None:
        shown = [f"{group or '(empty)'} {count:,}" for group, count in self.counts.items()]
        if len(shown) < 2:
            raise WeitiaoError(
                say(
                    f"The column '{self.group_column}' holds one group alone ({', '.join(shown)}): nothing to compare",
                    f"列“{self.group_column}”中只有一个分组（{', '.join(shown)}），无从比较",
                )
            )
        more = " ..." if len(shown) > 8 else ""
        self.note = say(
            f"{len(shown)} groups in '{self.group_column}': {', '.join(shown[:8])}{more}",
            f"“{self.group_column}”中有 {len(shown)} 个分组：{'，'.join(shown[:8])}{more}",
        )


def parts_of(groups_N: "Tensor") -> "dict[int, Tensor]":
    """Which examples are of each group that occurs among these, bool ``[N]``, by the group's number."""
    return {int(number): groups_N == number for number in groups_N.unique()}


def mean_losses(passes: "Passes", outputs: "Tensor") -> "dict[int, Tensor]":
    """The mean loss over each group's examples in the micro-batch, which is a whole step."""
    parts = parts_of(passes.batch.facts[GROUP])
    return {g: passes.loss_sum(outputs[part], passes.targets[part]) / part.sum() for g, part in parts.items()}
