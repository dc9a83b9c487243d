"""Requests made from the OpenAPI description, right and wrong: never a 5xx, and answers of the shapes it promises."""

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance
from served import make_bundle

from weitiao.service.app import Settings, make_app

MODELS = {"reviews": {}, "pairs": {"task": "text_matching"}, "plain": {"embedding": False}}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deploy")
    for name, settings_ in MODELS.items():
        make_bundle(folder / name, **settings_)
    return make_app(Settings(folder, threads=1, engine="onnxruntime"))


def cases(app, per_operation: int, counted: list[int]) -> None:
    """So many right and so many wrong requests to every operation; half of them name a model that there is."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        for found in schema.get_all_operations():
            operation = found.ok()
            # Nothing can be wrong about a request without a body and without parameters.
            may_be_wrong = bool(operation.body or operation.path_parameters)
            for mode in GenerationMode if may_be_wrong else [GenerationMode.POSITIVE]:
                check(operation, mode, per_operation, client, counted)


def check(operation, mode, count, client, counted) -> None:
    @settings(
        max_examples=count, phases=[Phase.generate], suppress_health_check=list(HealthCheck), derandomize=True
    )
    @given(
        case=operation.as_strategy(generation_mode=mode), model=st.sampled_from([*MODELS, None, None, None])
    )
    def run(case, model):
        if model and isinstance(case.path_parameters, dict) and "model" in case.path_parameters:
            case.path_parameters["model"] = model
        if model and isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = model
        response = case.call(session=client)
        checks = [not_a_server_error, response_schema_conformance]
        if mode is GenerationMode.POSITIVE:
            checks.append(status_code_conformance)
        case.validate_response(response, checks=checks)
        counted.append(response.status_code)

    run()


def test_requests_made_from_the_description(app):
    counted: list[int] = []
    cases(app, 3, counted)
    assert {200, 400, 404} <= set(counted)


@pytest.mark.soak
def test_many_requests_made_from_the_description(app):
    counted: list[int] = []
    cases(app, 40, counted)
    assert len(counted) >= 1000
