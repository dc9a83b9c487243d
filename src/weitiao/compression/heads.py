"""Leave out the attention heads that matter least / 去掉最不重要的注意力头.

Every layer keeps the same number of heads, so that its matrices are smaller and a config can say so.
"""

from dataclasses import dataclass

import torch

from weitiao.compression._importance import importances
from weitiao.compression._rebuild import layer_names, rebuild
from weitiao.compression.base import Compression, Steps, Subject
from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import Event
from weitiao.core.messages import say


@dataclass
class Heads(Compression):
    """Structured: query, key, value lose rows, the output projection columns (Michel et al. 2019)."""

    keep_heads: int = option(
        0, "heads that each layer keeps (0: three quarters)", "每层保留的注意力头数（0：四分之三）", least=0
    )

    def apply(self, subject: Subject) -> Steps:
        encoder, heads = subject.encoder, subject.encoder.shape.num_attention_heads
        keep = self.keep_heads or max(heads * 3 // 4, 1)
        if keep > heads:
            raise WeitiaoError(
                say(
                    f"--keep-heads is {keep}; the model has {heads} heads a layer",
                    f"--keep-heads 为 {keep}，而模型每层只有 {heads} 个注意力头",
                )
            )
        width = encoder.shape.attention_size // heads
        scores: list[torch.Tensor] = []
        for item in importances(subject, lambda layer: layer.attention.output["dense"], width):
            if isinstance(item, Event):
                yield item
            else:
                scores = item
        tensors = dict(encoder.state_dict())
        chosen = [torch.topk(score, keep).indices.sort().values for score in scores]
        for number, heads_k in enumerate(chosen):
            rows = (heads_k[:, None] * width + torch.arange(width)).flatten()
            prefix = layer_names(number) + "attention."
            for name in ("query", "key", "value"):
                for kind in ("weight", "bias"):
                    tensors[f"{prefix}self.{name}.{kind}"] = tensors[f"{prefix}self.{name}.{kind}"][rows]
            tensors[f"{prefix}output.dense.weight"] = tensors[f"{prefix}output.dense.weight"][:, rows]
        rebuild(subject.model, tensors, num_attention_heads=keep, attention_head_size=width)
        return {"heads_before": heads, "heads_after": keep, "kept": [part.tolist() for part in chosen]}
