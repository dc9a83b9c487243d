"""Ask the masked-LM head which word fills a gap (PET) / 用完形填空提问，由掩码语言模型头作答（PET）.

Needs ``--template``, and words for the classes with ``--verbaliser``. Source: Schick & Schütze 2021.
"""

from dataclasses import dataclass
from typing import Any

from weitiao.core.messages import say
from weitiao.few_shot.base import FewShot, Situation


@dataclass
class Cloze(FewShot):
    """The whole model is trained, its masked-LM head too, of which only the classes' words are kept."""

    def settings(self) -> dict[str, Any]:
        return {"num_epochs": 10, "batch_size": 8, "learning_rate": 5e-5, "checkpoint_epochs": 0}

    def unfit(self, there: Situation) -> str:
        if "{mask}" not in there.options.get("template", ""):
            return say(
                "it needs a prompt, as in --template '{text} It was {mask}.' --verbaliser positive=good,negative=bad",
                "它需要提示模板，例如 --template '{text}总之很{mask}。' --verbaliser 正面=好,负面=差",
            )
        if not there.masked_lm:
            return say(
                "the model has no masked-LM head: name the folder of a ...ForMaskedLM model, or one trained as such",
                "该模型没有掩码语言模型头：请指定 ...ForMaskedLM 模型的目录，或先做掩码预训练",
            )
        return ""
