"""Tensors with many zeros in fewer bytes inside a safetensors file: a bit for each element, and the values left.

``name`` becomes ``name::bits`` (uint8), ``name::values`` and ``name::shape`` (int64). A folder whose weights are so is
called ``model.packed.safetensors``: other programs, which would take the missing names for new parameters, then
find no weights instead.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

PACKED_FILE = "model.packed.safetensors"
WORTH = 0.85  # packed where it takes at most this share of the bytes


def pack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors, the sparse ones packed."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().contiguous().numpy()
        left = values[values != 0]
        if values.size == 0 or values.size / 8 + left.nbytes > WORTH * values.nbytes:
            found[name] = tensor
            continue
        found[f"{name}::bits"] = torch.from_numpy(np.packbits(values.ravel() != 0))
        found[f"{name}::values"] = torch.from_numpy(left)
        found[f"{name}::shape"] = torch.tensor(values.shape, dtype=torch.int64)
    return found


def unpack(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``pack`` was given.

    Raises:
        ValueError: bits, values and shape do not belong together.
    """
    found = {name: tensor for name, tensor in tensors.items() if "::" not in name}
    for name in (key.removesuffix("::bits") for key in tensors if key.endswith("::bits")):
        shape = tensors[f"{name}::shape"].tolist()
        left = tensors[f"{name}::values"]
        mask = np.unpackbits(tensors[f"{name}::bits"].numpy())[: int(np.prod(shape))].astype(bool)
        if mask.sum() != len(left) or len(mask) != np.prod(shape):
            raise ValueError(f"{name}: {int(mask.sum())} bits are set, {len(left)} values are there")
        whole = torch.zeros(len(mask), dtype=left.dtype)
        whole[torch.from_numpy(mask)] = left
        found[name] = whole.view(shape)
    return found
