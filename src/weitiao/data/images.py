"""Folders of pictures as tables with an ``image`` and a ``label``: IDX files (MNIST), or a folder for each class.

* ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, ``t10k-...`` for the test part; gzipped or not, in the
  folder itself or in one below it. The cell is the picture as a PGM file.
* ``folder/<class>/*.png``, or ``folder/<train|test>/<class>/*.png``. The cell is the picture's path.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import sha256
from weitiao.data.arrow import BATCH_ROWS, ArrowSink, BadRows, cached_rows
from weitiao.data.columns import split_name
from weitiao.data.idx import read_idx
from weitiao.data.pictures import SUFFIXES, pgm
from weitiao.data.table import Table, none_left

FORMAT_VERSION = 1  # of what the cache holds
_IDX = re.compile(r"(?P<split>.+?)[-_.](?P<kind>images|labels)[-_.]idx[1-4](?:[-_.]ubyte)?(?:\.gz)?")
_DEEPEST = 2  # folders below the one given: torchvision keeps MNIST in MNIST/raw


def picture_files(folder: Path) -> list[Path]:
    """The pictures right in a folder, by name."""
    return [p for p in sorted(folder.iterdir()) if p.suffix.lower() in SUFFIXES and p.is_file()]


def read_images(folder: Path) -> dict[str, Table]:
    """The tables of a folder of pictures by split; empty where it holds none.

    Raises:
        WeitiaoError: an IDX file is damaged or lacks its other half, or a folder is neither a split nor a class.
    """
    if pairs := _idx_pairs(folder):
        return {split: _idx_table(files, folder.name, split) for split, files in pairs.items()}
    if not folder.is_dir():
        return {}
    below = [path for path in sorted(folder.iterdir()) if path.is_dir()]
    if any(picture_files(path) for path in below):
        return {"train": _class_table(folder, below)}
    parts = {path: [p for p in sorted(path.iterdir()) if p.is_dir()] for path in below}
    parts = {path: classes for path, classes in parts.items() if any(picture_files(c) for c in classes)}
    found: dict[str, Table] = {}
    for path, classes in parts.items():
        split = split_name(path.name, at_end=True)
        if not split or split in found:
            raise WeitiaoError(
                say(
                    f"{path} should be a split (train, dev or test, once each) or a class with pictures in it",
                    f"{path} 应是一个划分（train、dev 或 test，各一个），或是直接含有图片的类别目录",
                )
            )
        found[split] = _class_table(path, classes)
    return found


# --- IDX


def _idx_pairs(folder: Path) -> dict[str, dict[str, Path]]:
    """``{split: {"images": path, "labels": path}}``; the unzipped file where both are there."""
    levels = ["*"] + ["*/" * depth + "*" for depth in range(1, _DEEPEST + 1)]
    for pattern in levels:
        found: dict[str, dict[str, Path]] = {}
        for path in sorted(folder.glob(pattern), reverse=True):  # so that X comes after X.gz and replaces it
            if (match := _IDX.fullmatch(path.name.lower())) and path.is_file():
                prefix = match["split"]
                split = "test" if prefix.endswith("t10k") else split_name(prefix, at_end=True)
                found.setdefault(split or "train", {})[match["kind"]] = path
        for files in found.values():
            if len(files) < 2:
                alone = next(iter(files.values()))
                raise WeitiaoError(
                    say(
                        f"{alone} is alone: images and labels go together, train-images-idx3-ubyte with "
                        "train-labels-idx1-ubyte",
                        f"{alone} 缺少配对文件：图片与标签须成对，如 train-images-idx3-ubyte 与 train-labels-idx1-ubyte",
                    )
                )
        if found:
            return found
    return {}


def _idx_table(files: dict[str, Path], name: str, split: str) -> Table:
    digests = {kind: sha256(path) for kind, path in files.items()}
    content = hashlib.sha256("".join(digests[kind] for kind in ("images", "labels")).encode()).hexdigest()
    shown = f"{name}/{split}"

    def rows() -> Iterator[tuple[Sequence[Any], Sequence[str]]]:
        images, labels = read_idx(files["images"]), read_idx(files["labels"])
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise WeitiaoError(
                say(
                    f"{files['images']} has {images.shape} and {files['labels'].name} {labels.shape}: expected "
                    "pictures x height x width, and a label for each",
                    f"{files['images']} 为 {images.shape}，{files['labels'].name} 为 {labels.shape}："
                    "应为 图片数 x 高 x 宽，且每张一个标签",
                )
            )
        for start in range(0, len(images), BATCH_ROWS):
            part = slice(start, start + BATCH_ROWS)
            yield [pgm(image) for image in images[part]], [str(label) for label in labels[part]]

    return _table(rows(), shown, content)


# --- a folder a class


def _class_table(folder: Path, classes: list[Path]) -> Table:
    files = [(path, folder_.name) for folder_ in classes for path in picture_files(folder_)]
    digest = hashlib.sha256()
    for path, label in files:
        digest.update(f"{label}\0{path.name}\0{sha256(path)}\n".encode())
    # The paths are part of the table, so the same pictures elsewhere are another entry of the cache.
    content = digest.hexdigest()
    batches = (
        ([str(path) for path, _ in part], [label for _, label in part])
        for part in (files[start : start + BATCH_ROWS] for start in range(0, len(files), BATCH_ROWS))
    )
    return _table(batches, str(folder), content)


def _table(batches: Iterator[tuple[Sequence[Any], Sequence[str]]], name: str, content: str) -> Table:
    key = hashlib.sha256(f"images {FORMAT_VERSION} {name} {content}".encode()).hexdigest()
    if (hit := cached_rows(key)) is not None:
        return Table(hit[0], name, [], content)
    number = 0
    with ArrowSink(BadRows(name, skip=False)) as sink:
        for images, labels in batches:
            sink.add(range(number + 1, number + len(images) + 1), {"image": images, "label": labels})
            number += len(images)
        rows = sink.finish(key)
    if not len(rows):
        raise none_left(name, [])
    return Table(rows, name, [], content)
