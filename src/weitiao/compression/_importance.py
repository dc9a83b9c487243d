"""How much the loss feels a unit: |sum over a text's tokens of activation x gradient|, averaged over texts.

It is the first-order estimate of what removing the unit would do to the loss (Molchanov et al. 2017, for neurons;
Michel et al. 2019, "Are Sixteen Heads Really Better than One?", equation 2, for heads, whose gate's gradient it is).
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from weitiao.compression.base import Subject
from weitiao.core.catalogue import member
from weitiao.core.events import Event, ProgressEvent
from weitiao.core.messages import say
from weitiao.data.encode import Ragged
from weitiao.training.batches import Batches, in_order

ROWS = 512  # a first-order estimate over more rows ranks units no differently


def importances(
    subject: Subject, pick: Callable[[nn.Module], nn.Module], unit: int
) -> Iterator[Event | list[Tensor]]:
    """The importance of the units that go into one linear layer of each layer; the last item is the result.

    Args:
        pick: a layer of the encoder -> the linear module whose inputs are looked at.
        unit: how many neighbouring inputs make a unit (1 for neurons, a head's width for heads).

    Returns:
        for each layer ``[units]``.
    """
    model, encoded = subject.model, subject.labelled(ROWS)
    modules = [pick(layer) for layer in subject.encoder.encoder["layer"]]
    objective = member("objectives", subject.task.objective(subject.answers))()
    targets = encoded.targets.values if isinstance(encoded.targets, Ragged) else encoded.targets
    objective.prepare(
        torch.as_tensor(targets), subject.model.head.linear.out_features if subject.model.head.linear else 0
    )
    batches = Batches(encoded, 32, subject.seed, first_position=model.first_position)
    found = [torch.zeros(module.in_features // unit) for module in modules]
    groups = list(in_order(encoded))
    for number, rows in enumerate(groups):
        yield ProgressEvent(say("weighing parts", "衡量各部分的重要性"), number, len(groups))
        batch = batches.batch(rows)
        for total, score_BU in zip(found, _scores(model, objective, modules, batch, unit), strict=True):
            total += score_BU.abs().sum(0)
    yield ProgressEvent(say("weighing parts", "衡量各部分的重要性"), len(groups), len(groups))
    yield [total / len(encoded) for total in found]


def _scores(model: Any, objective: Any, modules: list[nn.Module], batch: Any, unit: int) -> Iterator[Tensor]:
    """Activation x gradient, summed over each text's tokens and each unit's inputs, ``[B, units]`` a module."""
    seen: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen[module] = inputs[0] if inputs[0].requires_grad else inputs[0].detach().requires_grad_()
        return (seen[module],)

    hooks = [module.register_forward_pre_hook(keep) for module in modules]
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            outputs = model(batch.packed, batch.marks_T)
            outputs = outputs[batch.order] if batch.order.shape[1] > 1 else outputs
            loss = objective.loss_sum(outputs, batch.targets)
            grads = torch.autograd.grad(loss, [seen[module] for module in modules])
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    rows_R = model.head.rows(batch.packed, batch.marks_T)  # all that the last layer computes
    for module, grad_TI in zip(modules, grads, strict=True):
        owner_T = batch.packed.owner_T
        if rows_R is not None and len(grad_TI) == len(rows_R):
            owner_T = owner_T[rows_R]
        product_TU = (seen[module].detach() * grad_TI).view(len(grad_TI), -1, unit).sum(-1)
        total_BU = product_TU.new_zeros(len(batch.packed.lengths_B), product_TU.shape[1])
        yield total_BU.index_add(0, owner_T, product_TU)
