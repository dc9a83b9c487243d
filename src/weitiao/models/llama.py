"""What a ``config.json`` says of a decoder of the Llama family: whether it is computed here, and its dimensions."""

from collections.abc import Mapping
from typing import Any

MODEL_TYPES = ("llama", "qwen2")


def difference(config: Mapping[str, Any]) -> str:
    """What sets an architecture apart from plain Llama or Qwen2; "" where nothing does."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    act = config.get("hidden_act", "silu")
    if config.get("model_type") not in MODEL_TYPES:
        return f"model_type {config.get('model_type')}"
    if kind != "default" or act != "silu" or config.get("use_sliding_window"):
        return f"rope {kind}, {act}" + (", sliding window" if config.get("use_sliding_window") else "")
    return ""


def cache_shape(config: Mapping[str, Any]) -> dict[str, int]:
    """``{"layers", "heads", "head_size"}`` of the key-value cache."""
    heads = config["num_attention_heads"]
    return {
        "layers": config["num_hidden_layers"],
        "heads": config.get("num_key_value_heads") or heads,
        "head_size": config.get("head_dim") or config["hidden_size"] // heads,
    }


def rope_theta(config: Mapping[str, Any]) -> float:
    """The base of the rotary positions."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
