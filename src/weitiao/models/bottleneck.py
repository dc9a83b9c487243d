"""A bottleneck adapter round a dense layer: down, an activation, up, and what came in added again."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weitiao.models.kernels import Linear

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu, "tanh": torch.tanh}


class Bottleneck(nn.Module):
    """``y + up(activation(down(y)))`` with y the dense layer's output. It begins as the layer alone: ``up`` is 0."""

    def __init__(self, base_layer: nn.Linear, size: int, activation: str) -> None:
        super().__init__()
        width = base_layer.out_features
        self.base_layer, self.activation = base_layer, ACTIVATIONS[activation]
        self.adapter = nn.ModuleDict({"down": Linear(width, size), "up": Linear(size, width)})
        nn.init.normal_(self.adapter["down"].weight, std=width**-0.5)
        for zero in (self.adapter["down"].bias, self.adapter["up"].weight, self.adapter["up"].bias):
            nn.init.zeros_(zero)

    def forward(self, x_TI: Tensor) -> Tensor:
        """``[T, I]`` to ``[T, width]``."""
        y_TD = self.base_layer(x_TI)
        return y_TD + self.adapter["up"](self.activation(self.adapter["down"](y_TD)))
