"""The two frozen sides of a model that answers about pictures: the vision encoder's features, and reading answers."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.data.encode import Encoded, Ragged, load_tokenizer
from weitiao.tasks._pictures import GROUND_FILE, Ground

if TYPE_CHECKING:
    from weitiao.models.backbone import TextModel

ENDS = (
    "<|im_end|>",
    "</s>",
    "<|endoftext|>",
    "<|end_of_text|>",
)  # what ends an answer, the first that there is
PICTURES_AT_ONCE = 256
TOKENS_AT_ONCE = 2048
Answer = tuple[str, float]  # in words, and its probability


class PictureReader:
    """A language model's tokenizer, and a frozen vision encoder that each distinct picture goes through once.

    Args:
        folder: the language model's; or a trained model's, which has the encoder in ``vision/``.
        vision: else the run folder of the encoder.
        size, channels: of the pictures that it must read.

    Raises:
        WeitiaoError: there is no encoder, or it reads other pictures.
    """

    def __init__(self, folder: Path, vision: str, size: int, channels: int) -> None:
        from weitiao.models.backbone import open_backbone, read_config

        self.tokenizer = load_tokenizer(folder)
        found = (self.tokenizer.token_to_id(name) for name in ENDS)
        self.end: int = next((token for token in found if token is not None), 0)
        self.folder = folder / "vision" if (folder / "vision").is_dir() else vision_folder(vision)
        self.size, self.channels = size, channels
        config = read_config(self.folder)
        sides = (config.get("image_size"), config.get("channels"))
        if sides != (size, channels):
            flags = f"--image-size {sides[0]}" + (" --color" if sides[1] == 3 else "")
            raise WeitiaoError(
                say(
                    f"{self.folder} reads pictures of {sides[0]} x {sides[0]} with {sides[1]} channels: add {flags}",
                    f"{self.folder} 读取 {sides[0]} x {sides[0]}、{sides[1]} 通道的图片：请加上 {flags}",
                )
            )
        self.encoder = open_backbone(self.folder)[0].eval().requires_grad_(False)
        self.ground = Ground(self.folder)

    def vision_files(self) -> list[Path]:
        """The encoder's files, its classifier included."""
        names = ("config.json", "model.safetensors", "head.safetensors", "weitiao.json", GROUND_FILE)
        return [self.folder / name for name in names if (self.folder / name).exists()]

    def tokens(self, texts: Sequence[str], most: int) -> list[list[int]]:
        """Token ids of each text, at most so many, without what marks its beginning."""
        found = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [each.ids[:most] for each in found]

    def features(self, pictures: Sequence[tuple[bytes, ...]]) -> np.ndarray:
        """Float32 ``[N, K, F]`` of N rows of up to K pictures' pixels; NaN for what is empty."""
        import torch

        from weitiao.models.images import Images

        flat = [pixels for row in pictures for pixels in row]
        distinct = list(dict.fromkeys(pixels for pixels in flat if pixels))
        size = self.encoder.shape.hidden_size
        found = np.full((len(distinct) + 1, size), np.nan, np.float32)
        for start in range(0, len(distinct), PICTURES_AT_ONCE):
            part = distinct[start : start + PICTURES_AT_ONCE]
            pixels = np.frombuffer(b"".join(part), np.uint8).reshape(-1, self.size, self.size, self.channels)
            pixels = self.ground.settled(pixels).copy()
            pixels_BCHW = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
            with torch.inference_mode():
                found[start : start + len(part)] = self.encoder(Images(pixels_BCHW)).float().numpy()
        place = {pixels: row for row, pixels in enumerate(distinct)} | {b"": len(distinct)}
        width = len(pictures[0]) if pictures else 1
        return found[[place[pixels] for pixels in flat]].reshape(len(pictures), width, size)


def vision_folder(vision: str) -> Path:
    """The model folder of a vision encoder's run.

    Raises:
        WeitiaoError: none is named, or there is none.
    """
    from weitiao.models.known import check_folder
    from weitiao.models.vision import is_vision

    example = "weitiao finetune --task image-classification --data mnist --output runs/mnist"
    if not vision:
        raise WeitiaoError(
            say(
                f"Name a trained vision encoder with --vision; this makes one: {example}",
                f"请用 --vision 指定训练好的视觉编码器；可这样得到：{example}",
            )
        )
    run = Path(vision)
    folder = run / "model" if (run / "model").is_dir() else run
    from weitiao.models.backbone import read_config

    if not (folder / "config.json").exists() or not is_vision(read_config(folder)):
        raise WeitiaoError(
            say(
                f"{vision} is no run of a vision encoder; this makes one: {example}",
                f"{vision} 不是视觉编码器的运行目录；可这样得到：{example}",
            )
        )
    check_folder(folder)
    return folder


def vision_size(vision: str) -> int:
    """How many features the encoder of a run makes of a picture."""
    from weitiao.models.backbone import open_backbone

    return int(open_backbone(vision_folder(vision))[0].shape.hidden_size)


def likeliest(
    model: "TextModel", encoded: Encoded, autocast: Callable[[], Any] = contextlib.nullcontext, **_: Any
) -> list[np.ndarray]:
    """The likeliest token at each place of an answer, given the true ones before, and its probability, ``[A, 2]``."""
    import torch

    from weitiao.training.batches import Batches, in_order

    assert isinstance(encoded.targets, Ragged)
    found: list[Any] = [None] * len(encoded)
    batches, was_training = Batches(encoded, 1, 0), model.training
    model.eval()
    for rows in in_order(encoded, TOKENS_AT_ONCE):
        batch = batches.batch(rows)
        with torch.inference_mode(), autocast():
            best = model(batch.packed).float().softmax(-1).max(-1)
        pairs = torch.stack([best.indices.float(), best.values], 1).numpy()
        counts = encoded.targets.lengths[batch.rows]
        for row, part in zip(batch.rows.tolist(), np.split(pairs, np.cumsum(counts)[:-1]), strict=True):
            found[row] = part
    model.train(was_training)
    return found


def written(model: "TextModel", encoded: Encoded, reader: PictureReader, most: int) -> list[Answer]:
    """What the model answers by itself, greedily, to each row's question."""
    import torch

    features = encoded.features
    assert features is not None
    groups: dict[tuple[tuple[int, ...], int], list[int]] = {}
    for row in range(len(encoded)):
        pictures = int((~np.isnan(features[row, :, 0])).sum())
        groups.setdefault((tuple(encoded.ids[row].tolist()), pictures), []).append(row)
    found: list[Any] = [None] * len(encoded)
    for (question, pictures), rows in groups.items():
        part = torch.from_numpy(features[rows][:, :pictures])
        answers = model.backbone.answer(torch.tensor(question), part, {reader.end}, most)  # type: ignore[operator]
        for row, (ids, sure) in zip(rows, answers, strict=True):
            found[row] = (reader.tokenizer.decode(ids).strip(), sure)
    return found
