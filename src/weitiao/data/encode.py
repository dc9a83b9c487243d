"""Token ids of a whole table, flat and without padding, and the tokenizer that makes them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.data.table import batches

CHUNK = 2000
PATCH = 8  # pixels of the side of a square that counts as a token
IGNORED = -100  # a token target that is not scored


@dataclass
class Ragged:
    """Rows of different lengths in one flat array: row i is ``values[offsets[i] : offsets[i + 1]]``."""

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, rows: Iterable[Sequence[int] | np.ndarray], dtype: Any = np.int32) -> "Ragged":
        """Pack rows of whole numbers, holding one row at a time besides the result."""
        parts, lengths = [], []
        for row in rows:
            parts.append(np.asarray(row, dtype=dtype))
            lengths.append(len(parts[-1]))
        values = np.concatenate(parts) if parts else np.empty(0, dtype)
        return cls(values, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @classmethod
    def joined(cls, parts: "Sequence[Ragged]") -> "Ragged":
        """The rows of all parts, in order."""
        ends = np.cumsum([len(part.values) for part in parts])
        starts = [part.offsets[1:] + end - len(part.values) for part, end in zip(parts, ends, strict=True)]
        return cls(
            np.concatenate([part.values for part in parts]), np.concatenate([[0], *starts]).astype(np.int64)
        )

    @property
    def lengths(self) -> np.ndarray:
        """The length of each row, int64 ``[N]``."""
        return np.diff(self.offsets)


@dataclass
class Encoded:
    """A table as a model sees it: N examples of ``per_example`` texts each.

    Attributes:
        ids: token ids, ``N * per_example`` rows; example i owns rows ``i * per_example ...``.
        types: token types in the same layout, where a pair's halves are told apart by them.
        targets: ``[N]`` class numbers (int64) or values (float32), ``[N, C]`` for several labels at once, or a
            ``Ragged`` of class numbers a token (-100: not scored).
        marks: ``[N, k]`` positions of the tokens a head reads, where it reads some; a ``Ragged`` where texts have
            different numbers of them, and then ``targets`` are those of the marked tokens.
        offsets: for each text, ``[tokens, 2]`` character offsets; kept where answers point into the text.
        image_shape: (height, width, channels) where the examples are pictures: ``ids`` are then their pixels, uint8,
            row by row.
        uncut: int ``[N]``, tokens before the cut to ``max_length`` (of the longest text of an example).
        features: float32 ``[N, K, F]``: what a frozen model made of the other half of an example, computed once: of a
            picture's captions, or of the pictures beside a text.
        known: for each text P pairs of a token's place and the number of what the user's tables know of its word,
            flat, ``[2 P]``.
        facts: what an objective must know of each example beside its target, by name, ``[N, ...]``.
    """

    ids: Ragged
    targets: np.ndarray | Ragged | None = None
    types: Ragged | None = None
    marks: np.ndarray | Ragged | None = None
    offsets: list[np.ndarray] | None = None
    uncut: np.ndarray | None = None
    per_example: int = 1
    image_shape: tuple[int, int, int] | None = None
    features: np.ndarray | None = None
    known: Ragged | None = None
    facts: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids) // self.per_example

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, all its texts together, ``[N]``; of a picture, its squares of 8 x 8 pixels.

        That is about what a picture costs beside a text, so that batches cut by tokens fit pictures too.
        """
        if self.image_shape is not None:
            height, width, _ = self.image_shape
            return np.full(len(self), -(-height // PATCH) * -(-width // PATCH), np.int64)
        return self.ids.lengths.reshape(-1, self.per_example).sum(1)

    @classmethod
    def joined(cls, parts: "Sequence[Encoded]") -> "Encoded":
        """The examples of all parts (at least one), in order; the parts must hold the same fields."""

        def join(name: str) -> Any:
            values = [getattr(part, name) for part in parts]
            if any(value is None for value in values):
                return None
            if isinstance(values[0], list):
                return [item for value in values for item in value]
            return Ragged.joined(values) if isinstance(values[0], Ragged) else np.concatenate(values)

        names = ("ids", "targets", "types", "marks", "offsets", "uncut", "features", "known")
        fields = {name: join(name) for name in names}
        facts = {name: np.concatenate([part.facts[name] for part in parts]) for name in parts[0].facts}
        return cls(**fields, per_example=parts[0].per_example, image_shape=parts[0].image_shape, facts=facts)


def rows_in_chunks(records: Any, columns: Sequence[str] | None = None) -> Iterator[list[dict[str, Any]]]:
    """A list of rows, or the rows of a ``datasets.Dataset``, in lists of at most ``CHUNK``.

    A Dataset is read column by column: row by row takes ten times as long.
    """
    if isinstance(records, list):
        yield from (records[start : start + CHUNK] for start in range(0, len(records), CHUNK))
        return
    for batch in batches(records, columns):
        rows = [dict(zip(batch, cells, strict=True)) for cells in zip(*batch.values(), strict=True)]
        yield from rows_in_chunks(rows)


def load_tokenizer(folder: str | Path) -> Any:
    """The ``tokenizers.Tokenizer`` of a model folder, without truncation or padding.

    A folder without ``tokenizer.json`` is converted by ``transformers`` where that can be done.

    Raises:
        WeitiaoError: the folder has no tokenizer that can be read.
    """
    from tokenizers import Tokenizer

    file = Path(folder) / "tokenizer.json"
    try:
        if file.exists():
            tokenizer = Tokenizer.from_file(str(file))
        else:
            from transformers import AutoTokenizer

            slow = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            tokenizer = Tokenizer.from_str(slow.backend_tokenizer.to_str())
    except Exception as error:  # the libraries raise bare Exception for a damaged file
        first = " ".join(str(error).split())[:150]
        raise WeitiaoError(
            say(
                f"{folder} has no tokenizer that can be read: {first}. Expected tokenizer.json",
                f"{folder} 中没有可读取的分词器：{first}。应有 tokenizer.json",
            )
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encode_texts(
    tokenizer: Any, texts: Iterable[str | tuple[str, str]], max_length: int, *, offsets: bool = False
) -> Iterator[Any]:
    """``tokenizers.Encoding`` of each text or pair, cut to ``max_length`` tokens, special tokens included.

    An encoding that was cut has ``overflowing`` parts. Without ``offsets`` a faster way is taken.
    """
    tokenizer.enable_truncation(max_length)
    run = tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast
    try:
        chunk: list[Any] = []
        for text in texts:
            chunk.append(text)
            if len(chunk) == CHUNK:
                yield from run(chunk)
                chunk = []
        yield from run(chunk)
    finally:
        tokenizer.no_truncation()


def uncut_length(encoding: Any) -> int:
    """The tokens a text had before it was cut; each part that was cut off repeats two special tokens."""
    return len(encoding.ids) + sum(max(len(part.ids) - 2, 0) for part in encoding.overflowing)
