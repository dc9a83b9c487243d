"""Which of a backbone's linear layers do what, by their names in BERT's kin and in ``transformers``' other encoders."""

from typing import TYPE_CHECKING

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say

if TYPE_CHECKING:
    from weitiao.models.backbone import TextModel

# The ends of the layers' names: BERT, RoBERTa, ELECTRA; DistilBERT; ModernBERT; DeBERTa; MPNet.
INPUTS = ("query", "key", "value", "q_lin", "k_lin", "v_lin", "Wqkv", "query_proj", "key_proj", "value_proj",
          "q", "k", "v", "q_proj", "k_proj", "v_proj")  # fmt: skip
KEYS_VALUES = (
    "key",
    "value",
    "k_lin",
    "v_lin",
    "Wqkv",
    "key_proj",
    "value_proj",
    "k",
    "v",
    "k_proj",
    "v_proj",
)
ATTENTION_OUTPUTS = ("attention.output.dense", "attention.out_lin", "attn.Wo", "attn.o", "attn.o_proj")
FEED_FORWARD_OUTPUTS = ("output.dense", "ffn.lin2", "mlp.Wo", "mlp.down_proj")
EVERY = ("",)


def linear_layers(model: "TextModel", ends: tuple[str, ...] = EVERY, top: int = 0) -> list[str]:
    """The names in the backbone of the linear layers with one of these ends, in order.

    Args:
        top: only those of this many layers from the top; 0: all.

    Raises:
        WeitiaoError: there are none.
    """
    from torch import nn

    from weitiao.training.optimizer import depth

    first = model.backbone.shape.num_hidden_layers - top if top else -1
    names = [
        name
        for name, module in model.backbone.named_modules()
        if isinstance(module, nn.Linear)
        and name != "lm_head"
        and depth(f"backbone.{name}.") > first
        and any(f".{name}".endswith(f".{end}" if end else "") for end in ends)
        and (ends is not FEED_FORWARD_OUTPUTS or not name.endswith(ATTENTION_OUTPUTS))
    ]
    if not names:
        kind = model.config.get("model_type", "?")
        raise WeitiaoError(
            say(
                f"A {kind} model has no layers that this tuning method knows: use --tuning lora or full",
                f"{kind} 模型中没有该微调方法能识别的层：请用 --tuning lora 或 full",
            )
        )
    return names
