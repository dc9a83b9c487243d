"""Learned tokens before each text: as embeddings (prompts), or as keys and values in every layer (prefixes).

The wrapped encoder runs over texts that are ``count`` tokens longer and gives out the texts' own tokens only, so
heads need not know. A text's own positions stay as they are; the learned tokens have none, since what they learn can
hold one.

Shapes: n virtual tokens; else as in ``packed``.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from weitiao.models.encoder import Encoder
from weitiao.models.kernels import Dropout
from weitiao.models.packed import Packed, widen


class VirtualTokens(nn.Module):
    """An encoder with virtual tokens before each text. ``prompt`` gives their embeddings; None: their states are 0."""

    gives_rows = True

    def __init__(self, inner: Encoder, count: int, prompt: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.count, self.prompt = inner, count, prompt
        self.place = Place()
        self.shape = replace(inner.shape, max_position_embeddings=inner.shape.max_position_embeddings - count)

    @property
    def checkpointing(self) -> bool:
        """As ``Encoder.checkpointing``."""
        return self.inner.checkpointing

    @checkpointing.setter
    def checkpointing(self, wish: bool) -> None:
        self.inner.checkpointing = wish

    def forward(
        self, packed: Packed, dropout: Dropout | None = None, *, rows_R: Tensor | None = None
    ) -> Tensor:
        """Hidden states of the texts' own tokens, ``[T, D]``, or of those in ``rows_R``."""
        wide, own_T, new_N = widen(packed, self.count)
        self.place.rows_N = new_N
        x_TD = self.inner.embeddings(packed, dropout)
        wide_TD = x_TD.new_zeros(len(wide.ids_T), x_TD.shape[1]).index_copy(0, own_T, x_TD)
        if self.prompt is not None:
            norm, p = self.inner.embeddings.LayerNorm, self.shape.hidden_dropout_prob
            new_ND = norm(self.prompt()).to(x_TD.dtype).repeat(len(packed.lengths_B), 1)
            if dropout is not None and p > 0:
                new_ND = new_ND * dropout.mask(new_ND, p)
            wide_TD = wide_TD.index_copy(0, new_N, new_ND)
        rows_R = own_T if rows_R is None else own_T[rows_R]
        return self.inner(wide, dropout, rows_R=rows_R, hidden_TD=wide_TD)


class Place:
    """Where the virtual tokens of the batch at hand stand in the flat row, ``[B * n]``."""

    rows_N: Tensor


class Prompt(nn.Module):
    """Learned embeddings, ``[n, D]``, that begin as those of words drawn at random (Lester et al. 2021)."""

    def __init__(self, embeddings_nD: Tensor) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(embeddings_nD)

    def forward(self) -> Tensor:
        """``[n, D]``."""
        return self.embeddings


class EncodedPrompt(nn.Module):
    """Learned embeddings through a small network (Liu et al. 2021), added to words drawn at random.

    ``lstm``: a bidirectional LSTM, then a network of two layers; ``mlp``: the latter alone.
    """

    def __init__(self, words_nD: Tensor, kind: str, size: int) -> None:
        super().__init__()
        count, width = words_nD.shape
        self.words_nD = words_nD
        self.embeddings = nn.Parameter(torch.randn(count, width))
        self.lstm = nn.LSTM(width, size, bidirectional=True) if kind == "lstm" else None
        read = width if self.lstm is None else 2 * size
        self.mlp = nn.Sequential(nn.Linear(read, size), nn.ReLU(), nn.Linear(size, width))

    def forward(self) -> Tensor:
        """``[n, D]``, in fp32."""
        with torch.autocast(self.embeddings.device.type, enabled=False):
            x_nD = self.embeddings if self.lstm is None else self.lstm(self.embeddings)[0]
            return self.words_nD.to(x_nD.device) + self.mlp(x_nD)


class PrefixLinear(nn.Module):
    """A layer of keys or values whose rows at the virtual tokens are learned, ``[n, D]``."""

    def __init__(self, base_layer: nn.Module, place: Place, prefix_nD: Tensor) -> None:
        super().__init__()
        self.base_layer, self.place = base_layer, place
        self.prefix_nD = nn.Parameter(prefix_nD)

    def forward(self, x_TD: Tensor) -> Tensor:
        """``[T, D]``."""
        y_TD = self.base_layer(x_TD)
        texts = len(self.place.rows_N) // len(self.prefix_nD)
        return y_TD.index_copy(0, self.place.rows_N, self.prefix_nD.to(y_TD.dtype).repeat(texts, 1))


@torch.no_grad()
def random_words(encoder: Encoder, count: int) -> Tensor:
    """Embeddings before the LayerNorm of words drawn from torch's generator, at the mean position, ``[n, D]``."""
    parts = encoder.embeddings
    ids_n = torch.randint(len(parts.word_embeddings.weight), (count,))
    positions = parts.position_embeddings.weight[encoder.shape.first_position :]
    return parts.word_embeddings(ids_n) + positions.mean(0) + parts.token_type_embeddings.weight[0]


@torch.no_grad()
def add_prefixes(model: VirtualTokens) -> None:
    """Put prefixes into all layers, which begin as the keys and values of a text of random words.

    Activations of words are a better start than random numbers where texts are few (Li & Liang 2021, section 6.5).
    """
    encoder, count = model.inner, model.count
    from weitiao.models.packed import pack

    ids = torch.randint(encoder.shape.vocab_size, (count,)).numpy()
    text = pack([ids], encoder.shape.first_position)
    x_nD = encoder.embeddings(text, None)
    for layer in encoder.encoder["layer"]:
        parts = layer.attention.self
        starts = {name: parts[name](x_nD) for name in ("key", "value")}
        x_nD = layer(x_nD, text, None)
        for name, start_nD in starts.items():
            parts[name] = PrefixLinear(parts[name], model.place, start_nD)
