"""What the tasks share that train a network of pictures: size and colours, augmentation, from a cell to pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from weitiao.core.config import option
from weitiao.core.errors import BadRow, WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import read_json, write_json
from weitiao.core.sources import Resolved
from weitiao.data.encode import Encoded, Ragged
from weitiao.data.pictures import decode, png_uri
from weitiao.data.quality import FIRST_ROWS, Finding
from weitiao.tasks.base import Task

if TYPE_CHECKING:
    from torch import Tensor, nn

GROUND_FILE = "pictures.json"  # in a model folder
DARK = 64  # of 255: a border below it is dark, one as near to white is light


@dataclass
class PictureTask(Task):
    """Pixels -> a network of pictures, new (``cnn``, ``vit``) or from a folder."""

    image_size: int = option(
        28,
        "pixels of a picture's side, to which others are fitted",
        "图片边长（像素），其他尺寸会缩放到此",
        least=8,
        most=256,
    )
    color: bool = option(False, "three channels instead of grey", "使用三通道彩色，而非灰度")
    width: int = option(
        0, "channels of the first layer (0: the task's own)", "第一层的通道数（0：由任务决定）", least=0
    )
    rotation_degrees: float = option(
        12.0, "pictures are turned by up to this", "随机旋转的最大角度", least=0, most=180
    )
    shift: float = option(
        0.1, "moved by up to this share of the side", "随机平移的最大比例（占边长）", least=0, most=0.5
    )
    scale: float = option(
        0.12, "made larger or smaller by up to this share", "随机缩放的最大比例", least=0, most=0.5
    )
    shear_degrees: float = option(12.0, "slanted by up to this", "随机倾斜的最大角度", least=0, most=45)
    elastic: float = option(
        0.0, "bent: standard deviation, a share of the side", "弹性形变的标准差（占边长）", least=0, most=0.2
    )

    text_keys = ("pixels",)
    reads = "pictures"
    tunings: ClassVar[tuple[str, ...]] = ("full", "head")

    @property
    def channels(self) -> int:
        """1 or 3."""
        return 3 if self.color else 1

    def first_width(self, network: str) -> int:
        """Channels of a new network's first layer; 0: the network's own."""
        return self.width

    def bend(self) -> float:
        """How far pictures are bent (see ``elastic``)."""
        return self.elastic

    def number_of_views(self) -> int:
        """Shifted views averaged for an answer."""
        return 1

    def pixels_of(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row's picture: ``image`` (its path, or "" where the table holds bytes), ``pixels`` and what it ``was``.

        Raises:
            BadRow: there is none, or it cannot be read.
        """
        return read_picture(row.get("image"), "image", self.image_size, self.channels)

    def encode_pixels(self, rows: list[dict[str, Any]], ground: "Ground | None") -> Encoded:
        """The pictures of some records, without targets."""
        size = self.image_size**2 * self.channels
        pixels = np.frombuffer(b"".join(row["pixels"] for row in rows), np.uint8)
        if ground is not None and len(rows):
            pixels_NHWC = pixels.reshape(len(rows), self.image_size, self.image_size, self.channels)
            pixels = ground.settled(pixels_NHWC).ravel()
        encoded = Encoded(Ragged(pixels, np.arange(len(rows) + 1, dtype=np.int64) * size))
        encoded.image_shape = (self.image_size, self.image_size, self.channels)
        return encoded

    def findings(self, records: Any) -> list[Finding]:
        return converted(records["row_number"], records["was"], self.image_size, self.channels)

    def source(self, model: str, tell: Callable[[str], None]) -> Resolved:
        from weitiao.models.vision import new

        return new(model) or super().source(model, tell)

    def reader(self, folder: Path) -> Any:
        return Ground(folder)

    def keep(self, reader: Any, folder: Path) -> None:
        reader.keep(folder)

    def backbone(
        self, source: Resolved, dropout: float | None
    ) -> "tuple[nn.Module, dict[str, Any], dict[str, Tensor]]":
        if source.route == "new":
            from weitiao.models.vision import make

            sizes = {
                "image_size": self.image_size,
                "channels": self.channels,
                "views": self.number_of_views(),
            }
            width = self.first_width(source.name)
            return (*make(source.name, {**sizes, **({"width": width} if width else {})}), {})
        backbone, config, beside = super().backbone(source, dropout)
        sides = (config.get("image_size"), config.get("channels"))
        if sides != (self.image_size, self.channels):
            raise WeitiaoError(
                say(
                    f"{source.name} does not read pictures of {self.image_size} x {self.image_size} with "
                    f"{self.channels} channels: take cnn or vit, or a folder that was trained on such pictures",
                    f"{source.name} 不读取 {self.image_size} x {self.image_size}、{self.channels} 通道的图片："
                    "请用 cnn、vit，或在这类图片上训练得到的目录",
                )
            )
        return backbone, config, beside

    def augmentation(self) -> "Callable[[Tensor], Tensor] | None":
        from weitiao.training.affine import Affine

        amounts = (self.rotation_degrees, self.shift, self.scale, self.shear_degrees, self.bend())
        return Affine(*amounts) if any(amounts) else None


class Ground:
    """Whether a model's pictures are light on dark or dark on light: new ones that are the other way are inverted.

    Told by the pictures' borders. What the training pictures' were is kept beside the model; a border between light
    and dark, as photographs have, decides nothing.

    Args:
        folder: of a trained model, whose ground is then settled; else it is learnt from the first pictures seen.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / GROUND_FILE
        self.settled_mean: float | None = read_json(path)["border_mean"] if path.exists() else None
        self.sum, self.count = 0.0, 0
        self.inverted = 0  # pictures so far

    def settled(self, pixels_NHWC: np.ndarray) -> np.ndarray:
        """The pictures as the model knows them, uint8."""
        border_N = _border_means(pixels_NHWC)
        if self.settled_mean is None:
            self.sum, self.count = self.sum + float(border_N.sum()), self.count + len(border_N)
            return pixels_NHWC
        dark = self.settled_mean < DARK
        other = border_N > 255 - DARK if dark else border_N < DARK
        if not (dark or self.settled_mean > 255 - DARK) or not other.any():
            return pixels_NHWC
        self.inverted += int(other.sum())
        return np.where(other[:, None, None, None], 255 - pixels_NHWC, pixels_NHWC)

    def keep(self, folder: Path) -> None:
        """Write what the training pictures' borders were."""
        mean = self.settled_mean if self.settled_mean is not None else self.sum / max(self.count, 1)
        write_json(folder / GROUND_FILE, {"border_mean": round(mean, 2)})


def _border_means(pixels_NHWC: np.ndarray) -> np.ndarray:
    inner = pixels_NHWC[:, 1:-1, 1:-1].sum((1, 2, 3), dtype=np.int64)
    whole = pixels_NHWC.sum((1, 2, 3), dtype=np.int64)
    count = pixels_NHWC[0].size - pixels_NHWC[0, 1:-1, 1:-1].size
    return (whole - inner) / count


@dataclass
class Pictures:
    """The pictures of an encoded table for a page, each drawn when it is asked for."""

    encoded: Encoded

    def __getitem__(self, row: int) -> str:
        assert self.encoded.image_shape is not None
        height, _, channels = self.encoded.image_shape
        return png_uri(self.encoded.ids[row].tobytes(), height, channels)


def read_picture(cell: Any, role: str, size: int, channels: int) -> dict[str, Any]:
    """``{"image", "pixels", "was"}`` of a cell: a path, or the bytes of a file (whose ``image`` is "").

    Raises:
        BadRow: it holds no picture.
    """
    if not isinstance(cell, str | bytes) or not cell:
        raise BadRow(role, say("there is no picture", "没有图片"))
    pixels, was = decode(cell, size, channels)
    return {"image": cell if isinstance(cell, str) else "", "pixels": pixels, "was": was}


def converted(numbers: Any, was: Any, size: int, channels: int) -> list[Finding]:
    """One finding of the pictures that had to be made fit, or none."""
    found = [(number, before) for number, before in zip(numbers, was, strict=True) if before]
    if not found:
        return []
    different = sorted({before for _, before in found})
    kinds = ", ".join(different[:3]) + (" ..." if len(different) > 3 else "")
    count, total = len(found), len(was)
    to = f"{size}x{size} {'RGB' if channels == 3 else 'L'}"
    message = say(
        f"{count:,} of {total:,} pictures were converted to {to} (they were {kinds})",
        f"{total:,} 张图片中有 {count:,} 张被转换为 {to}（原为 {kinds}）",
    )
    return [Finding("converted", count, total, [int(number) for number, _ in found[:FIRST_ROWS]], message)]
