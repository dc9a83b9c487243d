"""One micro-batch and the ways to send it through the model: again, with the same dropout, with moved embeddings.

An objective of one pass needs none of this. What is added to one (R-Drop, adversarial training) asks for more passes,
and all of them go through the same model, packing, precision and frozen states as the first.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from weitiao.data.encode import IGNORED
from weitiao.models.backbone import TextModel
from weitiao.models.kernels import Dropout
from weitiao.models.words import moved, word_embeddings
from weitiao.training.batches import Batch
from weitiao.training.frozen import FrozenCache

# (outputs, targets) -> the sum of losses over the valid targets
LossSum = Callable[[Tensor, Tensor], Tensor]


class Passes:
    """The passes of one micro-batch. Outputs and losses are as the objectives know them: sums over valid targets."""

    outputs: Tensor  # of the first pass, with their graph
    hidden_RD: Tensor  # what the head read in the first pass
    noise_TD: Tensor | None = (
        None  # zeros that the first pass added to the embeddings, if their gradient is wanted
    )

    def __init__(
        self,
        model: TextModel,
        batch: Batch,
        dropout: Dropout,
        autocast: Callable[[], Any],
        loss_sum: LossSum,
        frozen: FrozenCache | None = None,
    ) -> None:
        assert batch.targets is not None
        self.model, self.batch, self.dropout, self.autocast = model, batch, dropout, autocast
        self.loss_sum, self.targets = loss_sum, batch.targets
        self.start = frozen.start(batch) if frozen else {}
        self.masks: tuple[Any, Tensor] | None = None

    def first(self, *, noise: bool = False, again: bool = False) -> Tensor:
        """The pass that every objective begins with; keeps what the others need.

        Args:
            noise: the gradient of the embeddings is wanted afterwards, in ``noise_TD.grad``.
            again: a later pass will want the same dropout masks.
        """
        if again:
            self.masks = (self.dropout.bits.state, _generator(self.device))
        if noise:
            self.noise_TD = self.silence().requires_grad_()
        self.outputs, self.hidden_RD = self._run(self.noise_TD)
        return self.outputs

    def run(self, noise_TD: Tensor | None = None, *, same_dropout: bool = False) -> Tensor:
        """Outputs of a further pass, with ``noise_TD`` added to the word embeddings, ``[T, E]`` in the packed order.

        Args:
            same_dropout: draw the masks of the first pass (which has to know: ``first(again=True)``).
        """
        if not same_dropout:
            return self._run(noise_TD)[0]
        assert self.masks is not None
        bits, generator = self.masks
        with self.dropout.replay(bits), torch.random.fork_rng([] if self.device == "cpu" else None):
            _set_generator(self.device, generator)
            return self._run(noise_TD)[0]

    def slope(
        self, noise_TD: Tensor, height: Callable[[Tensor], Tensor], *, same_dropout: bool = False
    ) -> Tensor:
        """The gradient of ``height(outputs)`` by the noise of a further pass, ``[T, E]``.

        For a search: the parameters get no gradient, and kernels of our own, which would compute it unasked, don't.
        """
        noise_TD = noise_TD.detach().requires_grad_()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        try:
            for parameter in trained:
                parameter.requires_grad_(False)
            (slope_TD,) = torch.autograd.grad(height(self.run(noise_TD, same_dropout=same_dropout)), noise_TD)
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
        return slope_TD

    def loss(self, outputs: Tensor) -> Tensor:
        """The plain loss of some outputs: a sum."""
        return self.loss_sum(outputs, self.targets)

    def head(self, features_NF: Tensor) -> Tensor:
        """Outputs of features as ``features`` gives them, through the head's last layer."""
        assert self.model.head.linear is not None
        return self.model.head.linear(features_NF)

    @property
    def features(self) -> Tensor:
        """What the head's last layer saw in the first pass, before dropout, ``[N, F]`` in fp32."""
        return self.model.head.features(self.hidden_RD, self.batch.packed)

    @property
    def valid(self) -> Tensor:
        """Which of the targets count, bool ``[N]``."""
        if self.targets.ndim == 1 and not self.targets.is_floating_point():
            return self.targets != IGNORED
        return torch.ones(len(self.targets), dtype=torch.bool, device=self.targets.device)

    def silence(self) -> Tensor:
        """A perturbation of zeros, fp32 ``[T, E]``: tokens by the size of a word embedding."""
        table = word_embeddings(self.model.backbone).weight
        return torch.zeros(self.batch.tokens, table.shape[1], device=table.device)

    @property
    def device(self) -> str:
        """``cpu`` or another device."""
        return self.targets.device.type

    def _run(self, noise_TD: Tensor | None) -> tuple[Tensor, Tensor]:
        batch = self.batch
        with ExitStack() as stack:
            if noise_TD is not None:
                stack.enter_context(moved(self.model.backbone, batch.packed, noise_TD))
            stack.enter_context(self.autocast())
            hidden_RD = self.model.hidden(batch.packed, batch.marks_T, self.dropout, **self.start)
            outputs = self.model.outputs(hidden_RD, batch.packed, self.dropout)
        # One of several texts an example: in the examples' order; but not where tokens have outputs of their own.
        whole = batch.order.shape[1] > 1 and len(outputs) == batch.order.numel()
        return (outputs[batch.order] if whole else outputs), hidden_RD


def plain(passes: Passes) -> Iterator[Tensor]:
    """The losses of an objective of one pass."""
    yield passes.loss(passes.first())


def _generator(device: str) -> Tensor:
    return torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state()


def _set_generator(device: str, state: Tensor) -> None:
    torch.set_rng_state(state) if device == "cpu" else torch.cuda.set_rng_state(state)
