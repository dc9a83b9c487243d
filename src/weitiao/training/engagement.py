"""Did the tuning method do what it says? Which parameters moved, by how much, and that the frozen ones did not."""

import re
import zlib
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.training.hooks import Hooks
from weitiao.training.optimizer import HEAD, depth


class Engagement:
    """Remembers a model before training and compares it afterwards; then asks the method's own proof of ``hooks``."""

    def __init__(self, model: nn.Module, hooks: Hooks | None = None) -> None:
        self.hooks = hooks or Hooks()
        self.before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        self.frozen = {name: _fingerprint(p) for name, p in model.named_parameters() if not p.requires_grad}

    def check(self, model: nn.Module) -> dict[str, Any]:
        """What moved, by group: ``{"trained_parameters", "moved": {group: relative change}}``, and what
        the method adds.

        The relative change is |after - before| / |before| over the group's parameters (|after| where before is 0).

        Raises:
            WeitiaoError: a group that should have moved did not, a frozen parameter did, or the method's
                own proof fails.
        """
        change: dict[str, float] = defaultdict(float)
        size: dict[str, float] = defaultdict(float)
        count = 0
        for name, parameter in model.named_parameters():
            if name in self.before:
                old = self.before[name].to(parameter.device)
                change[_group(name)] += float((parameter.detach() - old).double().pow(2).sum())
                size[_group(name)] += float(old.double().pow(2).sum())
                count += parameter.numel()
            elif name in self.frozen and _fingerprint(parameter) != self.frozen[name]:
                raise WeitiaoError(
                    say(f"Frozen parameter {name} changed in training", f"冻结的参数 {name} 在训练中改变了")
                )
        still = sorted(group for group, value in change.items() if value == 0)
        if still or not change:
            names = ", ".join(still) or say("nothing is trainable", "没有可训练的参数")
            raise WeitiaoError(
                say(
                    f"The tuning method did not engage: {names} did not move. Nothing was saved as a result",
                    f"微调方法没有生效：{names} 没有变化。未保存结果",
                )
            )
        moved = {
            g: (change[g] / size[g] if size[g] else change[g]) ** 0.5 for g in sorted(change, key=_order)
        }
        return {"trained_parameters": count, "moved": moved, **self.hooks.engaged(model)}


def _fingerprint(parameter: Tensor) -> int:
    """A checksum of every bit, quick and without a copy of a frozen table of embeddings."""
    return zlib.crc32(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())


# What a method adds to a model, by a part of its parameters' names.
ADDED = re.compile(r"\b(lora_[A-Za-z]+|ia3|adapter|prompt|prefix|known)")


def _group(name: str) -> str:
    """``embeddings``, ``layer 3``, ``head``; what a method adds apart: ``layer 3 lora_A``."""
    level = depth(name)
    place = "head" if level == HEAD else f"layer {level - 1}" if level else "embeddings"
    added = ADDED.search(name)
    if added and added[1] in ("lora_E", "prompt"):
        return added[1]  # no layer's own: AdaLoRA may rightly leave all of a layer's singular values at 0
    return f"{place} {added[1]}" if added else place


def _order(group: str) -> tuple[int, str]:
    layer = re.match(r"layer (\d+)", group)
    return (HEAD if group == "head" else 1 + int(layer[1]) if layer else 0, group)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """All parameters, and those that are trained."""
    every = sum(p.numel() for p in model.parameters())
    return every, sum(p.numel() for p in model.parameters() if p.requires_grad)


def same_outputs(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> float:
    """The largest difference of two outputs.

    Raises:
        WeitiaoError: it is over ``tolerance``: the saved model would not predict as the trained one.
    """
    worst = float(torch.max(torch.abs(a - b))) if a.numel() else 0.0
    if not worst <= tolerance:  # so that NaN is a difference
        raise WeitiaoError(
            say(
                f"The saved model differs from the trained one: logits by {worst:.2g} (allowed {tolerance:g})",
                f"保存后的模型与训练时不一致：logits 相差 {worst:.2g}（允许 {tolerance:g}）",
            )
        )
    return worst
