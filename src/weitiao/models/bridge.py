"""A bridge from pictures to a frozen language model: features of a picture become a few embeddings that it reads.

It reads the question, then each picture as k embeddings, then writes the answer (the projector of Liu et al. 2023,
"Visual Instruction Tuning", over a decoder that stays as it is, as in Tsimpoukelli et al. 2021). The question comes
first, so what the decoder makes of it is the same for every picture: its keys and values are computed once.

Shapes: B texts, K pictures a text, F features, k embeddings a picture, D hidden size, L tokens after the question.
"""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weitiao.models.decoder import Cache, Decoder
from weitiao.models.kernels import Dropout
from weitiao.models.packed import Packed

KEPT_QUESTIONS = 64
QUESTION, ANSWER = 0, 1  # ``Packed.types_T``
Group = tuple[Tensor, int, list[int]]  # a question, how many pictures, the texts that have both


class Projector(nn.Module):
    """Features ``[N, F]`` to embeddings ``[N, k, D]``: two layers, after a normalisation without parameters."""

    def __init__(self, features: int, size: int, tokens: int, hidden_size: int, spread: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(features, size), nn.Linear(size, tokens * hidden_size)
        nn.init.normal_(self.down.weight, std=spread / size**0.5)  # so that they begin as large as words are
        nn.init.zeros_(self.down.bias)
        self.hidden_size = hidden_size

    def forward(self, features_NF: Tensor) -> Tensor:
        x_NF = F.layer_norm(features_NF, features_NF.shape[-1:])
        return self.down(F.gelu(self.up(x_NF))).unflatten(-1, (-1, self.hidden_size))


class Bridge(nn.Module):
    """The decoder, frozen, and the projector. Texts are packed: their question's tokens, then their answer's.

    ``packed.types_T`` tells the two apart; ``packed.features_BKF`` are the pictures, NaN where a text has fewer.
    """

    gives_rows = True

    def __init__(self, decoder: Decoder, features: int, size: int, tokens: int) -> None:
        super().__init__()
        self.decoder, self.tokens, self.shape = decoder.eval(), tokens, decoder.shape
        spread = float(decoder.embed(torch.arange(min(2000, decoder.shape.vocab_size))).detach().std())
        self.projector = Projector(features, size, tokens, decoder.shape.hidden_size, spread)
        self._questions: OrderedDict[tuple[Any, ...], Cache] = OrderedDict()

    def forward(
        self, packed: Packed, dropout: Dropout | None = None, *, rows_R: Tensor | None = None
    ) -> Tensor:
        """The states that each answer's tokens and its end are read off, ``[A, D]``, text by text."""
        found: dict[int, Tensor] = {}
        answers = [ids[types == ANSWER] for ids, types in _texts(packed)]
        for question, pictures, texts in _groups(packed):
            x_BLD = self._pictures(packed, texts, pictures)
            lengths = [len(answers[text]) for text in texts]
            if longest := max(lengths):
                ids_BL = torch.stack(
                    [F.pad(answers[text], (0, longest - len(answers[text]))) for text in texts]
                )
                x_BLD = torch.cat([x_BLD, self.decoder.embed(ids_BL)], 1)
            states_BLD, _ = self._read(question, x_BLD, room=0)
            first = pictures * self.tokens - 1  # the last picture's last embedding says how the answer begins
            for text, states_LD, length in zip(texts, states_BLD, lengths, strict=True):
                found[text] = states_LD[first : first + length + 1]
        return torch.cat([found[text] for text in range(len(found))])

    @torch.no_grad()
    def answer(
        self, question: Tensor, features_BKF: Tensor, ends: set[int], most: int
    ) -> list[tuple[list[int], float]]:
        """Greedy answers to one question about B pictures (or B times K): token ids, and their probability.

        Args:
            ends: tokens that end an answer; they are no part of it.
            most: tokens at most.
        """
        batch, pictures, _ = features_BKF.shape
        x_BLD = self.projector(features_BKF.flatten(0, 1)).reshape(batch, pictures * self.tokens, -1)
        states_BLD, cache = self._read(question, x_BLD, room=most)
        ids: list[list[int]] = [[] for _ in range(batch)]
        sure, going = torch.ones(batch), torch.ones(batch, dtype=torch.bool)
        for _ in range(most):
            best_B = self.decoder.logits(states_BLD[:, -1]).float().softmax(-1).max(-1)
            sure = torch.where(going, sure * best_B.values, sure)
            going = going & torch.tensor([int(token) not in ends for token in best_B.indices])
            for row in going.nonzero().flatten().tolist():
                ids[row].append(int(best_B.indices[row]))
            if not going.any():
                break
            states_BLD = self.decoder.step(best_B.indices.unsqueeze(1), cache)
        return list(zip(ids, sure.tolist(), strict=True))

    def _pictures(self, packed: Packed, texts: list[int], pictures: int) -> Tensor:
        """The embeddings of some texts' pictures, ``[B, K * k, D]``."""
        assert packed.features_BKF is not None
        features_BKF = packed.features_BKF[texts, :pictures]
        return self.projector(features_BKF.flatten(0, 1)).reshape(len(texts), pictures * self.tokens, -1)

    def _read(self, question: Tensor, x_BLD: Tensor, room: int) -> tuple[Tensor, Cache]:
        """The states of what follows a question, and the cache, which may grow by ``room`` tokens more."""
        past, batch, length = self._question(question), x_BLD.shape[0], x_BLD.shape[1]
        cache = self.decoder.new_cache(batch, len(question) + length + room)
        for new, old in zip((*cache.keys, *cache.values), (*past.keys, *past.values), strict=True):
            new[:, :, : len(question)] = old
        cache.advance(len(question), None)
        return self.decoder.read(None, cache, inputs_BLD=x_BLD), cache

    def _question(self, ids: Tensor) -> Cache:
        device, length = ids.device.type, len(ids)
        # What training read in bf16 is not what prediction reads in fp32.
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        key = (low, *ids.tolist())
        if key not in self._questions:
            with torch.inference_mode(False):  # training may use what prediction kept
                cache = self.decoder.new_cache(1, length)
                self.decoder.step(ids.unsqueeze(0), cache)
            self._questions[key] = cache
            if len(self._questions) > KEPT_QUESTIONS:
                self._questions.popitem(last=False)
        self._questions.move_to_end(key)
        return self._questions[key]


def _texts(packed: Packed) -> list[tuple[Tensor, Tensor]]:
    """Token ids and types of each text."""
    assert packed.types_T is not None
    lengths = packed.lengths_B.tolist()
    return list(zip(packed.ids_T.split(lengths), packed.types_T.split(lengths), strict=True))


def _groups(packed: Packed) -> list[Group]:
    """Texts that have the same question about as many pictures."""
    assert packed.features_BKF is not None
    counts = (~packed.features_BKF[:, :, 0].isnan()).sum(1).tolist()
    found: dict[tuple[tuple[int, ...], int], Group] = {}
    for text, (ids, types) in enumerate(_texts(packed)):
        question = ids[types == QUESTION]
        key = (tuple(question.tolist()), counts[text])
        found.setdefault(key, (question, counts[text], []))[2].append(text)
    return list(found.values())
