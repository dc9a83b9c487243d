"""Sentences are translated and translated back, by models you have / 回译：句子译成另一种语言再译回（使用你已有的翻译模型）.

Source: Sennrich et al. 2016, "Improving Neural Machine Translation Models with Monolingual Data"; for classification
Xie et al. 2020, "Unsupervised Data Augmentation". Each model is a folder of an encoder-decoder of ``transformers``
(Marian, T5 ...). A sentence in which an entity begins or ends stays as it is, so spans stay where they were.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

from weitiao.augmentation.base import Augmentation, Edit
from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say

SENTENCE = re.compile(r"\S(?:.*?\S)??(?:[。！？!?]+|\.(?=\s|$)|(?=\s*$|\s*\n))", re.MULTILINE)
LONGEST = 256  # tokens of a sentence, and of its translation
CHOICES = 8  # each word is drawn among so many, or every copy of a text would be the same


@dataclass
class BackTranslation(Augmentation):
    """``rate`` is the share of a text's sentences that are rewritten, one at least."""

    translator: str = option(
        "", "folder of a model that translates the texts", "把文本译成另一种语言的翻译模型目录"
    )
    translator_back: str = option(
        "", "folder of a model that translates them back", "把译文译回原语言的翻译模型目录"
    )

    _ways: tuple[Any, Any] = field(init=False, repr=False)

    def prepare(self) -> None:
        for flag, folder in (("translator", self.translator), ("translator-back", self.translator_back)):
            if not folder:
                raise WeitiaoError(
                    say(
                        f"Back-translation needs two translation models: --{flag} FOLDER is missing",
                        f"回译需要两个翻译模型：缺少 --{flag} 目录",
                    )
                )
        self._ways = (
            _opened(self.translator, "translator"),
            _opened(self.translator_back, "translator-back"),
        )

    def edits(self, text: str, random: Random) -> Iterable[Edit]:
        found = list(SENTENCE.finditer(text))
        if not found:
            return
        sentences, seed = [part[0] for part in found], random.randrange(2**31)
        for model, tokenizer in self._ways:
            sentences = _translated(model, tokenizer, sentences, seed)
        for part, new in zip(found, sentences, strict=True):
            if new and new != part[0]:
                yield Edit(part.start(), part.end(), new)


@lru_cache(4)
def _opened(folder: str, flag: str) -> tuple[Any, Any]:
    """A model, ready to translate, and its tokenizer; both from the folder alone.

    Raises:
        WeitiaoError: it holds none.
    """
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    if not (Path(folder) / "config.json").exists():
        raise WeitiaoError(
            say(f"--{flag}: {folder} is no model's folder", f"--{flag}：{folder} 不是模型目录")
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except Exception as error:  # the library raises many kinds for a folder that it cannot open
        first = " ".join(str(error).split())[:150]
        raise WeitiaoError(
            say(
                f"--{flag}: {folder} is no translation model that can be opened: {first}",
                f"--{flag}：{folder} 不是可打开的翻译模型：{first}",
            )
        ) from None
    return model.eval(), tokenizer


def _translated(model: Any, tokenizer: Any, sentences: list[str], seed: int) -> list[str]:
    """The sentences in the other language; the same seed draws the same words."""
    import torch

    batch = tokenizer(sentences, return_tensors="pt", padding=True, truncation=True, max_length=LONGEST)
    wanted = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.inference_mode(), torch.random.fork_rng():
        torch.manual_seed(seed)
        ids = model.generate(**wanted, do_sample=True, top_k=CHOICES, num_beams=1, max_length=LONGEST)
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
