"""An encoder of ``transformers`` and its head as an ONNX graph, traced by torch's exporter.

For the architectures that ``onnx_graph`` does not write itself: slower to make, and not as lean, but any mathematics.
Traced at one shape and good for all: the exporter keeps batch and length symbolic.

Shapes: B texts, L tokens (padded), D hidden, C outputs.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.models.backbone import TextModel
from weitiao.models.hub_encoder import HubEncoder

EXAMPLE = (3, 7)  # texts, tokens: traced with these, neither of them 1 nor the other


class _Rectangle(nn.Module):
    """What ``TextModel`` computes, for padded ``[B, L]`` instead of packed tokens."""

    def __init__(self, model: TextModel, head: dict[str, Any], extra: list[str]) -> None:
        super().__init__()
        assert isinstance(model.backbone, HubEncoder)
        self.encoder, self.head = model.backbone.model, model.head
        self.kind, self.pooling, self.extra = head["type"], head["pooling"], extra

    def forward(self, input_ids: Tensor, attention_mask: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
        given = dict(zip(self.extra, more, strict=True))
        marks_B2 = given.pop("marks", None)
        hidden_BLD = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, **given
        ).last_hidden_state
        if self.kind in ("pooled", "embedding") and self.pooling == "cls":
            pooled_BD = hidden_BLD[:, 0]
        else:
            mask_BL1 = attention_mask.unsqueeze(-1).to(hidden_BLD.dtype)
            pooled_BD = (hidden_BLD * mask_BL1).sum(1) / mask_BL1.sum(1)
        embedding_BD = F.normalize(pooled_BD, dim=-1)
        if self.kind == "embedding":
            return embedding_BD.clone(), embedding_BD
        x = hidden_BLD if self.kind == "token" else pooled_BD
        if marks_B2 is not None:
            places = marks_B2.unsqueeze(-1).expand(-1, -1, hidden_BLD.shape[-1])
            x = hidden_BLD.gather(1, places).flatten(1)
        assert self.head.linear is not None
        return self.head.linear(x), embedding_BD


def traced_graph(model: TextModel, head: dict[str, Any], *, types: bool = False) -> onnx.ModelProto:
    """The graph of a hub encoder under a head, with inputs and outputs as of ``onnx_graph.encoder_graph``.

    Args:
        model: in fp32 on the CPU; adapters merged.
        head: the head's description, ``{"type", "outputs", "pooling"}``.
        types: whether the graph reads ``token_type_ids``, where the architecture does.

    Raises:
        WeitiaoError: the exporter cannot trace the architecture.
    """
    assert isinstance(model.backbone, HubEncoder)
    extra = ["token_type_ids"] if types and model.backbone.takes_types else []
    extra += ["marks"] if head["type"] == "marker" else []
    texts, tokens = EXAMPLE
    ids = torch.ones(texts, tokens, dtype=torch.long)
    given = {
        "token_type_ids": torch.zeros_like(ids),
        "marks": torch.tensor([[1, 3]] * texts),
    }
    free = torch.export.Dim.AUTO
    whole = {0: free, 1: free}
    more = tuple({0: free} if name == "marks" else whole for name in extra)
    names = ["input_ids", "attention_mask", *extra]
    with torch.no_grad(), _silence(model.config.get("model_type", "")):
        program = torch.onnx.export(
            _Rectangle(model, head, extra).eval(),
            (ids, torch.ones_like(ids), *(given[name] for name in extra)),
            dynamo=True,
            input_names=names,
            output_names=["outputs", "text_embedding"],  # "embedding" is what the exporter calls a lookup
            dynamic_shapes=(whole, whole, *([more] if more else [])),
        )
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _silence(architecture: str) -> Iterator[None]:
    """The exporter prints its steps, warns of packages that are not needed here, and fails at length."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise WeitiaoError(
            say(
                f"A {architecture} model cannot be exported ({reason}). weitiao predict RUN works without a bundle",
                f"无法导出 {architecture} 模型（{reason}）。可直接使用 weitiao predict 运行目录",
            )
        ) from error
    finally:
        logging.disable(level)
