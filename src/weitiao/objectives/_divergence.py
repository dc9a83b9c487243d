"""How far two passes' outputs are apart, summed over the valid targets."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.training.passes import Passes


def symmetric_kl(passes: "Passes", outputs: "Tensor", other: "Tensor") -> "Tensor":
    """KL(P || Q) + KL(Q || P) of the two distributions, a scalar.

    Classes: P and Q are softmaxes. Labels: a Bernoulli distribution a label, the mean over labels, as binary
    cross-entropy is.
    """
    from torch.nn import functional as F

    if passes.targets.ndim == 2:
        # (p - q) (logit p - logit q) is the sum of both directions for a Bernoulli distribution.
        return ((outputs.sigmoid() - other.sigmoid()) * (outputs - other)).mean(1).sum()
    a, b = (F.log_softmax(values[passes.valid], -1) for values in (outputs, other))
    return ((a.exp() - b.exp()) * (a - b)).sum()
