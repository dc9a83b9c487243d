"""Trim the vocabulary to the pieces that a corpus uses / 把词表裁剪到语料用到的部分.

A multilingual encoder spends most of its bytes on pieces of languages that never come. What stays: the pieces that the
corpus is cut into, every single character and byte, and a margin of likely ones. So the corpus is cut as before, and in
other texts a piece that is gone falls back to smaller ones: never to unknown where it was known.
"""

import json
from dataclasses import dataclass
from typing import Any

import torch

from weitiao.compression._rebuild import rebuild
from weitiao.compression._tokenizer import closed, indispensable, pieces_of, trimmed, used_pieces, with_margin
from weitiao.compression.base import Compression, Steps, Subject
from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.events import ProgressEvent
from weitiao.core.messages import say

CHUNK = 5000


@dataclass
class Vocabulary(Compression):
    """Fewer rows in the embeddings, and a tokenizer file that loads faster."""

    vocabulary_margin: float = option(
        0.25,
        "further likely pieces that stay, as a share of those in use",
        "额外保留的常用片段，占已用片段的比例",
        least=0,
        most=100,
    )

    def apply(self, subject: Subject) -> Steps:
        encoder, tokenizer = subject.encoder, subject.tokenizer
        if not subject.texts and not subject.rows:
            raise WeitiaoError(
                say(
                    "Trimming a vocabulary needs texts: name a file of them with --corpus",
                    "裁剪词表需要文本：请用 --corpus 指定文本文件",
                )
            )
        spec = json.loads(tokenizer.to_str())
        before = pieces_of(spec)
        used: set[str] = set()
        for start in range(0, len(subject.texts), CHUNK):
            yield ProgressEvent(say("reading the corpus", "读入语料"), start, len(subject.texts))
            used |= used_pieces(tokenizer, subject.texts[start : start + CHUNK], ())
        yield ProgressEvent(say("reading the corpus", "读入语料"), len(subject.texts), len(subject.texts))
        # The task's own rows as the model reads them: with their marks, for one.
        rows = subject.labelled().ids.values.tolist() if subject.rows else []
        used |= used_pieces(tokenizer, (), rows)
        kept = with_margin(spec, closed(spec, used | indispensable(spec)), self.vocabulary_margin)
        kept = closed(spec, kept & before.keys())
        new, old_ids = trimmed(spec, kept)
        rows_T = torch.tensor([number for number in old_ids if number < encoder.shape.vocab_size])
        tensors = dict(encoder.state_dict())
        name = "embeddings.word_embeddings.weight"
        tensors[name] = tensors[name][rows_T]
        place = {old: number for number, old in enumerate(old_ids)}
        ids = {
            key: place[value]
            for key, value in subject.model.config.items()
            if key.endswith("_token_id") and isinstance(value, int) and value in place
        }
        rebuild(subject.model, tensors, vocab_size=len(old_ids), **_first_position(subject, ids))
        subject.tokenizer = type(tokenizer).from_str(json.dumps(new, ensure_ascii=False))
        return {"pieces_before": len(before), "pieces_after": len(kept), "pieces_used": len(used)}


def _first_position(subject: Subject, ids: dict[str, int]) -> dict[str, Any]:
    """The new ids of special tokens for the config. RoBERTa and its kin count positions from the padding id.

    Raises:
        WeitiaoError: that id would move, and all positions with it.
    """
    old = subject.model.config.get("pad_token_id", 1)
    if subject.model.config.get("model_type") != "bert" and ids.get("pad_token_id", old) != old:
        raise WeitiaoError(
            say(
                "The padding token's id would move, and this architecture counts positions from it. "
                "Leave out 'vocabulary'",
                "填充符的 id 会改变，而该架构的位置编号由它算起。请去掉 vocabulary 这一步",
            )
        )
    return ids
