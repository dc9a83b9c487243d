"""A large Unigram vocabulary, ready for a few texts in a fraction of the time.

Building the tokenizer of a 250,000-piece vocabulary takes most of a second. How a Unigram model cuts a text depends
only on the pieces that occur in it and, through the penalty for what is unknown, on the lowest score of all; so for a
few texts a vocabulary of those pieces gives the same tokens. Ids are mapped back to those of the whole vocabulary.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

LEAST_BYTES = 2 << 20  # a smaller file is read whole sooner
SPACE = "▁"
Text = str | tuple[str, str]


class QuickEncoding:
    """What tasks read of a ``tokenizers.Encoding``, with the whole vocabulary's ids."""

    def __init__(self, encoding: Any, old: Sequence[int]) -> None:
        self.ids = [old[number] for number in encoding.ids]
        self.type_ids: list[int] = encoding.type_ids
        self.offsets: list[tuple[int, int]] = encoding.offsets
        self.overflowing = [QuickEncoding(part, old) for part in encoding.overflowing]


class QuickTokenizer:
    """The part of ``tokenizers.Tokenizer`` that tasks call; each call builds the vocabulary that its texts need."""

    def __init__(self, whole: dict[str, Any]) -> None:
        self.whole = whole
        self.pieces: list[tuple[str, float]] = whole["model"]["vocab"]
        self.lowest = min(range(len(self.pieces)), key=lambda number: self.pieces[number][1])
        self.special = {token["content"]: token["id"] for token in whole["added_tokens"]}
        self.truncation = 0

    @classmethod
    def open(cls, path: Path) -> "QuickTokenizer | None":
        """The tokenizer in a file, where it is a large one of the kind that this can do exactly; None for others."""
        if path.stat().st_size < LEAST_BYTES:
            return None
        data = path.read_bytes()
        if b'"Unigram"' not in data:
            return None
        whole = json.loads(data)
        model, splitter = whole["model"], whole["pre_tokenizer"] or {}
        plain = (
            model["type"] == "Unigram"
            and not model.get("byte_fallback")
            and splitter.get("type") == "Metaspace"
        )
        return cls(whole) if plain and splitter.get("replacement") == SPACE else None

    def enable_truncation(self, max_length: int) -> None:
        """Cut texts to so many tokens."""
        self.truncation = max_length

    def no_truncation(self) -> None:
        """Leave texts whole."""
        self.truncation = 0

    def encode_batch(self, texts: Sequence[Text]) -> list[QuickEncoding]:
        """``Tokenizer.encode_batch``."""
        return self._encode(texts, "encode_batch")

    def encode_batch_fast(self, texts: Sequence[Text]) -> list[QuickEncoding]:
        """``Tokenizer.encode_batch_fast``: without offsets."""
        return self._encode(texts, "encode_batch_fast")

    def get_vocab_size(self) -> int:
        """The pieces of the whole vocabulary."""
        return len(self.pieces)

    def _encode(self, texts: Sequence[Text], how: str) -> list[QuickEncoding]:
        flat = [part for text in texts for part in ((text,) if isinstance(text, str) else text)]
        tokenizer, old = self._for(flat)
        if self.truncation:
            tokenizer.enable_truncation(self.truncation)
        return [QuickEncoding(encoding, old) for encoding in getattr(tokenizer, how)(list(texts))]

    def _for(self, texts: Sequence[str]) -> tuple[Any, list[int]]:
        """A tokenizer for some texts, and the id in the whole vocabulary of each of its ids."""
        from tokenizers import Tokenizer

        found = SPACE.join(self._normalised(texts))
        found = f"{SPACE}{found}{SPACE}".replace(" ", SPACE)
        kept = {number for number, (piece, _) in enumerate(self.pieces) if piece in found}
        kept |= {self.lowest, *(n for n in self.special.values() if n < len(self.pieces))}
        if (unknown := self.whole["model"].get("unk_id")) is not None:
            kept.add(unknown)
        old = sorted(kept)
        beyond = sorted(n for n in self.special.values() if n >= len(self.pieces))
        new = {number: place for place, number in enumerate([*old, *beyond])}
        model = {**self.whole["model"], "vocab": [self.pieces[number] for number in old]}
        if unknown is not None:
            model["unk_id"] = new[unknown]
        tokens = [{**token, "id": new[token["id"]]} for token in self.whole["added_tokens"]]
        settings = {**self.whole, "model": model, "added_tokens": tokens, "truncation": None, "padding": None}
        finisher = settings.get("post_processor") or {}
        if "special_tokens" in finisher:
            marks = {
                name: {**mark, "ids": [new[number] for number in mark["ids"]]}
                for name, mark in finisher["special_tokens"].items()
            }
            settings["post_processor"] = {**finisher, "special_tokens": marks}
        return Tokenizer.from_str(json.dumps(settings)), [*old, *beyond]

    def _normalised(self, texts: Sequence[str]) -> list[str]:
        """Texts as the model sees them, before spaces are replaced."""
        from tokenizers import Tokenizer

        pieces = [self.pieces[number] for number in range(min(len(self.pieces), 8))]
        model = {**self.whole["model"], "vocab": pieces, "unk_id": None}
        bare = {**self.whole, "model": model, "added_tokens": [], "post_processor": None}
        normaliser = Tokenizer.from_str(json.dumps({**bare, "truncation": None, "padding": None})).normalizer
        return [text if normaliser is None else normaliser.normalize_str(text) for text in texts]
