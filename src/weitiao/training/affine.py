"""Pictures as they might have been drawn: turned, shifted, scaled, slanted, and bent a little; a batch at a time.

Affine: each output pixel at (x, y) in -1 .. 1 is read at A (x, y) + b. Elastic (Simard et al. 2003): beside that, at a
smooth random displacement. Randomness is torch's own, which the training loop seeds at every step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

GRID = 4  # random displacements on so many x so many points, smoothly interpolated between them


@dataclass(frozen=True)
class Affine:
    """How far a picture may go; each picture draws its own, uniformly between minus and plus.

    Attributes:
        rotation_degrees, shear_degrees: about the centre.
        shift: a share of the side.
        scale: 0.1: between 0.9 and 1.1 of its size.
        elastic: the standard deviation of the displacements, a share of the side; 0: none.
    """

    rotation_degrees: float = 12.0
    shift: float = 0.1
    scale: float = 0.12
    shear_degrees: float = 12.0
    elastic: float = 0.0

    def __call__(self, pixels_BCHW: Tensor) -> Tensor:
        """Other pictures of the same shape; what comes in from outside repeats the border."""
        count, size = len(pixels_BCHW), list(pixels_BCHW.shape)
        grid_BHW2 = F.affine_grid(self.matrices(count), size, align_corners=False)
        if self.elastic:
            coarse = torch.randn(count, 2, GRID, GRID) * (2 * self.elastic)
            bend = F.interpolate(coarse, size[2:], mode="bicubic", align_corners=True)
            grid_BHW2 = grid_BHW2 + bend.permute(0, 2, 3, 1)
        return F.grid_sample(pixels_BCHW, grid_BHW2, padding_mode="border", align_corners=False)

    def matrices(self, count: int) -> Tensor:
        """Random [A | b], fp32 ``[count, 2, 3]``."""

        def between(most: float) -> Tensor:
            return (torch.rand(count) * 2 - 1) * most

        angle, slant = between(self.rotation_degrees).deg2rad(), between(self.shear_degrees).deg2rad()
        inverse = 1 / (
            1 + between(self.scale)
        )  # the grid says where to read from, so twice as large reads half
        cos, sin, tan = angle.cos(), angle.sin(), slant.tan()
        rows = torch.stack([cos, cos * tan - sin, sin, sin * tan + cos], 1).view(count, 2, 2)
        moved = torch.stack([between(2 * self.shift), between(2 * self.shift)], 1)
        return torch.cat([rows * inverse.view(-1, 1, 1), moved.unsqueeze(2)], 2)
