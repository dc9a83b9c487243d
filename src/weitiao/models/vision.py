"""Models of pictures by name: made new (``cnn``, ``vit``), or opened from a folder that Weitiao wrote.

A name is a file of this folder with one class that is made from its configuration. ``model_type`` in ``config.json`` is
``weitiao_<name>``.
"""

import importlib
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.sources import Resolved

# What a new model is made with where nothing else is said; ``width`` is that of the first layer.
NEW: dict[str, dict[str, Any]] = {
    "cnn": {"width": 16},
    "vit": {"width": 128, "num_layers": 6, "patch": 4, "dropout": 0.0},
}
PREFIX = "weitiao_"


def new(name: str) -> Resolved | None:
    """The source of a model that is made new, or None where the name is none of these. No path is there."""
    note = say("new weights, drawn at random", "全新权重，随机初始化")
    return Resolved(Path(f"new:{name}"), name, "new", note) if name in NEW else None


def is_vision(config: dict[str, Any]) -> bool:
    """Whether a ``config.json`` describes a model of pictures."""
    return str(config.get("model_type", "")) in {PREFIX + name for name in NEW}


def make(name: str, settings: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """A new model and its configuration.

    Args:
        settings: ``image_size``, ``channels``, ``views``, and what is to differ from ``NEW``.

    Raises:
        WeitiaoError: the picture is too small for it, or its side is no multiple of the patch.
    """
    config = {"model_type": PREFIX + name, "architectures": [], **NEW[name], **settings}
    patch, side = config.get("patch", 8), config["image_size"]
    if side < 8 or ("patch" in config and side % patch):
        raise WeitiaoError(
            say(
                f"A {name} cannot read pictures of {side} x {side}: the side must be at least 8"
                + (f" and a multiple of {patch}" if "patch" in config else ""),
                f"{name} 无法读取 {side} x {side} 的图片：边长至少为 8"
                + (f" 且须为 {patch} 的倍数" if "patch" in config else ""),
            )
        )
    return _built(name, config), config


def open_vision(folder: Path, config: dict[str, Any]) -> nn.Module:
    """The model in a folder (checked before by ``known.check_folder``).

    Raises:
        WeitiaoError: its weights are not those of its configuration.
    """
    name = config["model_type"].removeprefix(PREFIX)
    try:
        model = _built(name, config)
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:150]
        raise WeitiaoError(
            say(
                f"{folder} holds no whole {name} model: {reason}",
                f"{folder} 中没有完整的 {name} 模型：{reason}",
            )
        ) from None
    return model


def _built(name: str, config: dict[str, Any]) -> nn.Module:
    module = importlib.import_module(f"weitiao.models.{name}")
    model: nn.Module = getattr(module, name.capitalize())(config)
    return model
