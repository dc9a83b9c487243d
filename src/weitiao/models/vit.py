"""A small vision transformer: a picture read as a text of patches.

The picture is cut into squares; a linear layer makes a vector of each, as an embedding does of a word, and a learned
vector says where it stood. From there on it is the encoder that reads texts: every patch looks at every other
(attention), then thinks for itself (feed-forward). The mean of the patches is what the head reads.

Shapes: B pictures, P patches, D hidden size, H heads, d = D / H.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weitiao.models.images import Images, ImageShape, averaged, centred
from weitiao.models.kernels import Dropout


class Layer(nn.Module):
    """One layer, normalised before each part: ``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.queries_keys_values = nn.Linear(size, 3 * size)
        self.output = nn.Linear(size, size)
        self.up, self.down = nn.Linear(size, 4 * size), nn.Linear(4 * size, size)

    def forward(self, x_BPD: Tensor) -> Tensor:
        x_BPD = x_BPD + self._drop(self.output(self._attention(self.norm1(x_BPD))))
        return x_BPD + self._drop(self.down(F.gelu(self.up(self.norm2(x_BPD)))))

    def _attention(self, x_BPD: Tensor) -> Tensor:
        """softmax(q k' / sqrt(d)) v, in H parts side by side."""
        b, p, d = x_BPD.shape
        q, k, v = (
            self.queries_keys_values(x_BPD).view(b, p, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        )
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, p, d)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Vit(nn.Module):
    """Pictures to features ``[B, D]``.

    Args:
        config: ``image_size``, ``channels``, ``width`` (D), ``num_layers``, ``patch`` (pixels of a patch's side; the
            picture's side is a multiple of it), ``dropout``, ``views`` (see ``images.averaged``).
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        size, patch, side = config["width"], config["patch"], config["image_size"]
        self.patch = nn.Conv2d(
            config["channels"], size, patch, stride=patch
        )  # one linear layer for every square
        self.position_embeddings = nn.Parameter(torch.randn((side // patch) ** 2, size) * 0.02)
        heads = max(size // 32, 1)
        self.layers = nn.ModuleList(
            Layer(size, heads, config["dropout"]) for _ in range(config["num_layers"])
        )
        self.norm = nn.LayerNorm(size)
        self.shape = ImageShape(side, config["channels"], size, config["num_layers"])
        self.views: int = config["views"]

    def forward(self, images: Images, dropout: Dropout | None = None) -> Tensor:
        """Features ``[B, D]``."""
        return averaged(self._features, images.pixels_BCHW, 1 if self.training else self.views)

    def _features(self, pixels_BCHW: Tensor) -> Tensor:
        x_BPD = self.patch(centred(pixels_BCHW)).flatten(2).transpose(1, 2) + self.position_embeddings
        for layer in self.layers:
            x_BPD = layer(x_BPD)
        return self.norm(x_BPD).mean(1)
