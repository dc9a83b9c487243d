"""The losses of a distillation, looked up by the numbers of the texts in a micro-batch."""

from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weitiao.compression._relations import relation_loss
from weitiao.compression._signals import Signals, Watch
from weitiao.compression.base import Subject
from weitiao.models.heads import EmbeddingHead, TokenHead
from weitiao.models.packed import Packed

RELATION_HEADS = 12


class Lesson:
    """``loss_sum(outputs, numbers)`` for the training loop. ``projections`` have to be trained too.

    Args:
        layers: the student's layers whose states are compared with the teacher's, in the order of the signals.
        weights: of the outputs, the hidden states and the relations.
    """

    def __init__(
        self,
        subject: Subject,
        signals: Signals,
        layers: list[int],
        relations: bool,
        weights: tuple[float, float, float],
        temperature: float,
    ) -> None:
        self.subject, self.signals, self.relations = subject, signals, relations
        self.weights, self.temperature, self.states = weights, temperature, len(layers)
        student = subject.model
        size = student.backbone.shape.hidden_size
        self.projections = nn.ModuleList(
            nn.Identity() if theirs == size else nn.Linear(size, theirs)
            for theirs in signals.sizes[: self.states]
        )
        self.watch = Watch(student.backbone, layers) if layers or relations else None

    def close(self) -> None:
        """Stop watching the student."""
        if self.watch is not None:
            self.watch.close()

    def loss_sum(self, outputs: Tensor, numbers_B: Tensor) -> Tensor:
        """The sum over texts of the weighted losses."""
        rows = numbers_B.numpy()
        outputs_weight, hidden_weight, relation_weight = self.weights
        loss = outputs.new_zeros(())
        if outputs_weight:
            loss = loss + outputs_weight * self._outputs(outputs, self.signals.output(rows), rows)
        if self.watch is None:
            return loss
        packed = self.watch.packed
        theirs = self.signals.state(rows)
        pairs = zip(self.projections, self.watch.hidden(), theirs, strict=False)
        for projection, ours_TD, theirs_TD in pairs:
            loss = loss + hidden_weight / self.states * _state_loss(
                projection(ours_TD.float()), theirs_TD, packed
            )
        if self.relations:
            for ours, given in zip(self.watch.relations(), theirs[self.states :], strict=True):
                heads = gcd(gcd(ours.shape[1], given.shape[1]), RELATION_HEADS)
                loss = loss + relation_weight / 3 * relation_loss(ours, given, packed, heads)
        return loss

    def _outputs(self, ours: Tensor, theirs: Tensor, rows: Any) -> Tensor:
        head, kind, t = self.subject.model.head, self.subject.answers.kind, self.temperature
        if isinstance(head, EmbeddingHead):  # [B, 2, D], the sizes may differ: how alike are the two texts?
            return ((ours[:, 0] * ours[:, 1]).sum(-1) - (theirs[:, 0] * theirs[:, 1]).sum(-1)).pow(2).sum()
        if kind == "values":
            return (ours - theirs).pow(2).sum()
        if kind == "labels":
            soft = torch.sigmoid(theirs / t)
            return t * t * F.binary_cross_entropy_with_logits(ours / t, soft, reduction="none").mean(-1).sum()
        kl = F.kl_div(
            (ours / t).log_softmax(-1), (theirs / t).log_softmax(-1), reduction="none", log_target=True
        )
        each = t * t * kl.sum(-1)
        if not isinstance(head, TokenHead):
            return each.sum()
        lengths_B = torch.as_tensor(self.signals.offsets[rows + 1] - self.signals.offsets[rows])
        return (each / torch.repeat_interleave(lengths_B, lengths_B)).sum()


def _state_loss(ours_TD: Tensor, theirs_TD: Tensor, packed: Packed) -> Tensor:
    """Sum over texts of the mean squared difference of a text's states, in units of the teacher's mean square."""
    each_T = (ours_TD - theirs_TD).pow(2).mean(-1) / theirs_TD.pow(2).mean().clamp_min(1e-6)
    return (each_T / packed.lengths_B[packed.owner_T]).sum()
