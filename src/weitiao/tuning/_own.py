"""What the methods written here share: an adapter folder with the trained tensors and a line of settings."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.tuning.base import Tuning

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.models.backbone import TextModel

WEIGHTS, CONFIG = "adapter.safetensors", "adapter.json"


class OwnAdapter(Tuning):
    """Saves ``adapter.safetensors``, what it trains of the backbone, and ``adapter.json``."""

    saves_adapter = True

    def tensors(self, model: "TextModel") -> "dict[str, Tensor]":
        """What is saved, by name in the backbone."""
        return {n: p.detach() for n, p in model.backbone.named_parameters() if p.requires_grad}

    def save_adapter(self, model: "TextModel", folder: Path, base: str) -> None:
        from weitiao.core.runs import write_json
        from weitiao.models.saving import save_tensors

        tensors = {name: tensor.cpu().contiguous() for name, tensor in self.tensors(model).items()}
        save_tensors(tensors, folder / WEIGHTS)
        method = type(self).__module__.rsplit(".", 1)[-1]
        settings = asdict(cast(Any, self))
        write_json(folder / CONFIG, {"format": 1, "method": method, "settings": settings, "base": base})

    def load_adapter(self, model: "TextModel", folder: Path) -> None:
        from safetensors.torch import load_file

        saved, wanted = load_file(folder / WEIGHTS), self.tensors(model)
        wrong = sorted(set(saved) ^ set(wanted)) or [n for n in wanted if saved[n].shape != wanted[n].shape]
        if wrong:
            raise WeitiaoError(
                say(
                    f"{folder}: the adapter does not fit the model: {wrong[0]}",
                    f"{folder}：适配器与模型不匹配：{wrong[0]}",
                )
            )
        self.put(model, saved)

    def put(self, model: "TextModel", tensors: "dict[str, Tensor]") -> None:
        """Write such tensors into the model."""
        for name, tensor in self.tensors(model).items():
            tensor.copy_(tensors[name])
