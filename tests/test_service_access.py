"""Every route of the description, asked by those who may not: generated, so that a new route is tested by being there."""

import re

import pytest
from fastapi.testclient import TestClient
from served import make_bundle

from weitiao.service import keyfile
from weitiao.service.app import Settings, make_app
from weitiao.service.routes import ROUTES

BODIES = {
    "infer": {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]},
    "predict": {"text": "good"},
    "embeddings": {"model": "reviews", "input": "good"},
    "chat": {"model": "reviews", "messages": [{"role": "user", "content": "good"}]},
    "completions": {"model": "reviews", "prompt": "good"},
    "load": {},
}
GUARDED = [route for route in ROUTES if route.role]
NAMES = [f"{route.method} {route.path}" for route in GUARDED]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A client without a key, and keys by what they may: each role, all roles, and all roles of another tenant."""
    folder = tmp_path_factory.mktemp("deploy")
    make_bundle(folder / "models" / "reviews")
    make_bundle(folder / "models" / "other", seed=1)
    path = folder / "keys.toml"
    keys = {role: keyfile.add(path, role, (role,)) for role in keyfile.ROLES}
    keys["all"] = keyfile.add(path, "all", keyfile.ROLES)
    keys["tenant"] = keyfile.add(path, "tenant", keyfile.ROLES, tenant="acme", models=("other",))
    with TestClient(
        make_app(Settings(folder / "models", keys=path, threads=1, engine="onnxruntime"))
    ) as client:
        yield client, keys


def ask(service, route, key: str = ""):
    client, keys = service
    version = client.app.state.service.models.get("reviews").version
    path = route.path.replace("{model}", "reviews").replace("{version}", version)
    words = set(re.findall(r"\w+", route.path)) - {"model"}
    body = next((body for name, body in BODIES.items() if name in words), None)
    headers = {"authorization": f"Bearer {keys.get(key, key)}"} if key else {}
    return client.request(route.method, path, json=body, headers=headers)


@pytest.mark.parametrize("route", GUARDED, ids=NAMES)
def test_no_key_a_wrong_key_and_a_wrong_role_are_refused(service, route):
    assert ask(service, route).status_code == 401
    assert ask(service, route, "wt_nobody_secret").status_code == 401
    for role in keyfile.ROLES:
        if role != route.role:
            assert ask(service, route, role).status_code == 403


@pytest.mark.parametrize("route", GUARDED, ids=NAMES)
def test_another_tenants_model_is_not_there(service, route):
    answer = ask(service, route, "tenant")
    if "{model}" in route.path or (route.body and "model" in route.body.model_fields):
        assert answer.status_code == 404
        assert "version" not in answer.headers.get("x-model-version", "")
    else:
        assert answer.status_code == 200
        assert "reviews" not in answer.text or route.path == "/metrics"


def test_open_routes_are_the_probes_only():
    assert [route.path for route in ROUTES if not route.role] == ["/v2/health/live", "/v2/health/ready"]


def test_those_who_may_are_answered(service):
    for route in GUARDED:
        if not route.path.startswith(("/admin", "/v1/c")):
            assert ask(service, route, "all").status_code == 200
            assert ask(service, route, route.role).status_code == 200
