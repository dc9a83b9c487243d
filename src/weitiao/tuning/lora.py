"""Low-rank adapters on the backbone's linear layers / 在主干的线性层上加低秩适配器（LoRA）.

Source: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models"; the layers are those of ``peft``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao.core.config import option
from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.tuning.base import Tuning, freeze

if TYPE_CHECKING:
    from weitiao.models.backbone import TextModel

ATTENTION = (
    "query",
    "key",
    "value",
    "q_lin",
    "k_lin",
    "v_lin",
    "Wqkv",
    "query_proj",
    "value_proj",
    "q",
    "k",
    "v",
)


@dataclass
class Lora(Tuning):
    """LoRA through ``peft``; its folder opens there."""

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
    saves_adapter = True

    def apply(self, model: "TextModel") -> None:
        from peft import inject_adapter_in_model

        freeze(model)
        inject_adapter_in_model(self._config(model), model.backbone)

    def _config(self, model: "TextModel") -> Any:
        from peft import LoraConfig
        from torch import nn

        names = [name for name, module in model.backbone.named_modules() if isinstance(module, nn.Linear)]
        if self.lora_targets == "attention":
            names = [name for name in names if name.rsplit(".", 1)[-1] in ATTENTION]
        if self.lora_layers:
            from weitiao.training.optimizer import depth

            first = model.backbone.shape.num_hidden_layers - self.lora_layers
            names = [name for name in names if depth(f"backbone.{name}.") > first]
        if not names:
            raise WeitiaoError(
                say("The model has no layers that LoRA could adapt", "模型中没有可以加 LoRA 的层")
            )
        return LoraConfig(
            r=self.lora_rank, lora_alpha=self.lora_alpha, lora_dropout=self.lora_dropout, target_modules=names
        )

    def save_adapter(self, model: "TextModel", folder: Path, base: str) -> None:
        from peft import get_peft_model_state_dict

        from weitiao.models.saving import save_tensors

        state = get_peft_model_state_dict(model.backbone)
        named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in state.items()}
        save_tensors(named, folder / "adapter_model.safetensors")
        config = model.backbone.peft_config["default"]
        config.base_model_name_or_path = base
        config.task_type = "FEATURE_EXTRACTION"
        config.inference_mode = True
        config.target_modules = sorted(config.target_modules)
        config.save_pretrained(str(folder))

    def load_adapter(self, model: "TextModel", folder: Path) -> None:
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        state = load_file(folder / "adapter_model.safetensors")
        named = {name.removeprefix("base_model.model."): tensor for name, tensor in state.items()}
        result = set_peft_model_state_dict(model.backbone, named)
        lost = [name for name in result.missing_keys if "lora_" in name] + list(result.unexpected_keys)
        if lost:
            raise WeitiaoError(
                say(
                    f"{folder}: the adapter does not fit the model: {lost[0]}",
                    f"{folder}：适配器与模型不匹配：{lost[0]}",
                )
            )
