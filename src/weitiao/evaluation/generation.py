"""Texts that a model wrote: ROUGE, BLEU, chrF, distinct-n, and how likely it finds the true ones.

Chinese is compared by characters, English by words. Some of a split's rows are written for; the likelihood is that of
all its answers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weitiao.core.messages import say
from weitiao.evaluation._bootstrap import Statistic, point
from weitiao.evaluation._overlap import bleu, bleu_counts, chrf, chrf_counts, distinct, rouge
from weitiao.evaluation._table import fit, footer, headline, sections
from weitiao.evaluation.base import Evaluation, Predictions

NAMES = {
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "bleu": "BLEU",
    "chrf": "chrF",
    "distinct_1": "distinct-1",
    "distinct_2": "distinct-2",
}
PREFERENCE = 0.1  # how much a margin in log likelihood says of a preference (Bradley and Terry 1952)


class Generation(Evaluation):
    """Scores of written texts.

    ``gold``: the references of each text, a list of texts; ``predicted``: what was written. ``extra``:
    ``negative_log_likelihood`` and ``tokens``, sums over the answers of the whole split; ``margins``: by how much the
    log likelihood of a better answer exceeds that of a worse one; ``leads``: what the baseline lead-1 says.
    """

    name = "generation"
    monitor = "rouge_l"
    chooses = "log_likelihood"  # a few written texts are too few to choose a checkpoint by

    def scores(self, predictions: Predictions) -> dict[str, float]:
        found = point(*self.resampled(predictions))
        for order in (1, 2):
            found[f"distinct_{order}"] = distinct(predictions.predicted, order)
        if tokens := predictions.extra.get("tokens"):
            likelihood = -predictions.extra["negative_log_likelihood"] / tokens
            found |= {"log_likelihood": likelihood, "perplexity": float(np.exp(min(-likelihood, 700.0)))}
        if (margins := predictions.extra.get("margins")) is not None:
            found["preference_accuracy"] = float((margins > 0).mean())
            found["log_likelihood"] = float(
                -np.logaddexp(0, -PREFERENCE * margins).mean()
            )  # of the preferences
        return found

    def resampled(self, predictions: Predictions) -> tuple[np.ndarray, Statistic]:
        return np.ones(len(predictions), np.int64), _statistic(predictions.predicted, predictions.gold)

    def baseline(self, predictions: Predictions, train_majority: Any) -> dict[str, Any]:
        """What is easy: lead-1 where there is a text to shorten, and the model as it was before training.

        Args:
            train_majority: what the untrained model wrote for these rows, where that is known.
        """
        found: dict[str, Any] = {}
        if isinstance(train_majority, list) and len(train_majority) == len(predictions):
            found["untrained"] = self.scores(_instead(predictions, train_majority))
            found |= {"answer": say("the untrained model", "未训练的模型"), **found["untrained"]}
        if leads := predictions.extra.get("leads"):
            found["lead_1"] = self.scores(_instead(predictions, leads))
            found |= {"answer": say("lead-1, the first sentence", "lead-1（首句）"), **found["lead_1"]}
        return found or {"answer": "", **self.scores(_instead(predictions, [""] * len(predictions)))}

    def worst_errors(self, predictions: Predictions, n: int = 50) -> list[dict[str, Any]]:
        """The texts least like their references."""
        values = [
            rouge(text, references)["rouge_l"]
            for text, references in zip(predictions.predicted, predictions.gold, strict=True)
        ]
        order = np.argsort(values, kind="stable")[:n]
        return [
            {
                "row_number": int(predictions.row_numbers[row]),
                "text": predictions.texts[row],
                "gold": predictions.gold[row][0],
                "predicted": predictions.predicted[row],
                "rouge_l": values[row],
            }
            for row in order.tolist()
            if values[row] < 1
        ]

    def details(self, predictions: Predictions) -> dict[str, Any]:
        length = float(np.mean([len(text) for text in predictions.predicted]))
        return {"mean_characters": length, "answers_scored": int(predictions.extra.get("tokens", 0))}

    def notes(self, predictions: Predictions) -> list[str]:
        empty = sum(not text.strip() for text in predictions.predicted)
        found = [
            say(
                "Compared by characters where a text is Chinese, by words where it is English.",
                "中文按字比较，英文按词比较。",
            )
        ]
        if empty:
            total = len(predictions)
            found.append(
                say(
                    f"{empty} of {total} texts written are empty.", f"{total} 条生成文本中有 {empty} 条为空。"
                )
            )
        return found

    def report_text(self, report: Mapping[str, Any]) -> str:
        scores = report["scores"]
        extra = ""
        if "perplexity" in scores:
            shown = f"{scores['perplexity']:.2f}"
            extra = say(f"Perplexity of the true answers: {shown}", f"真实答案的困惑度：{shown}")
        lines = [
            f"{fit(name, 10)} "
            + "  ".join(
                f"{NAMES[key]} {report['baseline'][side][key]:.3f}"
                for key in ("rouge_1", "rouge_2", "rouge_l", "bleu")
            )
            for side, name in (("untrained", say("untrained", "未训练")), ("lead_1", "lead-1"))
            if side in report["baseline"]
        ]
        plain = {
            **report,
            "baseline": {key: value for key, value in report["baseline"].items() if key != "answer"},
        }
        return sections(headline(report, NAMES), "\n".join([*lines, extra]), footer(plain))


def _instead(predictions: Predictions, texts: Sequence[str]) -> Predictions:
    """The same rows with other texts; how likely the model found the true ones is not theirs."""
    return Predictions(
        predictions.texts, predictions.row_numbers, predictions.labels, predictions.gold, list(texts)
    )


def _statistic(texts: Sequence[str], references: Sequence[Sequence[str]]) -> Statistic:
    """ROUGE as a mean over texts, BLEU and chrF of sums over them, from how often each of the N texts counts."""
    pairs = list(zip(texts, references, strict=True))
    each = [rouge(*pair) for pair in pairs]
    rouge_NK = {name: np.array([one[name] for one in each]) for name in ("rouge_1", "rouge_2", "rouge_l")}
    bleu_N10 = np.stack([bleu_counts(*pair) for pair in pairs])
    chrf_N18 = np.stack([chrf_counts(*pair) for pair in pairs])

    def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
        total = counts.sum(axis=-1)
        found = {name: counts @ values / total for name, values in rouge_NK.items()}
        return {**found, "bleu": bleu(counts @ bleu_N10), "chrf": chrf(counts @ chrf_N18)}

    return scores
