"""Open Inference Protocol v2: health, metadata, and inference with texts as BYTES tensors (JSON, not binary).

An input is named after a column's role: ``text``; ``text_a`` and ``text_b`` for pairs; ``text``, ``head`` and ``tail``
for relations. Outputs are ``label`` and ``score`` where the task makes one decision a text, ``answer`` (JSON) always,
``logits`` and ``embedding`` where they are asked for by name.
"""

import json
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.version import __version__
from weitiao.runtime.items import roles_of
from weitiao.service.calls import Call, Shape
from weitiao.service.errors import bad_request
from weitiao.service.limits import Refused
from weitiao.service.models import Version
from weitiao.service.texts import compute, incoming, records

MOST_VALUES = 4_000_000  # numbers in one answer


class Tensor(Shape):
    """A named tensor; ``data`` is flat or nested as ``shape`` says."""

    leaves_out_none: ClassVar[bool] = True
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class Wanted(Shape):
    """An output that the client asks for."""

    name: str


class InferRequest(Shape):
    """``POST .../infer``."""

    id: str | None = None
    inputs: list[Tensor] = Field(min_length=1, max_length=8)
    outputs: list[Wanted] | None = None


class InferResponse(Shape):
    """What ``infer`` answers."""

    leaves_out_none: ClassVar[bool] = True
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[Tensor]


class TensorMetadata(Shape):
    """A tensor that a model reads or gives; -1 is any size."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(Shape):
    """``GET /v2/models/{model}``."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ServerMetadata(Shape):
    """``GET /v2``."""

    name: str
    version: str
    extensions: list[str]


class Live(Shape):
    """``GET /v2/health/live``."""

    live: bool


class Ready(Shape):
    """``GET /v2/health/ready``."""

    ready: bool


class ModelReady(Shape):
    """``GET /v2/models/{model}/ready``."""

    name: str
    ready: bool


async def server(call: Call) -> Shape:
    """What this server is."""
    return ServerMetadata(name="weitiao", version=__version__, extensions=[])


async def live(call: Call) -> Shape:
    """The process answers."""
    return Live(live=True)


async def ready(call: Call) -> Shape:
    """Requests are wanted: models are loaded, and the service is not about to end."""
    if call.service.draining or not call.service.models.names():
        raise Refused(503, "not_ready", say("not ready", "未就绪"), {"Retry-After": "1"})
    return Ready(ready=True)


async def model_ready(call: Call) -> Shape:
    """A model is loaded."""
    held = call.hold(call.path["model"], call.path.get("version", ""))
    return ModelReady(name=held.model, ready=True)


async def metadata(call: Call) -> Shape:
    """What a model reads and gives."""
    held = call.hold(call.path["model"], call.path.get("version", ""))
    inputs = [TensorMetadata(name=name, datatype="BYTES", shape=[-1]) for name in input_names(held)]
    outputs = [
        TensorMetadata(name=name, datatype=kind, shape=shape) for name, kind, shape in output_kinds(held)
    ]
    platform = f"weitiao_{held.kind}"
    return ModelMetadata(
        name=held.model, versions=[held.version], platform=platform, inputs=inputs, outputs=outputs
    )


async def infer(call: Call) -> Shape:
    """Predict texts."""
    if call.request.headers.get("inference-header-content-length"):
        raise bad_request(say("binary tensors are not read: send JSON", "不支持二进制张量：请发送 JSON"))
    body: InferRequest = call.body
    held = call.hold(call.path["model"], call.path.get("version", ""))
    items = items_of(held, body)
    names = [one.name for one in body.outputs] if body.outputs else []
    for name in names:
        if name not in (known := [known for known, _, _ in output_kinds(held)]):
            raise bad_request(say(f"no such output, only: {known}", f"没有这个输出，只有：{known}"))
    outputs = [*await _decisions(call, held, items, names), *await _arrays(call, held, items, names)]
    if names:
        outputs.sort(key=lambda tensor: names.index(tensor.name))
    return InferResponse(model_name=held.model, model_version=held.version, id=body.id, outputs=outputs)


def input_names(held: Version) -> list[str]:
    """The inputs of a model."""
    return roles_of(held.predictor.task) if held.kind == "predictor" else ["text"]


def output_kinds(held: Version) -> list[tuple[str, str, list[int]]]:
    """Name, datatype and shape of each output of a model."""
    if held.kind == "decoder":
        return [("text", "BYTES", [-1])]
    found: list[tuple[str, str, list[int]]] = [("answer", "BYTES", [-1])]
    if one_decision(held):
        found = [("label", "BYTES", [-1]), ("score", "FP32", [-1]), *found]
    head = held.predictor.bundle.manifest["head"]
    if head["type"] != "token":
        found.append(("logits", "FP32", [-1, -1]))
    if held.work is not None and held.work.embeds:
        found.append(("embedding", "FP32", [-1, -1]))
    return found


def one_decision(held: Version) -> bool:
    """Whether a text gets exactly one label and score."""
    task, answers = held.predictor.task, held.predictor.answers
    return task.name != "token_classification" and answers.kind != "labels" and getattr(task, "top", 1) == 1


def items_of(held: Version, body: InferRequest) -> list[Any]:
    """The texts in a request's tensors: strings, or dicts by role where there are several inputs.

    Raises:
        Refused: 400, the tensors are not what the model reads.
    """
    roles = input_names(held)
    columns: dict[str, list[str]] = {}
    for tensor in body.inputs:
        if tensor.name not in roles or tensor.name in columns:
            raise bad_request(say(f"the inputs are {roles}, once each", f"输入应为 {roles}，各一次"))
        columns[tensor.name] = strings(tensor)
    sizes = {len(texts) for texts in columns.values()}
    if len(sizes) != 1 or sizes == {0}:
        raise bad_request(
            say("the inputs must have equally many texts, at least one", "各输入的文本数应相同且至少一条")
        )
    if list(columns) == ["text"]:
        return list(columns["text"])
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def strings(tensor: Tensor) -> list[str]:
    """The texts of a BYTES tensor of shape ``[N]`` or ``[N, 1]``.

    Raises:
        Refused: 400, another datatype or shape, or something that is not text.
    """
    if tensor.datatype != "BYTES":
        raise bad_request(say("texts are tensors of datatype BYTES", "文本应为 BYTES 类型的张量"))
    flat = [cell for part in tensor.data for cell in (part if isinstance(part, list) else [part])]
    if not all(isinstance(cell, str) for cell in flat):
        raise bad_request(say("BYTES data must be strings", "BYTES 数据应为字符串"))
    if tensor.shape not in ([len(flat)], [len(flat), 1]):
        count = len(flat)
        raise bad_request(
            say(f"{count} texts have the shape [{count}]", f"{count} 条文本的 shape 应为 [{count}]")
        )
    return flat


async def _decisions(call: Call, held: Version, items: list[Any], names: list[str]) -> list[Tensor]:
    """The outputs that come from a prediction; all of them where none is asked for by name."""
    count = [len(items)]
    wanted = names or [name for name, _, _ in output_kinds(held) if name not in ("logits", "embedding")]
    if held.kind == "decoder":
        from weitiao.service.openai import written

        texts = [await written(call, held, item) for item in items]
        return [Tensor(name="text", shape=count, datatype="BYTES", data=texts)]
    if not {"label", "score", "answer"} & set(wanted):
        return []
    answers = await compute(call, held, "predict", records(call, held, items))
    made = {"answer": ("BYTES", lambda: [json.dumps(answer, ensure_ascii=False) for answer in answers])}
    if one_decision(held):
        made["label"] = ("BYTES", lambda: [answer["label"] for answer in answers])
        made["score"] = ("FP32", lambda: [answer["score"] for answer in answers])
    return [
        Tensor(name=name, shape=count, datatype=made[name][0], data=made[name][1]())
        for name in wanted
        if name in made
    ]


async def _arrays(call: Call, held: Version, items: list[Any], names: list[str]) -> list[Tensor]:
    """Logits and embeddings, where they are asked for."""
    found = []
    for name in {"logits", "embedding"} & set(names):
        if name == "embedding":
            if not all(isinstance(item, str) for item in items):
                raise bad_request(say("embeddings are of single texts", "向量只能由单条文本得到"))
            rows = await compute(call, held, "embed", incoming(call, items))
        else:
            rows = await compute(call, held, "logits", records(call, held, items))
        array = np.stack(rows)
        if array.size > MOST_VALUES:
            raise WeitiaoError(say("the answer is too large: send fewer texts", "结果过大：请减少文本数"))
        found.append(Tensor(name=name, shape=list(array.shape), datatype="FP32", data=array.ravel().tolist()))
    return found
