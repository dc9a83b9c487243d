"""Heads of language models: tied to the embeddings, with the softmax and its gradient in one pass over the logits.

Shapes: R tokens whose states are read, D hidden, V pieces.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from weitiao.models import native, native_decoder
from weitiao.models.encoder import Encoder
from weitiao.models.heads import Head
from weitiao.models.kernels import Dropout
from weitiao.models.packed import Packed

CHUNK_BYTES = 1 << 25  # of logits held at once
UNUSED = 10.0  # how far below the least bias those of pieces lie that the corpus never uses


class _TiedLoss(torch.autograd.Function):
    """The sum of -log softmax(x W' + b)[target]. Its gradients are made with the loss: the logits are never kept.

    States in bf16 are multiplied in bf16, as the layers below are; sums are in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any, x_RD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_R: Tensor
    ) -> Tensor:
        wants, exact = ctx.needs_input_grad, torch.promote_types(x_RD.dtype, torch.float32)
        weight, bias = weight_VD.to(x_RD.dtype), None if bias_V is None else bias_V.to(x_RD.dtype)
        g_x = torch.empty_like(x_RD) if wants[0] else None
        g_weight = torch.zeros_like(weight_VD) if wants[1] else None
        g_bias = torch.zeros_like(bias_V) if bias_V is not None and wants[2] else None
        total = x_RD.new_zeros((), dtype=exact)
        for rows in _chunks(len(x_RD), weight):
            x, targets = x_RD[rows], targets_R[rows]
            losses, shares = _softmax(F.linear(x, weight, bias), targets)
            total += losses.sum()
            if g_x is not None:
                torch.mm(shares, weight, out=g_x[rows])
            if g_weight is not None and g_weight.dtype == x.dtype:
                g_weight.addmm_(shares.t(), x)
            elif g_weight is not None:
                g_weight += shares.t() @ x
            if g_bias is not None:
                g_bias += shares.sum(0, dtype=exact)
        ctx.grads = (g_x, g_weight, g_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if g is None else g * grad for g in ctx.grads), None


def _softmax(logits_RV: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
    """-log softmax(logits)[target] ``[R]`` in fp32, and its gradient in the logits' type and place."""
    if logits_RV.dtype == torch.bfloat16 and logits_RV.device.type == "cpu" and native.library() is not None:
        return native_decoder.softmax_gradient(logits_RV, targets_R), logits_RV
    wide, targets_R1 = (
        logits_RV.to(torch.promote_types(logits_RV.dtype, torch.float32)),
        targets_R.unsqueeze(1),
    )
    sums_R1 = torch.logsumexp(wide, 1, keepdim=True)
    losses_R = (sums_R1 - wide.gather(1, targets_R1)).squeeze(1)
    shares = wide.sub_(sums_R1).exp_()
    shares.scatter_add_(1, targets_R1, shares.new_full(targets_R1.shape, -1.0))
    return losses_R, shares.to(logits_RV.dtype)


def _chunks(rows: int, weight_VD: Tensor) -> list[slice]:
    step = max(CHUNK_BYTES // (len(weight_VD) * weight_VD.element_size()), 1)
    return [slice(start, start + step) for start in range(0, rows, step)]


class LanguageHead(Head):
    """Scores of all pieces from the states of the tokens that are marked.

    ``outputs`` of the model are these states, in the order of ``marks_T``, and after them, where texts are judged in
    pairs, the state of each text's first token. Their targets: a piece's id; -2 for a pair in order, -3 for one not.
    """

    keeps_type = True  # the states may be bf16: see ``_TiedLoss``

    def __init__(self, weight_VD: Callable[[], Tensor]) -> None:
        super().__init__()
        self.weight_VD = (
            weight_VD  # asked for at each use: training may put a smaller table in the embeddings' place
        )
        self.pair: nn.Linear | None = None
        self.bias: nn.Parameter | None = None

    def rows(self, packed: Packed, marks_T: Tensor | None) -> Tensor | None:
        assert marks_T is not None
        return marks_T if self.pair is None else torch.cat([marks_T, packed.starts_B])

    def forward(self, hidden_RD: Tensor, packed: Packed, dropout: Dropout | None) -> Tensor:
        return hidden_RD

    def transformed(self, hidden_RD: Tensor) -> Tensor:
        """What is multiplied with the embeddings."""
        return hidden_RD

    def pair_logits(self, hidden_BD: Tensor) -> Tensor:
        """Scores of "in order" and "not", ``[B, 2]``."""
        raise NotImplementedError

    def loss_sum(self, hidden_RD: Tensor, targets_R: Tensor) -> Tensor:
        """The sum over the marked tokens; where pairs are judged too, their mean times the number of those tokens, so
        that both count alike. Without marked tokens the sum over the pairs."""
        tokens = int((targets_R >= 0).sum())
        weight = self.weight_VD()
        total = weight.new_zeros(())
        if tokens:
            x = self.transformed(hidden_RD[:tokens])
            total = _TiedLoss.apply(x, weight, self.bias, targets_R[:tokens])
        if tokens < len(targets_R):
            logits, answers = self.pair_logits(hidden_RD[tokens:]), -2 - targets_R[tokens:]
            pairs = F.cross_entropy(logits, answers, reduction="sum")
            total = total + pairs * (tokens / len(answers) if tokens else 1.0)
        return total

    @torch.no_grad()
    def scores(self, hidden_RD: Tensor, targets_R: Tensor) -> tuple[Tensor, Tensor]:
        """For each target, -log of its probability and whether it was the likeliest, both ``[R]``."""
        tokens = int((targets_R >= 0).sum())
        losses, right = [], []
        weight = self.weight_VD()
        for rows in _chunks(tokens, weight):
            states = self.transformed(hidden_RD[:tokens][rows]).to(weight.dtype)
            logits = F.linear(states, weight, self.bias)
            losses.append(F.cross_entropy(logits, targets_R[:tokens][rows], reduction="none"))
            right.append(logits.argmax(1) == targets_R[:tokens][rows])
        if tokens < len(targets_R):
            logits, answers = self.pair_logits(hidden_RD[tokens:]), -2 - targets_R[tokens:]
            losses.append(F.cross_entropy(logits, answers, reduction="none"))
            right.append(logits.argmax(1) == answers)
        return torch.cat(losses), torch.cat(right)


class MaskedHead(LanguageHead):
    """BERT's: dense, GELU, LayerNorm, then the embeddings and a bias; with ``pairs`` its pooler and two outputs."""

    def __init__(self, encoder: Encoder, pairs: bool = False) -> None:
        super().__init__(lambda: encoder.embeddings.word_embeddings.weight)
        shape = encoder.shape
        self.dense = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.norm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(shape.vocab_size))
        self.pooler = nn.Linear(shape.hidden_size, shape.hidden_size) if pairs else None
        self.pair = nn.Linear(shape.hidden_size, 2) if pairs else None
        for layer in (self.dense, self.pooler, self.pair):
            if layer is not None:
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def transformed(self, hidden_RD: Tensor) -> Tensor:
        return self.norm(F.gelu(self.dense(hidden_RD.to(self.dense.weight.dtype)))).to(hidden_RD.dtype)

    def pair_logits(self, hidden_BD: Tensor) -> Tensor:
        assert self.pooler is not None and self.pair is not None
        return self.pair(torch.tanh(self.pooler(hidden_BD.to(self.pooler.weight.dtype))))

    def compact(self, used: Tensor) -> None:
        """Keep the biases of these pieces, as ``CompactEmbeddings`` keeps their embeddings."""
        assert self.bias is not None
        self.size, self.used = len(self.bias), used
        self.bias = nn.Parameter(self.bias.detach()[used].clone())

    def restore(self) -> None:
        """All pieces again. Those that the corpus never uses were never among the choices: their biases are low."""
        assert self.bias is not None
        kept = self.bias.detach().cpu()
        whole = torch.full((self.size,), float(kept.min()) - UNUSED)
        whole[self.used] = kept
        self.bias = nn.Parameter(whole)

    def names_there(self, family: str) -> dict[str, str]:
        """Parameters here -> in ``transformers``' ``<Family>ForMaskedLM`` (``BertForPreTraining`` with pairs)."""
        if family == "Bert":
            place, norm, bias = "cls.predictions.transform.", "LayerNorm", "cls.predictions.bias"
        else:
            place, norm, bias = "lm_head.", "layer_norm", "lm_head.bias"
        names = {f"dense.{kind}": f"{place}dense.{kind}" for kind in ("weight", "bias")}
        names |= {f"norm.{kind}": f"{place}{norm}.{kind}" for kind in ("weight", "bias")} | {"bias": bias}
        if self.pair is not None:
            for kind in ("weight", "bias"):
                names |= {
                    f"pooler.{kind}": f"bert.pooler.dense.{kind}",
                    f"pair.{kind}": f"cls.seq_relationship.{kind}",
                }
        return names

    def load(self, beside: dict[str, Tensor], family: str) -> bool:
        """Take what parameters lay beside an encoder's weights. Returns whether all did."""
        # ``open_backbone`` cuts the encoder's prefix off, the pooler's too.
        found = {
            name: beside.get(there.removeprefix("bert.")) for name, there in self.names_there(family).items()
        }
        wanted = self.state_dict()
        whole = {
            name: value
            for name, value in found.items()
            if value is not None and value.shape == wanted[name].shape
        }
        self.load_state_dict(whole, strict=False)
        return len(whole) == len(wanted)
