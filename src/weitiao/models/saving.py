"""A model folder: opens whole in Weitiao, and in ``transformers`` or ``peft`` as far as the same function exists there.

``weitiao.json`` describes what lies beside the weights: task, answers, head, the tuning method and its base.

* The head computes what a ``transformers`` class does: one ``model.safetensors`` under that class's names.
* It does not (mean pooling, marked tokens): the backbone alone in ``model.safetensors``, ``head.safetensors`` beside.
* An adapter: ``adapter_config.json``, ``adapter_model.safetensors`` (``adapter.json``, ``adapter.safetensors`` where
  ``peft`` has no such method), ``head.safetensors``; the base named and hashed.
"""

import errno
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.runs import write_json
from weitiao.models.backbone import TextModel
from weitiao.models.encoder import Encoder
from weitiao.models.heads import Head, LanguageHead, PooledHead, TokenHead

DESCRIPTION = "weitiao.json"
PARTS = ("task", "task_options", "answers", "head", "max_length", "tuning", "tuning_options", "base")
HEAD_FILE = "head.safetensors"
TYPES = {"bert": "Bert", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert"}


def transformers_class(model: TextModel) -> str:
    """The ``transformers`` class that computes the same function, head included; "" where there is none."""
    if not isinstance(model.backbone, Encoder) or not _fits_there(model.backbone) or model.head.known:
        return ""
    family = type_of(model.config)
    if isinstance(model.head, TokenHead):
        return f"{family}ForTokenClassification"
    if isinstance(model.head, PooledHead) and model.head.pooling == "own" and family == "Bert":
        return "BertForSequenceClassification"
    return ""


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the system refuses (a full disk, say); safetensors itself reports that as an error of its own kind.
    """
    if shutil.disk_usage(path.parent).free < sum(t.numel() * t.element_size() for t in tensors.values()):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def save_weights(folder: Path, model: TextModel, names: list[str], problem: str) -> None:
    """Write ``config.json`` and the weights of a whole model.

    Args:
        names: the class names, for ``id2label``.
        problem: ``single_label_classification``, ``multi_label_classification`` or ``regression``.
    """
    if isinstance(model.head, LanguageHead):
        model.backbone.save(folder)  # which has the head in it
        return
    if hasattr(model.backbone, "save"):  # a decoder that classifies
        model.backbone.save(folder)
        save_head(folder, model.head)
        return
    backbone = getattr(model.backbone, "model", model.backbone).state_dict()
    config = {
        key: value
        for key, value in model.config.items()
        if key not in ("_name_or_path", "quantization_config")
    }
    config["dtype"] = "float32"
    if isinstance(model.backbone, Encoder) and not _fits_there(model.backbone):
        config["architectures"] = []
    config.pop("torch_dtype", None)
    whole = transformers_class(model)
    if whole:
        prefix = "bert." if whole.startswith("Bert") else "roberta."
        tensors = {prefix + name: tensor for name, tensor in backbone.items()} | _head_there(
            model.head, prefix
        )
        config |= {
            "architectures": [whole],
            "problem_type": problem,
            "classifier_dropout": model.head.dropout_probability,
        }
    else:
        tensors = dict(backbone)
        save_head(folder, model.head)
        if isinstance(model.backbone, Encoder) and _fits_there(model.backbone):
            config["architectures"] = [type_of(config) + "Model"]
    if names:
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        config["label2id"] = {name: i for i, name in enumerate(names)}
    elif problem == "regression":
        config |= {"id2label": {"0": "value"}, "label2id": {"value": 0}}
    write_json(folder / "config.json", config)
    save_tensors(_contiguous(tensors), folder / "model.safetensors")


def _fits_there(encoder: Encoder) -> bool:
    """Whether ``transformers`` can build the encoder: there, heads always share the whole hidden size."""
    return encoder.shape.attention_size == encoder.shape.hidden_size


def type_of(config: dict[str, Any]) -> str:
    """``Bert`` for a config of type ``bert``, and so on."""
    return TYPES[config["model_type"]]


def save_head(folder: Path, head: Head) -> None:
    """Write a head's parameters; nothing for one that has none."""
    tensors = _contiguous(head.state_dict())
    if tensors:
        save_tensors(tensors, folder / HEAD_FILE)


def load_head(folder: Path, head: nn.Module, beside: dict[str, Tensor]) -> None:
    """Read a head's parameters from its own file, or from the names ``transformers`` gives them.

    Args:
        beside: the tensors of the model's weights that the backbone did not take.

    Raises:
        WeitiaoError: a parameter is missing or of another size.
    """
    path = folder / HEAD_FILE
    there = {"classifier.weight": "linear.weight", "classifier.bias": "linear.bias",
             "pooler.dense.weight": "pooler.weight", "pooler.dense.bias": "pooler.bias"}  # fmt: skip
    tensors = load_file(path) if path.exists() else {there[n]: t for n, t in beside.items() if n in there}
    wanted = head.state_dict()
    wrong = [name for name in wanted if name not in tensors or tensors[name].shape != wanted[name].shape]
    if wrong:
        raise WeitiaoError(
            say(
                f"{folder}: the head lacks {wrong[0]}, or its size is wrong",
                f"{folder}：分类头缺少 {wrong[0]} 或尺寸不符",
            )
        )
    head.load_state_dict({name: tensors[name] for name in wanted})


def start_pooler(head: Head, beside: dict[str, Tensor]) -> None:
    """Begin the ``own`` pooling from the pretrained pooler, where the weights have one."""
    weight = beside.get("pooler.dense.weight")
    if isinstance(head, PooledHead) and head.pooler is not None and weight is not None:
        head.pooler.load_state_dict({"weight": weight, "bias": beside["pooler.dense.bias"]})


def read_description(folder: Path) -> dict[str, Any]:
    """``weitiao.json`` of a model folder.

    Raises:
        WeitiaoError: there is none, it is damaged, or a part of it is missing.
    """
    path = folder / DESCRIPTION
    if not path.exists():
        raise WeitiaoError(
            say(
                f"{folder} is not a Weitiao model: there is no {DESCRIPTION}",
                f"{folder} 不是微调保存的模型：没有 {DESCRIPTION}",
            )
        )
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if missing := [part for part in PARTS if part not in description]:
            raise ValueError(missing[0])
    except ValueError:
        raise WeitiaoError(
            say(f"{path} is damaged. Train or copy the model again", f"{path} 已损坏。请重新训练或复制模型")
        ) from None
    return description


def _head_there(head: Head, prefix: str) -> dict[str, Tensor]:
    """A head's parameters under the names that ``transformers`` gives them."""
    assert head.linear is not None
    tensors: dict[str, Tensor] = {
        "classifier.weight": head.linear.weight,
        "classifier.bias": head.linear.bias,
    }
    if isinstance(head, PooledHead) and head.pooler is not None:
        tensors[f"{prefix}pooler.dense.weight"] = head.pooler.weight
        tensors[f"{prefix}pooler.dense.bias"] = head.pooler.bias
    return tensors


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
