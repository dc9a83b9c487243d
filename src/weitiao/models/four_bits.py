"""Frozen weights in 4 bits: the NormalFloat grid that they are rounded to, and layers that hold them so on a GPU.

Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", sections 3 and E. A block of 64 weights
is divided by its largest, and each quotient goes to the nearest of 16 quantiles of a normal distribution. Rounding
needs torch alone: so a trained adapter meets the same weights on any machine as it met in training.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

BLOCK = 64
LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip


def rounded(weight_OI: Tensor) -> Tensor:
    """The weights that 4 bits can hold nearest to these, in fp32. What is rounded already stays as it is."""
    flat = weight_OI.detach().float().flatten()
    blocks = torch.cat([flat, flat.new_zeros(-len(flat) % BLOCK)]).view(-1, BLOCK)
    largest = blocks.abs().amax(1, keepdim=True)
    levels = torch.tensor(LEVELS, device=flat.device)
    places = torch.bucketize(blocks / largest.clamp_min(1e-30), (levels[1:] + levels[:-1]) / 2)
    return (levels[places] * largest).flatten()[: len(flat)].view(weight_OI.shape)


class FourBits(nn.Module):
    """A frozen linear layer whose weights, ``rounded`` before, ``bitsandbytes`` holds in 4 bits once it is on a GPU.

    The bias stays apart: that package would cast it in place.
    """

    def __init__(self, layer: nn.Linear) -> None:
        from bitsandbytes.nn import Linear4bit

        super().__init__()
        settings = {"bias": False, "compress_statistics": False, "quant_type": "nf4"}
        self.held = Linear4bit(layer.in_features, layer.out_features, **settings)
        self.held.load_state_dict({"weight": layer.weight.data})
        self.bias = layer.bias

    def forward(self, x_TI: Tensor) -> Tensor:
        """``[T, I]`` to ``[T, O]``, in the type that autocast computes in, where it is on."""
        device = x_TI.device.type
        if torch.is_autocast_enabled(device):
            x_TI = x_TI.to(torch.get_autocast_dtype(device))
        y_TO = self.held(x_TI)
        return y_TO if self.bias is None else y_TO + self.bias.to(y_TO.dtype)

    def plain(self, like: type[nn.Linear]) -> nn.Linear:
        """The layer with its weights in fp32 again."""
        from bitsandbytes.functional import dequantize_4bit

        weight = self.held.weight
        layer = like(weight.quant_state.shape[1], weight.quant_state.shape[0], bias=False, device="meta")
        layer.weight = nn.Parameter(
            dequantize_4bit(weight.data, weight.quant_state).float(), requires_grad=False
        )
        layer.bias = self.bias
        return layer


def swap(model: nn.Module, kind: type[nn.Module], other: Callable[[Any], nn.Module]) -> None:
    """Put another module in the place of each of a kind, in place."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, kind):
                setattr(module, name, other(child))
