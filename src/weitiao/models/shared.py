"""Several models over one backbone's tensors: each has modules of its own, the weights are held once."""

from copy import deepcopy
from itertools import chain

from torch import nn


def standing_on(backbone: nn.Module) -> nn.Module:
    """A backbone of new modules over the very tensors of this one; what is added to it, is added to it alone."""
    held = {id(tensor): tensor for tensor in chain(backbone.parameters(), backbone.buffers())}
    return deepcopy(backbone, held)


def keep_own(model: nn.Module, backbone: nn.Module) -> None:
    """Give a model copies of those tensors of the shared backbone that it is to hold otherwise: what it trains."""
    held = {id(parameter) for parameter in backbone.parameters()}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and id(parameter) in held:
                setattr(module, name, nn.Parameter(parameter.detach().clone()))
                parameter.requires_grad_(False)
