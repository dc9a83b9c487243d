"""Weitiao's own routes: ``/predict/{model}``, metrics, and the loading and unloading of model versions."""

import asyncio
from typing import Any

from pydantic import Field
from starlette.responses import Response

from weitiao.core.messages import say
from weitiao.service.calls import Call, Shape
from weitiao.service.errors import bad_request, unknown_model
from weitiao.service.models import Version
from weitiao.service.texts import compute, records


class PredictRequest(Shape):
    """``text`` or ``texts``. A pair is ``[a, b]``; any task also takes an object with a text for each role."""

    text: str | None = None
    texts: list[str | list[str] | dict[str, str]] | None = Field(None, min_length=1)


class Label(Shape):
    """A decision."""

    label: str
    score: float


class Span(Shape):
    """A part of a text, ``[start, end)`` in characters."""

    entity_group: str
    word: str
    start: int
    end: int
    score: float


class PredictResponse(Shape):
    """One prediction a text: a decision, several, or spans."""

    model: str
    version: str
    predictions: list[Label | list[Label] | list[Span]]


class ErrorResponse(Shape):
    """A refused request."""

    error: str
    code: str


class ModelState(Shape):
    """A loaded model. ``earlier``: the versions that a rollback goes back to, the next one last."""

    name: str
    version: str
    kind: str
    task: str
    folder: str
    loaded: float = Field(description="seconds since 1970")
    requests: int = Field(description="requests that hold this version at this moment")
    queue: int
    earlier: list[str]


class ModelList(Shape):
    """The loaded models."""

    models: list[ModelState]


class LoadRequest(Shape):
    """``folder``: the name of a version's own folder under the model's; empty: the newest."""

    folder: str = Field("", max_length=200)


class Unloaded(Shape):
    """A model is served no more."""

    name: str
    unloaded: bool


async def predict(call: Call) -> Shape:
    """Predict one text or several."""
    body: PredictRequest = call.body
    if (body.text is None) == (body.texts is None):
        raise bad_request(say("give either text or texts", "请给出 text 或 texts 之一"))
    held = call.hold(call.path["model"])
    items = [body.text] if body.texts is None else body.texts
    answers = await compute(call, held, "predict", records(call, held, items))
    return PredictResponse(model=held.model, version=held.version, predictions=answers)


async def metrics(call: Call) -> Response:
    """Metrics in Prometheus' text format; of the caller's own models, where its key has a tenant."""
    from weitiao.service.metrics import CONTENT_TYPE

    return Response(call.caller.visible(call.service.metrics.render()), media_type=CONTENT_TYPE)


async def models(call: Call) -> Shape:
    """The loaded models and their versions."""
    return ModelList(
        models=[_state(call, name) for name in call.service.models.names() if call.caller.sees(name)]
    )


async def load(call: Call) -> Shape:
    """Load a model, or another version of it, from the served folder. The one before answers until then."""
    name = _known(call)
    return await _changed(call, call.service.models.load, name, call.body.folder if call.body else "")


async def reload(call: Call) -> Shape:
    """Load the newest version of a model that is being served."""
    name = _known(call)
    call.service.models.get(name)
    return await _changed(call, call.service.models.load, name)


async def rollback(call: Call) -> Shape:
    """Go back to the version that answered before."""
    return await _changed(call, call.service.models.rollback, _known(call))


async def unload(call: Call) -> Shape:
    """Serve a model no more. Requests in flight are finished."""
    name = _known(call)
    await asyncio.to_thread(call.service.models.unload, name)
    return Unloaded(name=name, unloaded=True)


def _known(call: Call) -> str:
    name = call.path["model"]
    if not call.caller.sees(name):
        raise unknown_model(name)
    call.model = name
    return name


async def _changed(call: Call, change: Any, *arguments: str) -> Shape:
    version: Version = await asyncio.to_thread(change, *arguments)
    call.version = version.version
    return _state(call, version.model)


def _state(call: Call, name: str) -> ModelState:
    held = call.service.models.get(name)
    manifest = held.predictor.bundle.manifest
    return ModelState(
        name=name, version=held.version, kind=held.kind, task=manifest.get("task", ""), folder=held.folder.name,
        loaded=held.loaded, requests=held.requests, queue=held.worker.depth, earlier=call.service.models.past(name),
    )  # fmt: skip
