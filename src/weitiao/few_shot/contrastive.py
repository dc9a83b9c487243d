"""Pull texts of a class together, then fit the head / 先让同类文本的向量靠近，再拟合分类头（对比式小样本）.

SetFit (Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts") draws pairs of the labelled texts, reads
both texts of each, and so reads every text dozens of times. Here a step holds many texts, each read once, and all
pairs among them count; a dozen passes are enough.
"""

from dataclasses import dataclass
from typing import Any

from weitiao.core.messages import say
from weitiao.few_shot.base import FewShot, Situation


@dataclass
class Contrastive(FewShot):
    """The pairs teach the backbone; the head learns along a little, and is fitted to the features at the end."""

    def settings(self) -> dict[str, Any]:
        return {
            "objective": "0.01*cross_entropy+cosine_pairs",
            "refit_head": True,
            "num_epochs": 12,
            "learning_rate": 1e-4,
            "batch_tokens": 8192,
            "checkpoint_epochs": 0,  # a run of seconds: writing the weights a dozen times would take longer
        }

    def unfit(self, there: Situation) -> str:
        if there.fewest < 2:
            return say(
                "it compares texts of one class, and a class has only one: give each at least two, or use "
                "--few-shot probe",
                "它要比较同类文本，而有的类别只有一条：请为每类至少提供两条，或使用 --few-shot probe",
            )
        return ""
