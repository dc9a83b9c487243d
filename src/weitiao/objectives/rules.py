"""Answers that break rules of yours cost / 违反自定义规则的答案会受惩罚（逻辑约束，附加项）.

Source: Xu et al. 2018, "A Semantic Loss Function for Deep Learning with Symbolic Knowledge": -log of the probability
that a rule is kept. "If A then B" is kept with 1 - P(A) (1 - P(B)), the product t-norm's implication; what is asked of
a text is simply true or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.objectives._rule_file import Rule, read_rules
from weitiao.objectives.base import Addition

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from weitiao.training.passes import Passes

KEPT_AT_LEAST = 1e-6  # a rule that is surely broken costs 14, not infinity


@dataclass
class Rules(Addition):
    """The rules of a YAML file (see ``_rule_file``), each with its weight; the mean over rules, the sum over texts."""

    rules: str = option(
        "",
        "YAML file of rules: - {if: {contains: [refund]}, then: {not: praise}}",
        "规则文件（YAML）：- {if: {contains: [退款]}, then: {not: 表扬}}",
    )
    found: list[Rule] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    applied: "list[np.ndarray]" = field(default_factory=list)

    fits = ("classes", "labels")
    heads = ("pooled", "marker")

    def check(self) -> None:
        self.found = read_rules(self.rules)

    def facts(
        self, texts: Sequence[str], groups: Sequence[str], names: Sequence[str]
    ) -> "dict[str, np.ndarray]":
        import numpy as np

        self.names = list(names)
        for rule in self.found:
            rule.check_labels(self.rules, names)
        applies_NR = np.array([[rule.applies(text) for rule in self.found] for text in texts], bool)
        self.applied.append(applies_NR.reshape(len(texts), len(self.found)))
        return {"rules": self.applied[-1]}

    def prepare(self, targets: "Tensor", classes: int) -> None:
        import numpy as np

        if targets.ndim == 1 and (asked := [rule for rule in self.found if rule.label]):
            raise WeitiaoError(
                say(
                    f"{self.rules}: rule {asked[0].number} asks whether a text has the label '{asked[0].label}', which "
                    "is for texts with several labels (--multi-label): ask what the text contains",
                    f"{self.rules}：第 {asked[0].number} 条规则以标签“{asked[0].label}”为条件，仅适用于多标签任务"
                    "（--multi-label）：请改用文本内容作条件",
                )
            )
        counts = np.concatenate(self.applied).sum(0).tolist()
        if not any(counts):
            raise WeitiaoError(
                say(
                    f"{self.rules}: no rule applies to any training text, so none can teach anything",
                    f"{self.rules}：没有任何规则适用于训练文本，因此不起作用",
                )
            )
        shown = ", ".join(f"{rule.number}: {count:,}" for rule, count in zip(self.found, counts, strict=True))
        self.note = say(
            f"{self.rules}: training texts that each rule applies to: {shown}",
            f"{self.rules}：每条规则适用的训练文本数：{shown}",
        )

    def term(self, passes: "Passes") -> "Tensor":
        outputs, applies_NR = passes.outputs, passes.batch.facts["rules"]
        total = outputs.sum() * 0
        for number, rule in enumerate(self.found):
            rows = applies_NR[:, number]
            if rows.any():
                kept_N = self.kept(rule, outputs[rows], passes.targets.ndim == 2)
                total = total - rule.weight * kept_N.clamp_min(KEPT_AT_LEAST).log().sum()
        return total / len(self.found)

    def kept(self, rule: Rule, outputs: "Tensor", several: bool) -> "Tensor":
        """The probability that a rule that applies is kept, ``[N]``, of logits ``[N, C]``."""
        columns = [self.names.index(name) for name in rule.labels]
        if not several:
            chosen = outputs.softmax(-1)[:, columns].sum(1)
            return chosen if rule.wanted else 1 - chosen
        p_NC = outputs.sigmoid()
        none = (1 - p_NC[:, columns]).prod(1)
        then = 1 - none if rule.wanted else none
        return 1 - p_NC[:, self.names.index(rule.label)] * (1 - then) if rule.label else then
