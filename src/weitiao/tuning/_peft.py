"""What the methods that ``peft`` has in common share: put in, saved and read as ``peft`` does, merged."""

import json
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.tuning._layers import EVERY, INPUTS, linear_layers
from weitiao.tuning.base import Tuning, freeze

if TYPE_CHECKING:
    from torch import Tensor

    from weitiao.models.backbone import TextModel

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."  # before the names of tensors in a file of ``peft``


class PeftTuning(Tuning):
    """A method of ``peft``; its folder opens there."""

    saves_adapter = True
    merges = True
    opens_in_peft = True

    @abstractmethod
    def config(self, model: "TextModel") -> Any:
        """The method's ``PeftConfig`` for this model."""

    def apply(self, model: "TextModel") -> None:
        from peft import inject_adapter_in_model

        freeze(model)
        inject_adapter_in_model(self.config(model), model.backbone)

    def save_adapter(self, model: "TextModel", folder: Path, base: str) -> None:
        from weitiao.models.saving import save_tensors

        named = {PREFIX + name: tensor.contiguous() for name, tensor in self.tensors(model).items()}
        save_tensors(named, folder / WEIGHTS)
        config = model.backbone.peft_config["default"]
        config.base_model_name_or_path = base
        config.task_type = "FEATURE_EXTRACTION"
        config.inference_mode = True
        for key in ("target_modules", "feedforward_modules"):
            if isinstance(getattr(config, key, None), set):
                setattr(config, key, sorted(getattr(config, key)))
        config.save_pretrained(str(folder))

    def load_adapter(self, model: "TextModel", folder: Path) -> None:
        from safetensors.torch import load_file

        state = load_file(folder / WEIGHTS)
        named = {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}
        wanted = {name: tuple(tensor.shape) for name, tensor in self.tensors(model).items()}
        found = {name: tuple(tensor.shape) for name, tensor in named.items()}
        if wrong := sorted(set(wanted.items()) ^ set(found.items())):
            raise WeitiaoError(
                say(
                    f"{folder}: the adapter does not fit the model: {wrong[0][0]}",
                    f"{folder}：适配器与模型不匹配：{wrong[0][0]}",
                )
            )
        self.put(model, named)

    def tensors(self, model: "TextModel") -> "dict[str, Tensor]":
        """The adapter's tensors, under the names that ``peft`` saves."""
        from peft import get_peft_model_state_dict

        return get_peft_model_state_dict(model.backbone, save_embedding_layers=False)

    def put(self, model: "TextModel", tensors: "dict[str, Tensor]") -> None:
        """Write such tensors into the model."""
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model.backbone, tensors)

    def merge(self, model: "TextModel") -> None:
        from peft.tuners.tuners_utils import BaseTunerLayer

        for module in list(model.backbone.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, BaseTunerLayer):
                    child.merge(safe_merge=True)
                    setattr(module, name, child.get_base_layer())


def stored_config(folder: Path) -> dict[str, Any]:
    """An adapter folder's ``adapter_config.json``."""
    return json.loads((folder / CONFIG).read_text(encoding="utf-8"))


@dataclass
class LowRank(PeftTuning):
    """LoRA and its kin."""

    lora_rank: int = option(8, "rank of the adapters", "适配器的秩", least=1)
    lora_alpha: float = option(16, "scale of the adapters, divided by the rank", "适配器的缩放系数（除以秩）")
    lora_dropout: float = option(0.0, "dropout before the adapters", "适配器前的 dropout", least=0, most=0.9)
    lora_targets: str = option(
        "linear",
        "which layers: every linear one, or attention's only",
        "作用的层：所有线性层或仅注意力",
        choices=("linear", "attention"),
    )
    lora_layers: int = option(
        0, "only this many layers from the top (0: all)", "只加在最上面的若干层（0：全部）", least=0
    )

    learning_rate = 5e-4
    head_learning_rate = 5e-3  # a new head learns little at the adapters' rate (LAB_LOG.md)
    peft_options: ClassVar[dict[str, Any]] = {}

    def config(self, model: "TextModel") -> Any:
        """A ``LoraConfig``."""
        from peft import LoraConfig

        ends = INPUTS if self.lora_targets == "attention" else EVERY
        return LoraConfig(
            r=self.lora_rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            target_modules=linear_layers(model, ends, self.lora_layers),
            **self.peft_options,
        )
