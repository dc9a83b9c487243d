"""Heads: from the backbone's hidden states to a task's outputs.

A head says which tokens it reads (``rows``) and gets their hidden states ``[R, D]`` in fp32. Pooling: ``mean`` over a
text's tokens (what e5 and most sentence encoders were trained with), ``cls`` its first token, ``own`` the
architecture's pooler (first token, dense, tanh), which ``transformers`` has under its classification heads; ``none``
for a backbone that gives one vector an example already, as those of pictures do.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weitiao.models.images import Images
from weitiao.models.kernels import Dropout
from weitiao.models.packed import Packed


class Head(nn.Module):
    """The base of heads. ``features`` is what a linear probe is fitted on; ``linear`` the layer it is put into.

    ``known`` are embeddings of what the user's tables know of words; ``TextModel`` adds them to those words' own.
    They are a head's, since they are new, trained by every method and saved with it.
    """

    linear: nn.Linear | None
    known: nn.Embedding | None
    dropout_probability: float
    keeps_type: bool = False  # takes states as the backbone gives them, not in fp32

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.known, self.dropout_probability = None, None, 0.1

    def rows(self, packed: Packed, marks_T: Tensor | None) -> Tensor | None:
        """The tokens that the head reads, ``[R]``; None: all of them."""
        return None

    def features(self, hidden_RD: Tensor, packed: Packed) -> Tensor:
        """What the last layer sees, ``[B, F]`` or ``[T, F]``."""
        raise NotImplementedError

    def forward(self, hidden_RD: Tensor, packed: Packed, dropout: Dropout | None) -> Tensor:
        """Logits ``[B, C]`` or ``[T, C]``."""
        x = self.features(hidden_RD, packed)
        if dropout is not None and self.dropout_probability > 0:
            x = x * dropout.mask(x, self.dropout_probability)
        assert self.linear is not None
        return self.linear(x)

    def _last(self, size: int, outputs: int) -> nn.Linear:
        layer = nn.Linear(size, outputs)
        nn.init.normal_(layer.weight, std=0.02)
        nn.init.zeros_(layer.bias)
        return layer


def pool(hidden_RD: Tensor, packed: Packed, pooling: str) -> Tensor:
    """One vector a text, ``[B, D]``: the mean of its tokens, or its first token or only vector, as it comes in."""
    if pooling != "mean":
        return hidden_RD
    total_BD = hidden_RD.new_zeros(len(packed.lengths_B), hidden_RD.shape[1]).index_add(
        0, packed.owner_T, hidden_RD
    )
    return total_BD / packed.lengths_B.unsqueeze(1)


class PooledHead(Head):
    """One answer a text: pooling, dropout, linear."""

    def __init__(self, size: int, outputs: int, pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self.pooler = nn.Linear(size, size) if pooling == "own" else None
        if self.pooler is not None:
            nn.init.normal_(self.pooler.weight, std=0.02)
            nn.init.zeros_(self.pooler.bias)
        self.linear = self._last(size, outputs)

    def rows(self, packed: Packed, marks_T: Tensor | None) -> Tensor | None:
        return None if self.pooling in ("mean", "none") else packed.starts_B

    def features(self, hidden_RD: Tensor, packed: Packed) -> Tensor:
        x_BD = pool(hidden_RD, packed, self.pooling)
        return x_BD if self.pooler is None else torch.tanh(self.pooler(x_BD))


class TokenHead(Head):
    """One answer a token: dropout, linear. The same function as ``transformers``' token classification."""

    def __init__(self, size: int, outputs: int) -> None:
        super().__init__()
        self.linear = self._last(size, outputs)

    def features(self, hidden_RD: Tensor, packed: Packed) -> Tensor:
        return hidden_RD


class MarkerHead(Head):
    """One answer a text from its marked tokens: their states side by side (Baldini Soares et al. 2019), linear."""

    def __init__(self, size: int, outputs: int, marks: int = 2) -> None:
        super().__init__()
        self.marks = marks
        self.linear = self._last(size * marks, outputs)

    def rows(self, packed: Packed, marks_T: Tensor | None) -> Tensor | None:
        assert marks_T is not None
        return marks_T.flatten()

    def features(self, hidden_RD: Tensor, packed: Packed) -> Tensor:
        return hidden_RD.view(len(packed.lengths_B), -1)


class ClozeHead(Head):
    """One answer a text from its gap: a masked-LM head (dense, GELU, LayerNorm, linear) over the classes' words."""

    def __init__(self, size: int, outputs: int) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(size, size), nn.LayerNorm(size, eps=1e-12)
        self.linear = self._last(size, outputs)
        self.dropout_probability = 0.0  # as it was trained

    def rows(self, packed: Packed, marks_T: Tensor | None) -> Tensor | None:
        assert marks_T is not None
        return marks_T.flatten()

    def features(self, hidden_RD: Tensor, packed: Packed) -> Tensor:
        return self.norm(F.gelu(self.dense(hidden_RD)))


class EmbeddingHead(Head):
    """A unit vector a text; it has no parameters of its own. Outputs ``[texts, D]``."""

    def __init__(self, pooling: str) -> None:
        super().__init__()
        self.pooling = "mean" if pooling == "own" else pooling

    def rows(self, packed: Packed, marks_T: Tensor | None) -> Tensor | None:
        return None if self.pooling == "mean" else packed.starts_B

    def forward(self, hidden_RD: Tensor, packed: Packed, dropout: Dropout | None) -> Tensor:
        return F.normalize(pool(hidden_RD, packed, self.pooling), dim=-1)


class PairHead(Head):
    """Pictures and their captions in one space: a linear layer for each side, unit vectors.

    The captions come as features of a frozen model, whose common part (most of them, with e5) a normalisation by the
    training set's mean and spread takes out. Outputs ``[B, 1 + K, E]``: a picture and its K captions.

    Args:
        size: of a picture's hidden state.
        features: of a caption's features.
        shared: E.
    """

    def __init__(self, size: int, features: int, shared: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features, affine=False)
        self.picture, self.caption = nn.Linear(size, shared), nn.Linear(features, shared)

    def forward(self, hidden_RD: Tensor, packed: Images, dropout: Dropout | None) -> Tensor:  # type: ignore[override]
        assert packed.features_BKF is not None
        features_BKF = packed.features_BKF
        several = self.training and features_BKF.shape[0] * features_BKF.shape[1] > 1
        self.norm.train(several)  # one caption has no spread
        x_BKF = self.norm(features_BKF.flatten(0, 1)).view_as(features_BKF)
        if dropout is not None and self.dropout_probability > 0:
            hidden_RD = hidden_RD * dropout.mask(hidden_RD, self.dropout_probability)
            x_BKF = x_BKF * dropout.mask(x_BKF, self.dropout_probability)
        return F.normalize(torch.cat([self.picture(hidden_RD).unsqueeze(1), self.caption(x_BKF)], 1), dim=-1)


class LanguageHead(Head):
    """Scores of the next token, by the output layer of the decoder beneath, which ``TextModel`` shows it.

    It has no parameters of its own. Outputs ``[R, V]``: after the tokens that are marked, or after every one.

    Args:
        features: of a picture's, where the model below reads pictures too (see ``bridge``).
    """

    def __init__(self, features: int = 0) -> None:
        super().__init__()
        self.picture_features = features
        self.below: tuple[Any, ...] = ()  # in a tuple, so that its parameters do not become the head's

    def rows(self, packed: Packed, marks_T: Tensor | None) -> Tensor | None:
        return marks_T

    def forward(self, hidden_RD: Tensor, packed: Packed, dropout: Dropout | None) -> Tensor:
        return self.below[0].logits(hidden_RD)


def make_head(kind: dict[str, Any], size: int) -> Head:
    """A head from the description that is saved with a model: ``{"type", "outputs", "pooling"}``.

    One that puts pictures beside captions has ``features`` and ``shared`` too; one for words that tables know, how
    many kinds of knowledge they hold (``known``): their embeddings begin at 0, as if nothing were known.
    """
    head = _plain_head(kind, size)
    if kind.get("known"):
        head.known = nn.Embedding.from_pretrained(torch.zeros(kind["known"], size), freeze=False)
    return head


def _plain_head(kind: dict[str, Any], size: int) -> Head:
    if kind["type"] == "pooled":
        return PooledHead(size, kind["outputs"], kind["pooling"])
    if kind["type"] == "token":
        return TokenHead(size, kind["outputs"])
    if kind["type"] == "language":
        return LanguageHead(kind.get("features", 0))
    if kind["type"] == "marker":
        return MarkerHead(size, kind["outputs"], kind.get("marks", 2))
    if kind["type"] == "cloze":
        return ClozeHead(size, kind["outputs"])
    if "features" in kind:
        return PairHead(size, kind["features"], kind["shared"])
    return EmbeddingHead(kind["pooling"])
