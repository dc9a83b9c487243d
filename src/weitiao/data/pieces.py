"""What a tokenizer's pieces are: where words begin, which are Chinese, which end a sentence."""

import json
import re
from typing import Any

import numpy as np

from weitiao.core.byte_letters import byte_letters

ENDS = tuple("。！？!?.;；…\n")
CHINESE = re.compile(r"[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff]")


def facts(tokenizer: Any) -> dict[str, np.ndarray]:
    """For each id, bool ``[V]``: ``starts_V`` (begins a word), ``chinese_V`` (begins with Chinese), ``ends_V``
    (a sentence ends with it)."""
    whole = json.loads(tokenizer.to_str())
    written = json.dumps([whole.get("pre_tokenizer"), whole.get("decoder")], ensure_ascii=False)
    style = "bytes" if "ByteLevel" in written else "spaces" if "▁" in written else "hashes"
    found = [_piece(tokenizer.id_to_token(i) or "", style) for i in range(tokenizer.get_vocab_size())]
    starts, chinese, ends = np.array(found, bool).T
    return {"starts_V": starts, "chinese_V": chinese, "ends_V": ends}


def _piece(piece: str, style: str) -> tuple[bool, bool, bool]:
    """``style``: "bytes" (a space is a byte before the word), "spaces" (SentencePiece), "hashes" (WordPiece)."""
    if style == "bytes":
        raw = bytes(byte_letters().get(char, 32) for char in piece)
        text = raw.decode("utf-8", "ignore")
        # A byte that goes on a character begins nothing; letters without a space before them go on a word.
        starts = not (raw and 0x80 <= raw[0] < 0xC0) and not text[:1].isalnum()
    elif style == "spaces":
        text = piece.lstrip("▁")
        starts = piece.startswith("▁") or not text[:1].isalnum()
    else:
        text = piece.removeprefix("##")
        starts = not piece.startswith("##")
    chinese = bool(CHINESE.match(text.lstrip()))
    return starts or chinese, chinese, text.rstrip(" ").endswith(ENDS)
