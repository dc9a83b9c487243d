"""A corpus as one long row of token ids a part, on the disk, cut into blocks of equal length.

Documents follow one another as they do in the corpus, an end mark after each, so a block holds what stands together.
The rows are memory-mapped: a corpus larger than the memory costs disk, not memory.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.core.events import Event, ProgressEvent
from weitiao.core.messages import say
from weitiao.core.runs import atomic_folder, read_json, write_json
from weitiao.data.encode import CHUNK

PARTS = ("train", "held_out")


@dataclass
class Blocks:
    """A row of T ids as N blocks of ``size``; block i begins at ``i * size``, the last one may be shorter.

    ``overlap`` more ids follow in each block where there are any: what a causal model is to predict last.
    """

    ids_T: np.ndarray
    size: int
    overlap: int = 0
    text_bytes: int = 0  # of the text that the row says, a line end after each document

    def __len__(self) -> int:
        return max(-(-(len(self.ids_T) - self.overlap) // self.size), 0)

    def __getitem__(self, block: int) -> np.ndarray:
        start = block * self.size
        return self.ids_T[start : start + self.size + self.overlap]

    @property
    def lengths(self) -> np.ndarray:
        """Tokens to read of each block, int64 ``[N]``."""
        ends = np.minimum(np.arange(1, len(self) + 1) * self.size, len(self.ids_T) - self.overlap)
        return np.diff(ends, prepend=0)

    def first(self, blocks: int) -> "Blocks":
        """The row's beginning; its bytes are counted in proportion."""
        ids = self.ids_T[: blocks * self.size + self.overlap]
        return Blocks(
            ids, self.size, self.overlap, round(self.text_bytes * len(ids) / max(len(self.ids_T), 1))
        )


def write(
    documents: Iterable[tuple[str, bool]],
    tokenizer: Any,
    end: int,
    folder: Path,
    about: dict[str, Any],
    total_bytes: int,
    save_tokenizer: Callable[[Path], None] | None = None,
) -> Iterator[Event]:
    """Encode documents (text, held out) into ``folder``, whole or not at all, with ``about`` beside them.

    Args:
        end: the id that ends a document; each part begins with one too.
    """
    done = 0
    with atomic_folder(folder) as new:
        files = {part: open(new / f"{part}.ids", "wb") for part in PARTS}  # noqa: SIM115 - closed below
        counts = {part: {"documents": 0, "tokens": 1, "bytes": 0} for part in PARTS}
        try:
            for file in files.values():
                file.write(np.array([end], np.int32).tobytes())
            for chunk in _chunks(documents):
                yield ProgressEvent(
                    say("reading the corpus", "读入语料"), min(done, total_bytes), total_bytes
                )
                texts = [text for text, _ in chunk]
                encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
                for (text, held), encoding in zip(chunk, encodings, strict=True):
                    part = PARTS[held]
                    files[part].write(np.array([*encoding.ids, end], np.int32).tobytes())
                    size = len(text.encode("utf-8")) + 1
                    counts[part]["documents"] += 1
                    counts[part]["tokens"] += len(encoding.ids) + 1
                    counts[part]["bytes"] += size
                    done += size
        finally:
            for file in files.values():
                file.close()
        yield ProgressEvent(say("reading the corpus", "读入语料"), total_bytes, total_bytes)
        if save_tokenizer is not None:
            save_tokenizer(new)
        # Written last: ``about`` may hold counts that reading the documents filled.
        write_json(new / "about.json", about | {"parts": counts})


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The rows of a folder that ``write`` made, memory-mapped, and what was said about them."""
    about = read_json(folder / "about.json")
    # The "c" mode: torch wants writable memory, and the file stays as it is.
    rows: dict[str, np.ndarray] = {
        part: np.memmap(folder / f"{part}.ids", np.int32, mode="c") for part in PARTS
    }
    return rows, about


def _chunks(documents: Iterable[tuple[str, bool]]) -> Iterator[list[tuple[str, bool]]]:
    chunk: list[tuple[str, bool]] = []
    for document in documents:
        chunk.append(document)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
