"""Find the picture of a phrase among all of a split, and the phrase of a picture: top 1, top 5, reciprocal rank.

A row is a phrase. Its ranks count from 1: how many others are nearer than what belongs together, and one.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from weitiao.core.messages import say
from weitiao.evaluation._bootstrap import Statistic, point
from weitiao.evaluation._table import footer, headline, sections
from weitiao.evaluation.base import Evaluation, Predictions


class Retrieval(Evaluation):
    """Scores of ranks, int ``[N, 2]``: of the right picture for each phrase, and of the phrase for its picture."""

    name = "retrieval"
    monitor = "mean_reciprocal_rank"

    def scores(self, predictions: Predictions) -> dict[str, float]:
        return point(*self.resampled(predictions))

    def resampled(self, predictions: Predictions) -> tuple[np.ndarray, Statistic]:
        values = _values(np.asarray(predictions.predicted, np.float64))

        def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
            return {name: counts @ each / counts.sum(-1) for name, each in values.items()}

        return np.ones(len(predictions), np.int64), scores

    def baseline(self, predictions: Predictions, train_majority: Any) -> dict[str, Any]:
        """What a random order would score."""
        count = predictions.extra["candidates"]
        chance = {name: float(each.mean()) for name, each in _values(_random_ranks(count)).items()}
        return {"answer": say("one at random", "随机一个"), **chance}

    def details(self, predictions: Predictions) -> dict[str, Any]:
        return {"candidates": predictions.extra["candidates"]}

    def worst_errors(self, predictions: Predictions, n: int = 50) -> list[dict[str, Any]]:
        """The phrases whose picture came last, each with its picture and what stood first instead."""
        ranks = np.asarray(predictions.predicted)[:, 0]
        order = [row for row in np.argsort(-ranks, kind="stable").tolist() if ranks[row] > 1][:n]
        found = []
        for row in order:
            entry = {
                "row_number": int(predictions.row_numbers[row]),
                "text": predictions.texts[row],
                "gold": predictions.texts[row],
                "predicted": predictions.extra["first"][row],
                "rank": int(ranks[row]),
            }
            if "pictures" in predictions.extra:
                entry["picture"] = predictions.extra["pictures"][row]
            found.append(entry)
        return found

    def report_text(self, report: Mapping[str, Any]) -> str:
        names = {
            "picture_top1": say("picture of a phrase", "按短语找图"),
            "picture_top5": say("... among the first 5", "…前 5 内"),
            "phrase_top1": say("phrase of a picture", "按图找短语"),
            "mean_reciprocal_rank": say("reciprocal rank", "平均倒数排名"),
        }
        count = report["candidates"]
        note = say(f"Among {count:,} pictures", f"候选图片 {count:,} 张")
        return sections(headline(report, names), note, footer(report))


def _values(ranks_N2: np.ndarray) -> dict[str, np.ndarray]:
    """Each score's value of each row, ``[N]``."""
    picture, phrase = ranks_N2.T
    return {
        "picture_top1": (picture == 1).astype(float),
        "picture_top5": (picture <= 5).astype(float),
        "phrase_top1": (phrase == 1).astype(float),
        "mean_reciprocal_rank": (1 / picture + 1 / phrase) / 2,
    }


def _random_ranks(count: int) -> np.ndarray:
    return np.arange(1, count + 1, dtype=np.float64)[:, None].repeat(2, 1)
