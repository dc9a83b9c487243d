"""Generated text over HTTP, from a tiny decoder bundle: OpenAI's shapes, streams, and readers that leave."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from decoders import save_llama
from fastapi.testclient import TestClient

from weitiao.runtime import load
from weitiao.service.app import Settings, make_app
from weitiao.stages._export_decoder import export_decoder

TALK = [{"role": "user", "content": "the end"}]
GREEDY = {"model": "tiny", "temperature": 0}


@pytest.fixture(scope="module")
def deploy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoders")
    llama = save_llama(folder / "source" / "llama")
    list(export_decoder(llama, folder / "deploy" / "tiny", name="tiny", bits=32))
    return folder / "deploy"


@pytest.fixture(scope="module")
def decoder(deploy: Path) -> Any:
    return load(deploy / "tiny", threads=1, engine="onnxruntime")


@pytest.fixture(scope="module")
def client(deploy: Path):
    with TestClient(
        make_app(Settings(deploy, threads=1, engine="onnxruntime")), base_url="http://127.0.0.1:8000"
    ) as client:
        yield client


def events(answer) -> list[dict]:
    """The events of a streamed answer, which ends with [DONE]."""
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    *parts, last, rest = answer.text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def test_a_chat_answers_as_the_runtime_does(client, decoder):
    answer = client.post("/v1/chat/completions", json=GREEDY | {"messages": TALK, "max_tokens": 12}).json()
    expected = decoder.generate(TALK, max_new_tokens=12)
    assert answer["object"] == "chat.completion"
    assert answer["system_fingerprint"] == decoder.bundle.version
    choice = answer["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": expected, "refusal": None}
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == decoder.count(TALK)
    assert answer["usage"]["completion_tokens"] == 12


def test_a_streamed_chat_has_the_same_text(client, decoder):
    body = GREEDY | {"messages": TALK, "max_completion_tokens": 12, "stream": True}
    parts = events(
        client.post("/v1/chat/completions", json=body | {"stream_options": {"include_usage": True}})
    )
    assert parts[0]["choices"][0]["delta"]["role"] == "assistant"
    text = "".join(part["choices"][0]["delta"]["content"] or "" for part in parts if part["choices"])
    assert text == decoder.generate(TALK, max_new_tokens=12)
    assert parts[-2]["choices"][0]["finish_reason"] == "length"
    assert parts[-1]["choices"] == [] and parts[-1]["usage"]["completion_tokens"] == 12
    assert len({part["id"] for part in parts}) == 1


def test_completions_of_several_prompts_also_streamed(client, decoder):
    prompts = ["the end", "in an"]
    expected = [decoder.generate(prompt, max_new_tokens=8) for prompt in prompts]
    body = GREEDY | {"prompt": prompts, "max_tokens": 8}
    choices = client.post("/v1/completions", json=body).json()["choices"]
    assert [choice["text"] for choice in choices] == expected
    streamed = ["", ""]
    for part in events(client.post("/v1/completions", json=body | {"stream": True})):
        streamed[part["choices"][0]["index"]] += part["choices"][0]["text"]
    assert streamed == expected


def test_a_stop_text_ends_an_answer(client, decoder):
    text = decoder.generate("the end", max_new_tokens=12)
    body = GREEDY | {"prompt": "the end", "max_tokens": 12, "stop": text[4:6]}
    choice = client.post("/v1/completions", json=body).json()["choices"][0]
    assert choice["text"] == text[: text.index(text[4:6])]
    assert choice["finish_reason"] == "stop"


def test_a_seed_gives_the_same_answer(client):
    body = {"model": "tiny", "prompt": "the", "seed": 3, "max_tokens": 20}
    first, second = (client.post("/v1/completions", json=body).json()["choices"] for _ in range(2))
    assert first == second


def test_open_inference_protocol(client, decoder):
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["the end"]}
    output = client.post("/v2/models/tiny/infer", json={"inputs": [tensor]}).json()["outputs"][0]
    assert output == {
        "name": "text",
        "shape": [1],
        "datatype": "BYTES",
        "data": [decoder.generate("the end")],
    }


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/completions", {"prompt": "the " * 3000}, 400, "context_length_exceeded"),
        ("/v1/completions", {"prompt": "the", "n": 2}, 400, "bad_body"),
        ("/v1/completions", {"prompt": "the", "temperature": -1}, 400, "bad_body"),
        ("/v1/completions", {"prompt": []}, 400, "bad_request"),
        ("/v1/chat/completions", {"messages": [{"role": "wizard", "content": "a"}]}, 400, "bad_body"),
        ("/v1/embeddings", {"input": "a"}, 400, "no_embeddings"),
        ("/predict/tiny", {"text": "a"}, 400, "bad_request"),
    ],
)
def test_refusals(client, path, body, status, code):
    answer = client.post(path, json={"model": "tiny", **body})
    found = answer.json()
    assert (answer.status_code, found["error"]["code"] if path.startswith("/v1") else found["code"]) == (
        status,
        code,
    )


def test_a_reader_that_leaves_ends_the_writing(deploy):
    app = make_app(Settings(deploy, threads=1, engine="onnxruntime"))
    body = json.dumps(GREEDY | {"prompt": "the end", "max_tokens": 1000, "stream": True}).encode()
    version = app.state.service.models.get("tiny")

    async def leave_after_three_pieces() -> int:
        left, pieces, asked = asyncio.Event(), 0, False

        async def receive():
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": body}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            nonlocal pieces
            pieces += message["type"] == "http.response.body"
            if pieces == 3:
                left.set()

        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "query_string": b"", "root_path": "",
                 "headers": [(b"content-type", b"application/json")], "http_version": "1.1"}  # fmt: skip
        await asyncio.wait_for(app(scope, receive, send), 60)
        return pieces

    assert asyncio.run(leave_after_three_pieces()) < 500
    assert version.requests == 0
    app.state.service.models.close()  # returns once nothing is being written any more
