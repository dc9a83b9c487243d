"""Every route of the service's own OpenAPI, asked without a key, with a wrong one, a wrong role, and by another tenant."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from served import make_bundle

from weitiao.service import keyfile
from weitiao.service.app import Settings, make_app
from weitiao.service.routes import ROUTES

OURS, THEIRS = "reviews", "secret-model"
OPEN = {"/v2/health/live", "/v2/health/ready"}  # probes, which tell nothing
BODIES: dict[str, Any] = {
    "/v1/embeddings": {"input": ["good"]},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "good"}], "max_tokens": 2},
    "/v1/completions": {"prompt": "good", "max_tokens": 2},
    "/infer": {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]},
    "/predict/": {"text": "good"},
}
DESTRUCTIVE = ("unload", "rollback")  # what would change the service if it were let through: asked last


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, dict[str, str]]]:
    """A service with a model of ours and one of theirs, and keys of both tenants with each role."""
    folder = tmp_path_factory.mktemp("deploy")
    make_bundle(folder / OURS)
    make_bundle(folder / THEIRS, seed=1)
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    keys = {}
    for role in keyfile.ROLES:
        keys[f"our {role}"] = keyfile.add(path, role, (role,), "acme", (OURS,))
        keys[f"their {role}"] = keyfile.add(path, role, (role,), "globex", (THEIRS,))
    keys["operator"] = keyfile.add(path, "operator", keyfile.ROLES)
    with TestClient(make_app(Settings(folder, keys=path, threads=1, engine="onnxruntime"))) as client:
        yield client, keys


def operations() -> list[tuple[str, str, str]]:
    """``(method, path, role)`` of every route, as the description tells it."""
    from weitiao.service.documentation import openapi

    found = [
        (method.upper(), path, operation["x-role"])
        for path, methods in openapi(ROUTES)["paths"].items()
        for method, operation in methods.items()
    ]
    return sorted(found, key=lambda one: one[1].endswith(DESTRUCTIVE))


GUARDED = [one for one in operations() if one[1] not in OPEN]


def ask(client: TestClient, method: str, path: str, model: str, key: str | None) -> Any:
    body = next((value for part, value in BODIES.items() if part in path), {})
    if path.startswith("/v1/") and method == "POST":
        body = {**body, "model": model}
    address = path.replace("{model}", model).replace("{version}", "1")
    headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
    return client.request(method, address, json=body if method == "POST" else None, headers=headers)


def test_only_probes_are_open() -> None:
    assert {path for _, path, role in operations() if not role} == OPEN
    assert len(GUARDED) >= 15 and {role for _, _, role in GUARDED} == set(keyfile.ROLES)


@pytest.mark.parametrize("method, path, role", GUARDED)
def test_without_a_key_or_with_a_wrong_one(
    served: tuple[TestClient, dict[str, str]], method: str, path: str, role: str
) -> None:
    client, keys = served
    right = keys[f"our {role}"]
    for key in (None, "", "wrong", "wt_aaaaaaaa_wrong", right.rsplit("_", 1)[0]):
        for model in (OURS, THEIRS, "nowhere"):
            answer = ask(client, method, path, model, key)
            assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", (path, key)


@pytest.mark.parametrize("method, path, role", GUARDED)
def test_with_a_key_of_another_role(
    served: tuple[TestClient, dict[str, str]], method: str, path: str, role: str
) -> None:
    client, keys = served
    for other in set(keyfile.ROLES) - {role}:
        for model in (OURS, THEIRS, "nowhere"):
            assert ask(client, method, path, model, keys[f"our {other}"]).status_code == 403


@pytest.mark.parametrize("method, path, role", GUARDED)
def test_another_tenant_s_model_is_not_there(
    served: tuple[TestClient, dict[str, str]], method: str, path: str, role: str
) -> None:
    """Refused in the words for a model that never was; and a list does not name it."""
    client, keys = served
    answer = ask(client, method, path, THEIRS, keys[f"our {role}"])
    names_a_model = "{model}" in path or (path.startswith("/v1/") and method == "POST")
    if names_a_model:
        nowhere = ask(client, method, path, "nowhere", keys[f"our {role}"])
        assert answer.status_code == nowhere.status_code == 404
        assert answer.text.replace(THEIRS, "nowhere") == nowhere.text
    else:
        assert answer.status_code == 200 and THEIRS not in answer.text


@pytest.mark.parametrize("method, path, role", GUARDED)
def test_the_right_key_gets_past_all_that(
    served: tuple[TestClient, dict[str, str]], method: str, path: str, role: str
) -> None:
    """Else the refusals above would prove nothing."""
    client, keys = served
    if path.endswith(DESTRUCTIVE):
        pytest.skip("it would change what the other tests ask for")
    answer = ask(client, method, path, OURS, keys[f"our {role}"])
    assert answer.status_code not in (401, 403) and answer.status_code < 500
    if "{version}" not in path and "completions" not in path:  # no such version; no decoder
        assert answer.status_code == 200, answer.text


def test_metrics_tell_a_tenant_of_its_own_models_only(served: tuple[TestClient, dict[str, str]]) -> None:
    client, keys = served
    for tenant, model in (("our", OURS), ("their", THEIRS)):
        ask(client, "POST", "/predict/{model}", model, keys[f"{tenant} predict"])
    ours, theirs, all_ = (
        ask(client, "GET", "/metrics", "", keys[key]).text
        for key in ("our metrics", "their metrics", "operator")
    )
    named = [set(re.findall(r'model="([^"]+)"', text)) for text in (ours, theirs, all_)]
    assert named == [{OURS}, {THEIRS}, {OURS, THEIRS}]


def test_paths_that_no_route_has_tell_nothing(served: tuple[TestClient, dict[str, str]]) -> None:
    client, _ = served
    for path in (
        "/admin",
        "/predict",
        "/../etc/passwd",
        "/v1",
        "/admin/models/../../metrics",
        "/%2e%2e/metrics",
        "//metrics",
    ):
        assert client.get(path).status_code in (401, 404, 405)


def test_no_refusal_shows_a_key(served: tuple[TestClient, dict[str, str]]) -> None:
    client, keys = served
    said = [ask(client, method, path, THEIRS, keys["our predict"] + "x").text for method, path, _ in GUARDED]
    assert not any(keys["our predict"] in text for text in said)
    assert json.loads(said[0])
    assert Path(client.app.state.service.access.path).read_text().count("$argon2id$") == len(keys)  # type: ignore[attr-defined]
