"""What a model of pictures reads: a batch of them, in the place that packed token ids have for a model of texts."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

DEPTHLESS = 1 << 30  # the ``max_length`` of a model whose inputs are all of one size


@dataclass(frozen=True)
class Images:
    """One micro-batch of pictures: ``pixels_BCHW``, fp32 in 0 .. 1; and features of their captions, if any."""

    pixels_BCHW: Tensor
    features_BKF: Tensor | None = None

    def to(self, device: torch.device | str) -> "Images":
        """The same pictures on another device."""
        features = None if self.features_BKF is None else self.features_BKF.to(device)
        return Images(self.pixels_BCHW.to(device), features)


@dataclass(frozen=True)
class ImageShape:
    """The sizes of a model of pictures, under the names that models of texts have them."""

    image_size: int
    channels: int
    hidden_size: int
    num_hidden_layers: int
    first_position: int = 0
    max_length: int = DEPTHLESS


def centred(pixels_BCHW: Tensor) -> Tensor:
    """Pixels of 0 .. 1 as networks like them: -1 .. 1."""
    return pixels_BCHW * 2 - 1


def averaged(forward: Callable[[Tensor], Tensor], pixels_BCHW: Tensor, views: int) -> Tensor:
    """Features, averaged over ``views`` shifts by one pixel (1: as it is; 5: and to four sides; 9: and the corners).

    What follows is linear, so this is the average of the logits too: a vote of slightly different looks.
    """
    steps = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)][:views]
    looks = [torch.roll(pixels_BCHW, step, (2, 3)) for step in steps]
    return torch.stack([forward(look) for look in looks]).mean(0)
