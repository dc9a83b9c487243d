"""What frozen models make of the other half of an example: computed once, and kept in the cache from run to run."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.core.errors import WeitiaoError
from weitiao.core.home import home
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file, read_json, write_json
from weitiao.data.encode import Encoded, Ragged, encode_texts, load_tokenizer

SOURCE_FILE = "text_model.json"  # in a model folder: which text encoder its captions were read by
LONGEST = 64  # tokens of a caption
# e5 was trained with one of two words before each text; the other models know none.
PREFIXES = {"multilingual-e5-small": "query: "}


class CaptionReader:
    """A frozen text encoder: captions to unit vectors ``[N, F]``, each distinct one computed once.

    Args:
        name: of the model; see ``models.known``.
        folder: a trained model's folder, whose captions must have been read by the very same weights.

    Raises:
        WeitiaoError: no such model, or the folder was trained with other weights.
    """

    def __init__(self, name: str, folder: Path) -> None:
        from weitiao.models.known import resolve_model, weights_hash

        self.name, self.path = name, resolve_model(name).path
        self.digest = weights_hash(self.path)
        record = folder / SOURCE_FILE
        if record.exists() and read_json(record)["sha256"] != self.digest:
            raise WeitiaoError(
                say(
                    f"{folder} was trained with other weights of {name}: fetch those, or train again",
                    f"{folder} 是用另一份 {name} 权重训练的：请取得那份权重，或重新训练",
                )
            )
        self.size = int(read_json(self.path / "config.json")["hidden_size"])
        self._model: Any = None
        self._tokenizer: Any = None

    def keep(self, folder: Path) -> None:
        """Write down in a model's folder which weights its captions were read by."""
        write_json(folder / SOURCE_FILE, {"name": self.name, "sha256": self.digest})

    def features(self, captions: Sequence[str]) -> np.ndarray:
        """Float32 ``[N, F]``; from the cache where these very captions were read before."""
        distinct = sorted(set(captions))
        if not distinct:
            return np.zeros((0, self.size), np.float32)
        key = hashlib.sha256("\0".join((self.digest, *distinct)).encode("utf-8", "replace")).hexdigest()
        path = home() / "features" / f"{key[:32]}.npy"
        found = _read(path, (len(distinct), self.size))
        if found is None:
            found = self._computed(distinct)
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(path, "wb") as file:
                np.save(file, found, allow_pickle=False)
        place = {caption: row for row, caption in enumerate(distinct)}
        return found[[place[caption] for caption in captions]]

    def _computed(self, captions: list[str]) -> np.ndarray:
        from weitiao.models.backbone import TextModel, open_backbone
        from weitiao.models.heads import make_head
        from weitiao.models.known import KNOWN
        from weitiao.training.outputs import outputs_of

        if self._model is None:
            backbone, config, _ = open_backbone(self.path)
            known = KNOWN.get(self.name)
            pooling = known.pooling if known else "mean"
            head = make_head({"type": "embedding", "outputs": 0, "pooling": pooling}, self.size)
            self._model = TextModel(backbone, head, config).eval().requires_grad_(False)
            self._tokenizer = load_tokenizer(self.path)
        texts = (PREFIXES.get(self.name, "") + caption for caption in captions)
        ids = Ragged.of(each.ids for each in encode_texts(self._tokenizer, texts, LONGEST))
        return np.stack(outputs_of(self._model, Encoded(ids))).astype(np.float32)


def _read(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """What was kept; None where there is nothing, or nothing whole."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if isinstance(found, np.ndarray) and found.shape == shape else None
