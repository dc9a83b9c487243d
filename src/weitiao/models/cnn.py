"""A small convolutional network: the first lesson.

A convolution slides one small filter over the whole picture, so an edge is found wherever it is: few weights, and a
shifted digit gives a shifted answer. Two convolutions, then keep the strongest answer of each 2 x 2 square: the
picture halves, and each point sees twice as far. After three such blocks 28 x 28 pixels have become 3 x 3 points that
each know a good part of the digit; one linear layer (the head) reads the classes off them.

Shapes: B pictures, C channels, H x W pixels, D features.
"""

from typing import Any

import torch
from torch import Tensor, nn

from weitiao.models.images import Images, ImageShape, averaged, centred
from weitiao.models.kernels import Dropout

BLOCKS = 3


class Block(nn.Module):
    """conv 3x3 -> norm -> relu, twice; then the largest of each 2 x 2 square. ``[B, C, H, W] -> [B, C', H/2, W/2]``."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        # No bias: the normalisation that follows has its own.
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = torch.relu(self.norm1(self.conv1(x_BCHW)))
        x_BCHW = self.norm2(self.conv2(x_BCHW))
        # relu(largest) = largest of relu: the same, over a quarter of the points.
        return torch.relu(nn.functional.max_pool2d(x_BCHW, 2))


class Cnn(nn.Module):
    """Pictures to features ``[B, D]``: three blocks of growing width, flattened.

    Args:
        config: ``image_size``, ``channels``, ``width`` (channels of the first block; each next has twice as many),
            ``dropout`` (of what the head reads), ``views`` (see ``images.averaged``).
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        widths = [config["width"] * 2**block for block in range(BLOCKS)]
        before = [config["channels"], *widths]
        self.layers = nn.ModuleList(Block(a, b) for a, b in zip(before, widths, strict=False))
        side = config["image_size"] // 2**BLOCKS
        size = widths[-1] * side * side
        self.shape = ImageShape(config["image_size"], config["channels"], size, BLOCKS)
        self.views: int = config["views"]

    def forward(self, images: Images, dropout: Dropout | None = None) -> Tensor:
        """Features ``[B, D]``."""
        return averaged(self._features, images.pixels_BCHW, 1 if self.training else self.views)

    def _features(self, pixels_BCHW: Tensor) -> Tensor:
        # Channels innermost: the same numbers, a third to a half faster on a CPU.
        x_BCHW = centred(pixels_BCHW).contiguous(memory_format=torch.channels_last)
        for layer in self.layers:
            x_BCHW = layer(x_BCHW)
        return x_BCHW.flatten(1)
