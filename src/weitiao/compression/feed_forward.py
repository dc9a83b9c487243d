"""Narrow the feed-forward layers to the units that matter / 收窄前馈层，只留重要的单元."""

from dataclasses import dataclass

import torch

from weitiao.compression._importance import importances
from weitiao.compression._rebuild import layer_names, rebuild
from weitiao.compression.base import Compression, Steps, Subject
from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event
from weitiao.core.messages import say

MULTIPLE = 32  # matrix products run at full speed on whole vector registers


@dataclass
class FeedForward(Compression):
    """Structured: the first matrix loses rows, the second columns; every layer the same number."""

    keep_width: int = option(
        0, "width of the feed-forward layers (0: two thirds)", "前馈层的宽度（0：三分之二）", least=0
    )

    def apply(self, subject: Subject) -> Steps:
        encoder, width = subject.encoder, subject.encoder.shape.intermediate_size
        keep = self.keep_width or max(width * 2 // 3 // MULTIPLE * MULTIPLE, 1)
        if keep > width:
            raise WeitiaoError(
                say(
                    f"--keep-width is {keep}; the model's feed-forward layers are {width} wide",
                    f"--keep-width 为 {keep}，而模型的前馈层宽度为 {width}",
                )
            )
        scores: list[torch.Tensor] = []
        for item in importances(subject, lambda layer: layer.output["dense"], 1):
            if isinstance(item, Event):
                yield item
            else:
                scores = item
        tensors = dict(encoder.state_dict())
        lost = []
        for number, score in enumerate(scores):
            rows = torch.topk(score, keep).indices.sort().values
            prefix = layer_names(number)
            for kind in ("weight", "bias"):
                name = f"{prefix}intermediate.dense.{kind}"
                tensors[name] = tensors[name][rows]
            tensors[f"{prefix}output.dense.weight"] = tensors[f"{prefix}output.dense.weight"][:, rows]
            lost.append(1 - float(score[rows].sum() / score.sum().clamp_min(1e-30)))
        rebuild(subject.model, tensors, intermediate_size=keep)
        share = [round(value, 4) for value in lost]
        return {"width_before": width, "width_after": keep, "importance_lost": share}
