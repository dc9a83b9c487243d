"""The picture for a phrase and the phrase for a picture, among those of a table or a folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.core.config import read_yaml
from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.core.messages import say
from weitiao.data.images import picture_files
from weitiao.data.pictures import SUFFIXES
from weitiao.stages._predictor import Run
from weitiao.stages._prepare import read


def search(run: Run, items: Sequence[str], among: str, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """For each item what lies nearest: ``{"text" | "image": item, "answers": [{"label", "score", ...}]}``.

    Args:
        items: picture files, or phrases.
        among: a table, or a folder of pictures (which has no phrases); empty: the table of the training run.
        columns: the table's columns by role.

    Raises:
        WeitiaoError: there is nothing to look among, or an item is no picture.
    """
    pictures, captions = _gallery(run, among, columns)
    task: Any = run.task
    found, top = [], task.top
    for item, (picture, phrase) in zip(items, _embedded(run, items), strict=True):
        if _is_picture(item):
            if captions is None:
                raise WeitiaoError(
                    say(
                        f"{among} holds pictures without phrases: to find a phrase for {item}, look --among a table",
                        f"{among} 中只有图片、没有短语：要为 {item} 找短语，请用 --among 指定表格",
                    )
                )
            names, vectors = captions
            found.append({"image": item, "answers": _nearest(picture, vectors, names, top)})
        else:
            found.append({"text": item, "answers": _nearest(phrase, pictures[1], pictures[0], top)})
    return found


def _is_picture(item: str) -> bool:
    return Path(item).suffix.lower() in SUFFIXES


def _embedded(run: Run, items: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """The vectors of each item as a picture and as a phrase; of the two one means something."""
    task: Any = run.task
    records = []
    for item in items:
        try:
            records.append(task.query(picture=item) if _is_picture(item) else task.query(phrase=item))
        except BadRow as error:
            raise WeitiaoError(error.reason) from None
    return [(each[0], each[1]) for each in run.outputs(records)[1]]


Side = tuple[list[dict[str, Any]], np.ndarray]  # what is shown of each, and their vectors [N, E]


def _gallery(run: Run, among: str, columns: Mapping[str, str]) -> tuple[Side, Side | None]:
    if among and Path(among).is_dir() and (files := picture_files(Path(among))):
        vectors = [picture for picture, _ in _embedded(run, [str(file) for file in files])]
        return ([{"label": str(file)} for file in files], np.stack(vectors)), None
    settings = read_yaml(run.folder / "config.yaml") if not among else {}
    table = among or settings.get("data")
    if not table:
        raise WeitiaoError(
            say(
                "Say where to look: --among a table or a folder of pictures",
                "请用 --among 指定表格或图片文件夹",
            )
        )
    records, _, _ = read(run.task, table, dict(columns) or settings.get("columns", {}), False)
    outputs_NKE = np.stack(run.outputs(records)[1])
    images, numbers = records["image"], records["row_number"]
    shown = [name or f"#{number}" for name, number in zip(images, numbers, strict=True)]
    pictures = [{"label": name, "text": text} for name, text in zip(shown, records["text"], strict=True)]
    phrases, vectors = [], []
    for place, key in enumerate(("text", "text_b"), 1):
        phrases += [{"label": text, "image": name} for text, name in zip(records[key], shown, strict=True)]
        vectors.append(outputs_NKE[:, place])
    return (pictures, outputs_NKE[:, 0]), (phrases, np.concatenate(vectors))


def _nearest(vector: np.ndarray, vectors_NE: np.ndarray, shown: list[dict[str, Any]], top: int) -> Any:
    cosines = vectors_NE @ vector
    found: list[dict[str, Any]] = []
    for row in np.argsort(-cosines, kind="stable"):
        if shown[row]["label"] not in {each["label"] for each in found}:
            found.append({**shown[row], "score": round(float(cosines[row]), 4)})
        if len(found) == top:
            break
    return found
