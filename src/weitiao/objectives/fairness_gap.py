"""Groups should get the same answers equally often / 不同分组得到同一答案的比例应相同（公平性差距惩罚，附加项）.

Sources: demographic parity as in Calders et al. 2009, "Building Classifiers with Independency Constraints"; equalised
odds as in Hardt et al. 2016, "Equality of Opportunity in Supervised Learning". Rates are means of probabilities, which
have a gradient; the gap is the largest rate of a group less the smallest, the mean over classes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.data.columns import GROUP
from weitiao.objectives._groups import Grouped, parts_of

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.training.passes import Passes


@dataclass
class FairnessGap(Grouped):
    """The gap within each step, times its texts: steps of few texts measure it badly, take --batch-size 32 or more."""

    fairness_kind: str = option(
        "demographic_parity",
        "equal rates of each answer, or equal among texts of the same true answer (equalised_odds)",
        "各答案的比例相同，或在真实答案相同的文本中比例相同（equalised_odds）",
        choices=("demographic_parity", "equalised_odds"),
    )

    def term(self, passes: "Passes") -> "Tensor":
        groups_N, targets = passes.batch.facts[GROUP], passes.targets
        several = targets.ndim == 2
        p_NC = passes.outputs.sigmoid() if several else passes.outputs.softmax(-1)
        if self.fairness_kind == "demographic_parity":
            gaps = [_gap(p_NC, groups_N)]
        elif several:
            columns = [(p_NC[:, [c]], targets[:, c] == yes) for c in range(p_NC.shape[1]) for yes in (0, 1)]
            gaps = [_gap(p_N1[true], groups_N[true]) for p_N1, true in columns]
        else:
            gaps = [_gap(p_NC[targets == c], groups_N[targets == c]) for c in targets.unique()]
        found = [gap for gap in gaps if gap is not None]
        return len(targets) * sum(found) / max(len(found), 1) if found else p_NC.sum() * 0


def _gap(p_NC: "Tensor", groups_N: "Tensor") -> "Tensor | None":
    """How far the groups' mean probabilities lie apart, the mean over classes; None of fewer than two groups."""
    import torch

    parts = parts_of(groups_N).values()
    if len(parts) < 2:
        return None
    rates_GC = torch.stack([p_NC[part].mean(0) for part in parts])
    return (rates_GC.amax(0) - rates_GC.amin(0)).mean()
