"""The bodies of OpenAI's API, as far as they apply here."""

import time
import uuid
from typing import Any, Literal

from pydantic import Field

from weitiao.service.calls import Shape

MOST_TOKENS = 8192


class Sampling(Shape):
    """What completions and chat have in common."""

    model: str
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0, le=100_000)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    seed: int | None = Field(None, ge=0, lt=2**63)
    n: int | None = Field(None, ge=1, le=1, description="only 1")
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: "StreamOptions | None" = None
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)


class StreamOptions(Shape):
    """``include_usage``: a last event says the tokens."""

    include_usage: bool = False


class TextPart(Shape):
    """A part of a message's content."""

    type: Literal["text"]
    text: str


class Message(Shape):
    """One turn of a chat."""

    role: str = Field(pattern="^(system|developer|user|assistant)$")
    content: str | list[TextPart]

    def plain(self) -> dict[str, str]:
        """Role and text, as a chat template reads them."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(Sampling):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)


class CompletionRequest(Sampling):
    """``POST /v1/completions``."""

    prompt: str | list[str]


class EmbeddingRequest(Shape):
    """``POST /v1/embeddings``."""

    model: str
    input: str | list[str]
    encoding_format: Literal["float", "base64"] | None = None


class Usage(Shape):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class EmbeddingUsage(Shape):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class Embedding(Shape):
    """One vector: numbers, or float32 little-endian in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingResponse(Shape):
    """What ``/v1/embeddings`` answers."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Model(Shape):
    """A served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "weitiao"


class ModelsResponse(Shape):
    """What ``/v1/models`` answers."""

    object: Literal["list"] = "list"
    data: list[Model]


class AnswerMessage(Shape):
    """The assistant's turn."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(Shape):
    """The one answer."""

    index: int = 0
    message: AnswerMessage
    logprobs: None = None
    finish_reason: Literal["stop", "length"]


class TextChoice(Shape):
    """An answer to one prompt; in a stream, a piece of it."""

    index: int = 0
    text: str
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class Delta(Shape):
    """A piece of an answer."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(Shape):
    """A piece of the one answer."""

    index: int = 0
    delta: Delta
    logprobs: None = None
    finish_reason: Literal["stop", "length"] | None = None


class Generated(Shape):
    """What every answer of a decoder carries. ``system_fingerprint`` is the model's version."""

    id: str = Field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = Field(default_factory=lambda: int(time.time()))
    model: str
    system_fingerprint: str


class ChatResponse(Generated):
    """What ``/v1/chat/completions`` answers."""

    object: Literal["chat.completion"] = "chat.completion"
    choices: list[ChatChoice]
    usage: Usage


class ChatChunk(Generated):
    """An event of a streamed chat."""

    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    choices: list[ChunkChoice]
    usage: Usage | None = None


class CompletionResponse(Generated):
    """What ``/v1/completions`` answers; in a stream, an event."""

    object: Literal["text_completion"] = "text_completion"
    choices: list[TextChoice]
    usage: Usage | None = None


class OpenAIError(Shape):
    """A refused request."""

    error: dict[str, Any]
