"""1,000 seeded canaries sent to the service in every way a client can: none in its logs, metrics or audit log."""

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from served import make_bundle
from test_privacy import canaries

from weitiao.core.audit import AuditLog
from weitiao.service.app import Settings, make_app


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that any logger writes, at the lowest level."""
    stream, root = io.StringIO(), logging.getLogger()
    handler, level, factory = logging.StreamHandler(stream), root.level, logging.getLogRecordFactory()
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    yield stream
    logging.setLogRecordFactory(factory)
    root.removeHandler(handler)
    root.setLevel(level)


def ask(client: TestClient, way: int, secrets: list[str]) -> Any:
    """One request that carries canaries, in one of eight ways."""
    name, texts = quote(secrets[0], safe=""), [f"客户{secret}来电，请处理" for secret in secrets]
    post, json_type = client.post, {"content-type": "application/json"}
    match way:
        case 0:
            return post("/predict/reviews", json={"texts": texts + secrets})
        case 1:
            return post("/v1/embeddings", json={"model": "reviews", "input": texts})
        case 2:
            inputs = [{"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}]
            return post("/v2/models/reviews/infer", json={"inputs": inputs, "id": secrets[0]})
        case 3:
            turns = [{"role": "user", "content": text} for text in texts]
            return post("/v1/chat/completions", json={"model": secrets[0], "messages": turns})
        case 4:
            return post(f"/predict/{name}", json={"text": texts[0]})
        case 5:
            return post(
                f"/predict/reviews?text={name}", content=f'{{"text": "{secrets[0]}', headers=json_type
            )
        case 6:
            return client.get(f"/nowhere/{name}", headers={"X-Request-Id": ascii(secrets[0])})
        case _:
            return post(f"/admin/models/{name}/load", json={"version": secrets[0]})


def test_1000_canaries_stay_out_of_logs_metrics_and_audit(tmp_path: Path, logged: io.StringIO) -> None:
    make_bundle(tmp_path / "deploy" / "reviews")
    settings = Settings(tmp_path / "deploy", threads=1, engine="onnxruntime", audit=tmp_path / "audit.db")
    secrets = canaries(1000)
    with TestClient(make_app(settings), base_url="http://127.0.0.1:8000") as client:
        statuses, left, way = [], list(secrets), 0
        while left:
            count = 20 if way < 4 else 1
            statuses.append(ask(client, way, left[:count]).status_code)
            left, way = left[count:], (way + 1) % 8
        logging.getLogger("weitiao.service").warning("%s", secrets[0])  # the guard is on
        metrics = client.get("/metrics").text
    assert statuses.count(200) >= 30 and len(statuses) >= 90 and max(statuses) < 500
    log = AuditLog(settings.audit)
    events = list(log.entries())
    assert log.verify() == [] and len(events) > 20
    written = logged.getvalue() + metrics + str(events)
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("audit.db*"))
    leaked = [
        one for one in secrets if one in written or quote(one, safe="") in written or one.encode() in kept
    ]
    assert leaked == []
    assert "weitiao_requests_total" in metrics and "<" in logged.getvalue()
