"""The application through its HTTP routes, with tiny bundles: answers, refusals, versions."""

import asyncio
import base64
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from served import make_bundle

from weitiao.core.audit import AuditLog
from weitiao.core.privacy import mask
from weitiao.runtime import load
from weitiao.service.app import Settings, make_app
from weitiao.service.routes import ROUTES

TEXTS = ["good card", "very bad", "物流很快", "", "a" * 300]


def client_of(folder: Path, **settings) -> TestClient:
    return TestClient(
        make_app(Settings(folder, threads=1, engine="onnxruntime", **settings)),
        base_url="http://127.0.0.1:8000",
    )


@pytest.fixture(scope="module")
def deploy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("deploy")
    make_bundle(folder / "reviews")
    make_bundle(folder / "plain", embedding=False, seed=3)
    make_bundle(folder / "spans", labels=("O", "B-PER", "I-PER"), task="token_classification")
    make_bundle(folder / "pairs" / "v2", task="text_matching", seed=1)
    make_bundle(folder / "pairs" / "v10", task="text_matching", seed=2)
    return folder


@pytest.fixture(scope="module")
def client(deploy):
    with client_of(deploy) as client:
        yield client


@pytest.fixture
def two_versions(tmp_path):
    """A model in two versions whose labels differ, and a client; the newer one answers."""
    for name, seed in (("v1", 1), ("v2", 2)):
        make_bundle(tmp_path / "reviews" / name, labels=(f"{name} bad", f"{name} good"), seed=seed)
    with client_of(tmp_path) as client:
        yield client


def tensor(texts, name="text", **other):
    return {"name": name, "shape": [len(texts)], "datatype": "BYTES", "data": texts} | other


def test_predictions_are_those_of_the_runtime(client, deploy):
    answer = client.post("/predict/reviews", json={"texts": TEXTS}).json()
    expected = load(deploy / "reviews", threads=1, engine="onnxruntime")
    assert answer["predictions"] == expected.predict(TEXTS)
    assert answer["version"] == expected.bundle.version
    one = client.post("/predict/reviews", json={"text": TEXTS[0]}).json()
    assert one["predictions"] == expected.predict(TEXTS[:1])


def test_spans_and_pairs(client, deploy):
    spans = client.post("/predict/spans", json={"texts": ["hello you"]}).json()["predictions"]
    assert spans == load(deploy / "spans", threads=1, engine="onnxruntime").predict(["hello you"])
    pairs = load(deploy / "pairs" / "v10", threads=1, engine="onnxruntime")
    body = {"texts": [["good", "card"], {"text_a": "a", "text_b": "b"}]}
    answer = client.post("/predict/pairs", json=body).json()
    assert answer["predictions"] == pairs.predict([("good", "card"), ("a", "b")])
    assert answer["version"] == pairs.bundle.version


def test_open_inference_protocol(client, deploy):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    metadata = client.get("/v2/models/reviews").json()
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert client.get(f"/v2/models/reviews/versions/{metadata['versions'][0]}/ready").json()["ready"]
    body = {"id": "7", "inputs": [tensor(TEXTS)], "outputs": [{"name": "logits"}, {"name": "label"}]}
    answer = client.post("/v2/models/reviews/infer", json=body).json()
    expected = load(deploy / "reviews", threads=1, engine="onnxruntime")
    assert answer["id"] == "7"
    assert [output["name"] for output in answer["outputs"]] == ["logits", "label"]
    logits = np.array(answer["outputs"][0]["data"], np.float32).reshape(answer["outputs"][0]["shape"])
    np.testing.assert_array_equal(logits, np.stack(expected.outputs(TEXTS)))
    assert answer["outputs"][1]["data"] == [one["label"] for one in expected.predict(TEXTS)]


def test_open_inference_protocol_with_several_inputs_and_as_json(client, deploy):
    body = {"inputs": [tensor(["b"], "text_b"), tensor(["a"], "text_a", shape=[1, 1], data=[["a"]])]}
    outputs = client.post("/v2/models/pairs/infer", json=body).json()["outputs"]
    assert [output["name"] for output in outputs] == ["label", "score", "answer"]
    expected = load(deploy / "pairs" / "v10", threads=1, engine="onnxruntime").predict([("a", "b")])
    assert json.loads(outputs[2]["data"][0]) == expected[0]
    spans = client.post("/v2/models/spans/infer", json={"inputs": [tensor(["hello you"])]}).json()["outputs"]
    assert [output["name"] for output in spans] == ["answer"]


def test_embeddings_in_numbers_and_base64(client, deploy):
    body = {"model": "reviews", "input": TEXTS[:2]}
    answer = client.post("/v1/embeddings", json=body).json()
    expected = load(deploy / "reviews", threads=1, engine="onnxruntime").embed(TEXTS[:2])
    np.testing.assert_allclose([one["embedding"] for one in answer["data"]], expected, atol=1e-6)
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 4
    packed = client.post("/v1/embeddings", json=body | {"encoding_format": "base64"}).json()["data"]
    vectors = [np.frombuffer(base64.b64decode(one["embedding"]), "<f4") for one in packed]
    np.testing.assert_array_equal(np.stack(vectors), expected)


def test_models_are_listed(client):
    listed = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["pairs", "plain", "reviews", "spans"]
    assert client.get("/v1/models/plain").json()["object"] == "model"


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/predict/reviews", {}, 400, "bad_request"),
        ("/predict/reviews", {"text": "a", "texts": ["b"]}, 400, "bad_request"),
        ("/predict/reviews", {"texts": []}, 400, "bad_body"),
        ("/predict/reviews", {"texts": [1]}, 400, "bad_body"),
        ("/predict/reviews", {"texts": ["a"] * 513}, 413, "too_many_texts"),
        ("/predict/reviews", {"texts": ["a" * 20_001]}, 413, "text_too_long"),
        ("/predict/pairs", {"texts": ["alone"]}, 400, "bad_text"),
        ("/predict/none", {"text": "a"}, 404, "model_not_found"),
        ("/v2/models/reviews/infer", {"inputs": []}, 400, "bad_body"),
        ("/v2/models/reviews/infer", {"inputs": [tensor(["a"], "other")]}, 400, "bad_request"),
        ("/v2/models/reviews/infer", {"inputs": [tensor(["a"], shape=[2])]}, 400, "bad_request"),
        ("/v2/models/reviews/infer", {"inputs": [tensor(["a"], datatype="FP32")]}, 400, "bad_request"),
        ("/v2/models/reviews/infer", {"inputs": [tensor([])]}, 400, "bad_request"),
        (
            "/v2/models/reviews/infer",
            {"inputs": [tensor(["a"])], "outputs": [{"name": "x"}]},
            400,
            "bad_request",
        ),
        ("/v2/models/reviews/versions/0/infer", {"inputs": [tensor(["a"])]}, 404, "model_not_found"),
        ("/v2/models/none/infer", {"inputs": [tensor(["a"])]}, 404, "model_not_found"),
        ("/admin/models/none/load", {}, 404, "model_not_found"),
        ("/admin/models/reviews/load", {"folder": "../reviews"}, 404, "model_not_found"),
        ("/admin/models/reviews/rollback", None, 409, "no_earlier_version"),
        ("/nothing/here", {}, 404, "no_such_path"),
    ],
)
def test_refusals(client, path, body, status, code):
    answer = client.post(path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert isinstance(answer.json()["error"], str)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/embeddings", {"model": "none", "input": "a"}, 404, "model_not_found"),
        ("/v1/embeddings", {"model": "plain", "input": "a"}, 400, "no_embeddings"),
        ("/v1/embeddings", {"model": "reviews", "input": []}, 400, "bad_request"),
        ("/v1/embeddings", {"model": "reviews", "input": [[1, 2]]}, 400, "bad_body"),
        ("/v1/chat/completions", {"model": "reviews", "messages": []}, 400, "bad_body"),
        ("/v1/completions", {"model": "reviews", "prompt": "a"}, 400, "no_decoder"),
        ("/v1/nothing", {}, 404, "no_such_path"),
    ],
)
def test_refusals_in_openais_shape(client, path, body, status, code):
    answer = client.post(path, json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("data", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"text": "\\ud800"}', "application/json", 400),
        (b'{"text": "a"}', "text/plain", 415),
        (b"[" * 100_000, "application/json", 400),
        (b'{"text": "' + b"a" * 2_000_000 + b'"}', "application/json", 413),
    ],
)
def test_what_is_no_json_is_refused(client, data, kind, status):
    answer = client.post("/predict/reviews", content=data, headers={"content-type": kind})
    assert answer.status_code == status


def test_a_refusal_does_not_repeat_what_was_sent(client):
    answer = client.post("/predict/reviews", json={"texts": [{"secret-role": 1}], "secret": "canary"})
    assert answer.status_code == 400
    assert "secret" not in answer.text and "canary" not in answer.text


def test_another_method_is_refused_with_those_that_there_are(client):
    answer = client.delete("/predict/reviews")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


def test_load_rollback_and_unload(two_versions):
    client = two_versions

    def label():
        answer = client.post("/predict/reviews", json={"text": "good"})
        assert answer.headers["x-model-version"] == answer.json()["version"]
        return answer.json()["predictions"][0]["label"][:2]

    assert label() == "v2"
    assert client.post("/admin/models/reviews/load", json={"folder": "v1"}).json()["folder"] == "v1"
    assert label() == "v1"
    state = client.post("/admin/models/reviews/rollback").json()
    assert (label(), state["folder"], state["earlier"]) == ("v2", "v2", [])
    assert client.post("/admin/models/reviews/unload").json() == {"name": "reviews", "unloaded": True}
    assert client.post("/predict/reviews", json={"text": "good"}).status_code == 404
    assert client.get("/v2/health/ready").status_code == 503
    assert client.post("/admin/models/reviews/load").json()["folder"] == "v2"
    assert label() == "v2"


def test_a_bundle_that_cannot_be_loaded_leaves_the_one_before(two_versions, tmp_path):
    (tmp_path / "reviews" / "v2" / "model.onnx").write_bytes(b"cut short")
    answer = two_versions.post("/admin/models/reviews/reload")
    assert answer.status_code == 422
    assert "model.onnx" in answer.json()["error"]
    assert two_versions.post("/predict/reviews", json={"text": "good"}).status_code == 200


def test_a_version_whose_files_were_replaced_cannot_come_back(two_versions, tmp_path):
    two_versions.post("/admin/models/reviews/load", json={"folder": "v1"})
    make_bundle(tmp_path / "reviews" / "v2", labels=("other", "labels"), seed=9)
    answer = two_versions.post("/admin/models/reviews/rollback")
    assert (answer.status_code, answer.json()["code"]) == (409, "version_replaced")


def test_a_request_keeps_its_version_and_the_old_one_is_closed_after_it(two_versions):
    models = two_versions.app.state.service.models
    with models.use("reviews") as held:
        models.load("reviews", "v1")
        assert models.get("reviews").version != held.version
        assert held.predictor.predict(["good"])[0]["label"].startswith("v2")
        assert held.worker._thread.is_alive()
    held.worker._thread.join(10)
    assert not held.worker._thread.is_alive()


def test_watching_loads_what_is_new_and_only_that(two_versions, tmp_path):
    from weitiao.service.watch import FolderWatch

    models = two_versions.app.state.service.models
    watch = FolderWatch(models, 60)
    models.load("reviews", "v1")
    watch.look()
    assert models.get("reviews").folder.name == "v1"  # chosen by hand; the folder has not changed
    make_bundle(tmp_path / "reviews" / "v3", seed=5)
    make_bundle(tmp_path / "second", seed=6)
    watch.look()
    assert models.names() == ["reviews", "second"]
    assert models.get("reviews").folder.name == "v3"


def test_a_client_that_leaves_takes_its_text_out_of_the_queue(deploy):
    app = make_app(Settings(deploy, threads=1, engine="onnxruntime"))
    held = app.state.service.models.get("reviews")
    begun, go, computed, compute = threading.Event(), threading.Event(), [], held.work.compute

    def gated(kind, items):
        begun.set()
        go.wait(60)
        computed.extend(record["text"] for record in items)
        return compute(kind, items)

    held.worker._compute = gated

    async def ask(text: str, leaves: bool) -> list[int]:
        messages, statuses = [{"type": "http.request", "body": json.dumps({"text": text}).encode()}], []
        messages += [{"type": "http.disconnect"}] * leaves
        never = asyncio.Event()

        async def receive():
            return messages.pop(0) if messages else await never.wait()

        async def send(message):
            statuses.append(message.get("status"))

        scope = {"type": "http", "method": "POST", "path": "/predict/reviews", "query_string": b"", "root_path": "",
                 "headers": [(b"content-type", b"application/json")], "http_version": "1.1"}  # fmt: skip
        await app(scope, receive, send)
        return statuses

    async def test():
        stays = [asyncio.create_task(ask("first", False))]
        await asyncio.to_thread(begun.wait, 30)  # the rest has to queue
        stays.append(asyncio.create_task(ask("second", False)))
        await asyncio.wait_for(ask("leaves", True), 30)
        go.set()
        return [statuses[0] for statuses in await asyncio.gather(*stays)]

    assert asyncio.run(test()) == [200, 200]
    app.state.service.models.close()
    assert sorted(computed) == ["first", "second"]


def test_without_keys_a_page_from_elsewhere_is_refused(deploy):
    client = client_of(deploy, local_only=True)
    assert client.get("/v1/models").status_code == 200
    assert client.get("/v1/models", headers={"origin": "http://localhost:8000"}).status_code == 200
    assert client.get("/v1/models", headers={"origin": "https://evil.example"}).status_code == 403
    assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 403
    assert client.get("/v1/models", headers={"origin": "http://[half"}).status_code == 403


def test_metrics_count_requests_and_decisions(deploy):
    client = client_of(deploy)
    client.post("/predict/reviews", json={"texts": ["good", "bad"]})
    client.post("/predict/none", json={"text": "good"})
    client.app.state.service.models.close()  # the counts of a batch come after its answer
    text = client.get("/metrics").text
    assert 'weitiao_requests_total{model="reviews",route="/predict/{model}",status="200"} 1.0' in text
    assert 'weitiao_requests_total{model="",route="/predict/{model}",status="404"} 1.0' in text
    decisions = [line for line in text.splitlines() if line.startswith("weitiao_decisions_total")]
    assert sum(float(line.split()[-1]) for line in decisions) == 2


def test_the_description_names_every_route_and_resolves(client):
    description = client.get("/openapi.json").json()
    described = {(method.upper(), path) for path, one in description["paths"].items() for method in one}
    assert described == {(route.method, route.path) for route in ROUTES}
    schemas = set(description["components"]["schemas"])
    text = json.dumps(description)
    assert schemas and all(
        name in schemas for name in set(part.split('"')[0] for part in text.split("schemas/")[1:])
    )
    assert client.get("/docs").status_code == 200


def test_personal_data_is_masked_on_the_way_in_where_asked(deploy):
    texts = ["call 13812345678 for a good card", "a good card"]
    answer = (
        client_of(deploy, mask=True).post("/predict/reviews", json={"texts": texts}).json()["predictions"]
    )
    predict = load(deploy / "reviews", threads=1, engine="onnxruntime").predict
    assert answer == predict([mask(text) for text in texts])
    assert answer[0] != predict(texts)[0]
    assert client_of(deploy).post("/predict/reviews", json={"texts": texts}).json()["predictions"] == predict(
        texts
    )


def test_the_audit_log_says_who_asked_for_what_and_never_a_text(deploy, tmp_path):
    with client_of(deploy, audit=tmp_path / "audit.db") as client:
        client.post("/predict/reviews", json={"text": "canary"})
        client.post("/predict/none", json={"text": "canary"})
        client.get("/v2/health/live")
        client.post("/admin/models/reviews/reload")
    log = AuditLog(tmp_path / "audit.db")
    assert log.verify() == []
    entries = [entry["event"] for entry in log.entries()]
    assert [(event["action"], event.get("model"), event.get("status")) for event in entries] == [
        ("start", None, None),
        ("POST /predict/{model}", "reviews", 200),
        ("POST /predict/{model}", "", 404),
        ("POST /admin/models/{model}/reload", "reviews", 200),
    ]
    assert "canary" not in json.dumps(entries)
    assert b"canary" not in (tmp_path / "audit.db").read_bytes()


def test_serving_imports_nothing_heavy(deploy):
    """In a process of its own: this one has imported torch for other tests."""
    code = (
        "import sys; from weitiao.service.app import Settings, make_app; "
        f"make_app(Settings({str(deploy)!r}, threads=1, engine='onnxruntime')); "
        "print(*({'torch', 'transformers', 'datasets', 'pandas', 'sklearn', 'peft'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
