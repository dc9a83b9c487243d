"""Perturbations of the words' embeddings, each text with a norm of its own: packing and cutting change nothing.

Shapes: T tokens of a micro-batch, E the size of a word embedding, B texts.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.training.passes import Passes


def norms(passes: "Passes", noise_TE: "Tensor") -> "Tensor":
    """The Euclidean norm of each text's perturbation, ``[T, 1]``: at every token that of its text."""
    packed = passes.batch.packed
    squares_B = noise_TE.new_zeros(len(packed.lengths_B)).index_add(0, packed.owner_T, noise_TE.pow(2).sum(1))
    return squares_B.sqrt()[packed.owner_T].unsqueeze(1)


def largest(passes: "Passes", noise_TE: "Tensor") -> "Tensor":
    """The largest absolute number in each text's perturbation, above 0, ``[T, 1]``."""
    import torch

    packed, most_T = passes.batch.packed, noise_TE.abs().amax(1)
    most_B = most_T.new_zeros(len(packed.lengths_B)).scatter_reduce(0, packed.owner_T, most_T, "amax")
    return most_B[packed.owner_T].clamp_min(torch.finfo(most_T.dtype).tiny).unsqueeze(1)


def along(passes: "Passes", gradient_TE: "Tensor") -> "Tensor":
    """The gradient scaled to norm 1 in each text; zeros where a text has none."""
    # In two steps: squares of small numbers (a step's loss is divided by its targets) would underflow to 0.
    scaled = gradient_TE / largest(passes, gradient_TE)
    return scaled / norms(passes, scaled).clamp_min(1e-6)


def within(passes: "Passes", noise_TE: "Tensor", epsilon: float) -> "Tensor":
    """The nearest perturbation whose norm is at most ``epsilon`` in every text."""
    import torch

    longest = norms(passes, noise_TE).clamp_min(torch.finfo(noise_TE.dtype).tiny)
    return noise_TE * (epsilon / longest).clamp_max(1.0)


def gradient(noise_TE: "Tensor | None") -> "Tensor":
    """What the backward pass left in a perturbation.

    Raises:
        RuntimeError: the pass did not go through the embeddings.
    """
    if noise_TE is None or noise_TE.grad is None:
        raise RuntimeError("the embeddings have no gradient: did the pass begin above them?")
    return noise_TE.grad
