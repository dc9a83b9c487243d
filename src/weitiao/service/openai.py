"""OpenAI's API: models, embeddings, and where a decoder is loaded, completions and chat, streamed if wished."""

import asyncio
import base64
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Literal

import numpy as np
from starlette.responses import Response

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.core.privacy import mask
from weitiao.service import openai_shapes as shapes
from weitiao.service.calls import Call, Disconnected, EventStream, Shape, first
from weitiao.service.errors import bad_request, refusal_body
from weitiao.service.limits import Refused
from weitiao.service.models import Version
from weitiao.service.streams import Streams
from weitiao.service.texts import compute, incoming

LOG = logging.getLogger("weitiao.service")
CHAT_TOKENS, COMPLETION_TOKENS, INFER_TOKENS = 256, 16, 256  # written at most, where a request doesn't say


async def models(call: Call) -> Shape:
    """The served models."""
    names = [name for name in call.service.models.names() if call.caller.sees(name)]
    return shapes.ModelsResponse(data=[_model(call.service.models.get(name)) for name in names])


async def model(call: Call) -> Shape:
    """One served model."""
    return _model(call.hold(call.path["model"]))


async def embeddings(call: Call) -> Shape:
    """Unit vectors of texts."""
    body: shapes.EmbeddingRequest = call.body
    held = call.hold(body.model)
    texts = [body.input] if isinstance(body.input, str) else body.input
    if not texts:
        raise bad_request(say("input is empty", "input 为空"))
    if held.work is None or not held.work.embeds:
        raise bad_request(say("this model gives no embeddings", "该模型不提供文本向量"), "no_embeddings")
    texts = incoming(call, texts)
    vectors = await compute(call, held, "embed", texts)
    encode = _as_base64 if body.encoding_format == "base64" else _as_numbers
    data = [shapes.Embedding(index=place, embedding=encode(vector)) for place, vector in enumerate(vectors)]
    usage = shapes.EmbeddingUsage(prompt_tokens=call.tokens, total_tokens=call.tokens)
    return shapes.EmbeddingResponse(data=data, model=held.model, usage=usage)


async def chat(call: Call) -> Shape | Response:
    """The assistant's next turn."""
    body: shapes.ChatRequest = call.body
    held = _decoder(call, body.model)
    messages = [message.plain() for message in body.messages]
    contents = incoming(call, [message["content"] for message in messages])
    messages = [message | {"content": content} for message, content in zip(messages, contents, strict=True)]
    writing = Writing(call, held, messages, _options(body, body.max_completion_tokens or CHAT_TOKENS))
    common = _common(held, "chatcmpl")
    if body.stream:

        def chunk(usage: shapes.Usage | None = None, **delta: Any) -> str:
            end = delta.pop("finish_reason", None)
            choices = [] if usage else [shapes.ChunkChoice(delta=shapes.Delta(**delta), finish_reason=end)]
            return shapes.ChatChunk(**common, choices=choices, usage=usage).as_json()

        return EventStream(_events([writing], body, lambda _, **one: chunk(**one), role="assistant"), call)
    text = await writing.whole()
    choice = shapes.ChatChoice(
        message=shapes.AnswerMessage(content=text), finish_reason=writing.finish_reason
    )
    return shapes.ChatResponse(**common, choices=[choice], usage=_usage([writing]))


async def completions(call: Call) -> Shape | Response:
    """How a text goes on."""
    body: shapes.CompletionRequest = call.body
    held = _decoder(call, body.model)
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if not prompts:
        raise bad_request(say("prompt is empty", "prompt 为空"))
    prompts = incoming(call, prompts)
    options = _options(body, COMPLETION_TOKENS)
    writings = [Writing(call, held, prompt, options) for prompt in prompts]
    common = _common(held, "cmpl")
    if body.stream:

        def chunk(
            index: int, usage: shapes.Usage | None = None, content: str = "", finish_reason: Any = None
        ) -> str:
            choices = (
                [] if usage else [shapes.TextChoice(index=index, text=content, finish_reason=finish_reason)]
            )
            return shapes.CompletionResponse(**common, choices=choices, usage=usage).as_json()

        return EventStream(_events(writings, body, chunk), call)
    choices = []
    for index, writing in enumerate(writings):
        text = await writing.whole()
        choices.append(shapes.TextChoice(index=index, text=text, finish_reason=writing.finish_reason))
    return shapes.CompletionResponse(**common, choices=choices, usage=_usage(writings))


async def written(call: Call, held: Version, prompt: str) -> str:
    """How a text goes on, with the model's defaults (for the Open Inference Protocol)."""
    return await Writing(call, held, incoming(call, [prompt])[0], {"max_new_tokens": INFER_TOKENS}).whole()


class Writing:
    """One answer of a decoder, queued at once. It is given up when the call ends.

    Raises:
        Refused: 400, nothing to read or no room to answer; 503, the queue is full.
    """

    def __init__(self, call: Call, held: Version, prompt: Any, options: dict[str, Any]) -> None:
        assert isinstance(held.worker, Streams)
        self.call, self.worker = call, held.worker
        self.worker.check_room()
        try:
            self.read_tokens, self.written_tokens = held.predictor.count(prompt), 0
        except WeitiaoError as error:
            raise bad_request(str(error), "bad_prompt") from None
        most = held.predictor.max_length
        if not 0 < self.read_tokens < most:
            message = say(
                f"the prompt has {self.read_tokens} tokens; the model reads and writes {most} in all",
                f"提示有 {self.read_tokens} 个词元；模型读写合计最多 {most} 个",
            )
            raise bad_request(message, "context_length_exceeded")
        self.most = min(options["max_new_tokens"], most - self.read_tokens)
        self.stream = self.worker.put(prompt, options)
        call.stack.callback(self._leave)

    async def pieces(self) -> AsyncIterator[str]:
        """The answer as it is written; a piece for each token, some of them empty.

        Where personal data is masked, the answer comes in one piece: a number is found only once it is whole.
        """
        masks, text = self.call.service.settings.mask, ""
        async for piece in self.worker.read(self.stream):
            self.written_tokens += 1
            text += piece if masks else ""
            yield "" if masks else piece
        if masks:
            yield mask(text)

    async def whole(self) -> str:
        """The answer in one; given up when the client leaves.

        Raises:
            Disconnected: it left.
        """
        task = asyncio.ensure_future(self._collected())
        if await first(self.call.gone(), task):
            raise Disconnected
        return task.result()

    async def _collected(self) -> str:
        return "".join([piece async for piece in self.pieces()])

    def _leave(self) -> None:
        self.stream.left = True
        self.call.tokens += self.read_tokens + self.written_tokens

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        """Why the answer ended: at a stop, or at the most tokens allowed."""
        return "length" if self.written_tokens >= self.most else "stop"


async def _events(
    writings: Sequence[Writing], body: shapes.Sampling, chunk: Callable[..., str], **begin: Any
) -> AsyncIterator[str]:
    """The data of the events of a streamed answer."""
    try:
        for index, writing in enumerate(writings):
            if begin:
                yield chunk(index, content="", **begin)
            async for piece in writing.pieces():
                if piece:
                    yield chunk(index, content=piece)
            yield chunk(index, finish_reason=writing.finish_reason)
        if body.stream_options and body.stream_options.include_usage:
            yield chunk(0, usage=_usage(writings))
    except Exception:  # the status has been sent: what is left to say is an event
        LOG.exception("a streamed answer failed")
        failed = Refused(500, "internal_error", say("the service failed", "服务内部出错"))
        yield json.dumps(refusal_body(failed, "openai"))
    yield "[DONE]"


def _options(body: shapes.Sampling, most: int) -> dict[str, Any]:
    """The settings of ``Decoder.stream``; temperature 1 where the request has none, as OpenAI does."""
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    options = {
        "max_new_tokens": body.max_tokens or most,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "stop": tuple(word for word in stop if word),
    }
    given = {key: getattr(body, key) for key in ("top_k", "top_p", "min_p", "repetition_penalty", "seed")}
    return options | {key: value for key, value in given.items() if value is not None}


def _decoder(call: Call, name: str) -> Version:
    held = call.hold(name)
    if held.kind != "decoder":
        way = say("use /predict/{model} or /v1/embeddings", "请用 /predict/{model} 或 /v1/embeddings")
        raise bad_request(say(f"this model writes no text: {way}", f"该模型不生成文本：{way}"), "no_decoder")
    return held


def _common(held: Version, prefix: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": held.model,
        "system_fingerprint": held.version,
    }


def _usage(writings: Sequence[Writing]) -> shapes.Usage:
    read, written = sum(w.read_tokens for w in writings), sum(w.written_tokens for w in writings)
    return shapes.Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def _model(held: Version) -> shapes.Model:
    return shapes.Model(id=held.model, created=int(held.loaded))


def _as_numbers(vector: np.ndarray) -> list[float]:
    return vector.tolist()


def _as_base64(vector: np.ndarray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
