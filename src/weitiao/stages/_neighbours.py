"""Nearest labelled texts beside a model: their labels are mixed into its answers, and they are shown as evidence.

Source: Khandelwal et al. 2020, "Generalization through Memorization" (interpolation with nearest neighbours), here for
classes: p = share * p_near + (1 - share) * p_model, where p_near weighs the labels of the K nearest training texts by
exp(cosine / temperature). Vectors are what the head's last layer sees, scaled to length 1.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import read_json, write_json
from weitiao.data.encode import Encoded, rows_in_chunks
from weitiao.models.backbone import TextModel
from weitiao.tasks.base import softmax
from weitiao.training.outputs import features_of

if TYPE_CHECKING:
    from weitiao.stages._training import Training

FOLDER = "neighbours"
SHARES = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)  # tried on the dev part
SHARE = 0.3  # where there is none
TEMPERATURE = 0.05
BLOCK = 1024  # texts compared at once


@dataclass
class Neighbours:
    """The labelled texts of a run.

    Attributes:
        vectors_ND: float32 unit vectors.
        labels_N: class numbers.
        texts: as they were read.
        names: of the classes.
        count: how many neighbours are asked.
        share: of the answer that they give.
    """

    vectors_ND: np.ndarray
    labels_N: np.ndarray
    texts: list[str]
    names: list[str]
    count: int
    share: float = SHARE

    def nearest(self, model: TextModel, encoded: Encoded) -> tuple[np.ndarray, np.ndarray]:
        """The nearest labelled texts of each example, nearest first: places int64 and cosines, ``[M, K]``."""
        asked_MD = unit(features_of(model, encoded))
        count = min(self.count, len(self.vectors_ND))
        places, cosines = [], []
        for start in range(0, len(asked_MD), BLOCK):
            cosine_BN = asked_MD[start : start + BLOCK] @ self.vectors_ND.T
            best_BK = np.argsort(-cosine_BN, axis=1, kind="stable")[:, :count]
            places.append(best_BK)
            cosines.append(np.take_along_axis(cosine_BN, best_BK, 1))
        if not places:
            return np.empty((0, count), np.int64), np.empty((0, count))
        return np.concatenate(places), np.concatenate(cosines)

    def mixed(
        self, outputs: Sequence[np.ndarray], found: tuple[np.ndarray, np.ndarray], share: float | None = None
    ) -> list[np.ndarray]:
        """The model's logits with the neighbours' labels in them: logarithms of the mixed probabilities."""
        share = self.share if share is None else share
        if not share or not len(outputs):
            return list(outputs)
        places_MK, cosines_MK = found
        weights_MK = softmax(cosines_MK.astype(np.float64) / TEMPERATURE)
        own_MC = softmax(np.stack(outputs).astype(np.float64))
        near_MC = np.zeros_like(own_MC)
        for column in range(places_MK.shape[1]):
            near_MC[np.arange(len(near_MC)), self.labels_N[places_MK[:, column]]] += weights_MK[:, column]
        return list(np.log(share * near_MC + (1 - share) * own_MC + 1e-12).astype(np.float32))

    def evidence(self, found: tuple[np.ndarray, np.ndarray]) -> list[list[dict[str, Any]]]:
        """For people: ``{"text", "label", "similarity"}`` of each neighbour, nearest first."""
        return [
            [
                {
                    "text": self.texts[place],
                    "label": self.names[self.labels_N[place]],
                    "similarity": float(cosine),
                }
                for place, cosine in zip(*pair, strict=True)
            ]
            for pair in zip(*found, strict=True)
        ]

    def save(self, folder: Path) -> None:
        """Write them beside the model. The texts lie there as they are."""
        from safetensors.numpy import save_file

        new = folder / FOLDER
        new.mkdir()
        save_file({"vectors": self.vectors_ND, "labels": self.labels_N}, new / "vectors.safetensors")
        write_json(new / "settings.json", {"count": self.count, "share": self.share, "names": self.names})
        lines = (json.dumps(text, ensure_ascii=False) + "\n" for text in self.texts)
        (new / "texts.jsonl").write_text("".join(lines), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Neighbours | None":
        """Those beside the model in a folder, if there are any."""
        from safetensors.numpy import load_file

        new = folder / FOLDER
        if not new.is_dir():
            return None
        tensors, settings = load_file(new / "vectors.safetensors"), read_json(new / "settings.json")
        texts = [json.loads(line) for line in (new / "texts.jsonl").read_text("utf-8").split("\n") if line]
        return cls(tensors["vectors"], tensors["labels"], texts, **settings)


def unit(features: Sequence[np.ndarray]) -> np.ndarray:
    """Vectors scaled to length 1, float32 ``[N, D]``."""
    stacked = np.stack(features).astype(np.float32) if len(features) else np.empty((0, 1), np.float32)
    return stacked / np.maximum(np.linalg.norm(stacked, axis=1, keepdims=True), 1e-12)


def check(run: "Training") -> None:
    """Refuse ``--neighbours`` where answers are no single classes of whole texts.

    Raises:
        WeitiaoError: says where they can be used.
    """
    if run.answers.kind != "classes" or run.task.head(run.answers, "mean")["type"] in ("token", "embedding"):
        raise WeitiaoError(
            say(
                f"--neighbours is for single classes of whole texts; {run.config.task} has others here",
                f"--neighbours 用于整条文本的单标签分类，而此处 {run.config.task} 不是",
            )
        )


def gather(run: "Training") -> Neighbours:
    """The labelled training texts as neighbours; the share is the best on the dev part, where there is one."""
    records = run.data.records["train"]  # of the table alone: no rewritten copies, no pseudo-labels
    encoded = run.task.encode(records, run.tokenizer, run.config.max_length, run.answers)
    texts = [run.task.shown(row) for rows in rows_in_chunks(records) for row in rows]
    assert isinstance(encoded.targets, np.ndarray)
    vectors_ND = unit(features_of(run.model, encoded))
    found = Neighbours(vectors_ND, encoded.targets, texts, run.answers.names, run.config.neighbours)
    if "dev" in run.data.encoded:
        asked, gold = run.data.encoded["dev"], run.data.records["dev"]
        near, outputs = found.nearest(run.model, asked), run.outputs(asked, gold)
        found.share = max(
            SHARES, key=lambda share: run.scores(found.mixed(outputs, near, share), asked, gold)[run.monitor]
        )
    return found


def ablation(
    run: "Training", plain: Sequence[np.ndarray], mixed: Sequence[np.ndarray], encoded: Encoded, records: Any
) -> dict[str, Any]:
    """Whether the neighbours help: the monitored score with and without, and the change of accuracy with its interval.

    The interval is a paired percentile bootstrap over the texts (Efron 1979), 1,000 resamples, 95 %.
    """
    assert run.neighbours is not None and isinstance(encoded.targets, np.ndarray)
    right = [np.stack(outputs).argmax(1) == encoded.targets for outputs in (plain, mixed)]
    change_N = right[1].astype(float) - right[0]
    generator = np.random.default_rng(run.config.seed)
    drawn = generator.integers(0, len(change_N), (1000, len(change_N)))
    low, high = np.percentile(change_N[drawn].mean(1), [2.5, 97.5])
    with_them, without = (run.scores(outputs, encoded, records)[run.monitor] for outputs in (mixed, plain))
    return {
        "count": run.neighbours.count,
        "share": run.neighbours.share,
        "with": with_them,
        "without": without,
        "accuracy_change": float(change_N.mean()),
        "interval": [float(low), float(high)],
    }


def told(found: dict[str, Any], monitor: str) -> str:
    """An ablation in one line."""
    low, high = found["interval"]
    helped = (
        say("they helped", "有帮助")
        if low > 0
        else say("they hurt", "有害")
        if high < 0
        else say("no difference that is certain", "没有确定的差别")
    )
    shown = f"{100 * found['accuracy_change']:+.1f} ({100 * low:+.1f} … {100 * high:+.1f})"
    return say(
        f"{found['count']} nearest labelled texts, share {found['share']:g}: {monitor} {found['with']:.3f} with, "
        f"{found['without']:.3f} without; accuracy {shown} points: {helped}",
        f"最近的 {found['count']} 条标注文本，权重 {found['share']:g}：{monitor} 使用时 {found['with']:.3f}，"
        f"不用时 {found['without']:.3f}；准确率变化 {shown} 个百分点：{helped}",
    )
