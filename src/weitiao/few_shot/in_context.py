"""Show labelled texts in the prompt of a model that writes on; nothing is trained / 把标注样本写进提示，由生成式模型作答，不训练.

Sources: Brown et al. 2020, "Language Models are Few-Shot Learners"; Zhao et al. 2021, "Calibrate Before Use": what the
model answers where there is no text at all is divided out.
"""

from dataclasses import dataclass
from typing import Any

from weitiao.core.config import option
from weitiao.core.messages import say
from weitiao.few_shot.base import FewShot, Situation


@dataclass
class InContext(FewShot):
    """A class is scored by the token its word begins with."""

    demonstrations: int = option(
        16,
        "labelled texts that are shown, all classes in turn",
        "提示中展示的标注样本数，各类别轮流",
        least=1,
    )

    causal = True

    def settings(self) -> dict[str, Any]:
        return {"tuning": "head", "max_length": 1024}

    def unfit(self, there: Situation) -> str:
        if "{mask}" in there.options.get("template", ""):
            return say(
                "its template has no {mask}, the answer comes at the end: 'Text: {text} Label:'",
                "它的模板中没有 {mask}，答案在末尾：“文本：{text} 类别：”",
            )
        return ""
