"""From a bundle with its reference, over requests to the service, to drift on the metrics page and an alert."""

import json
import re
import sys

import numpy as np
import pytest
from fastapi.testclient import TestClient
from served import make_bundle

from weitiao.core.runs import read_json, write_json
from weitiao.runtime import load, reference
from weitiao.runtime.bundle import MANIFEST, seal
from weitiao.service.app import Settings, make_app

RULES = """
alerts:
  - name: other lengths
    when: drift.length > 0.2
    model: reviews
    action: command
    command: [{python}, -c, "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())", {output}]
"""


def texts(count, longest, seed):
    random = np.random.default_rng(seed)
    words = ["the", "card", "bank", "money", "good", "bad"]
    return [" ".join(random.choice(words, random.integers(1, longest))) for _ in range(count)]


@pytest.fixture
def folder(tmp_path):
    """A bundle that knows its training texts: 1 to 10 words."""
    made = make_bundle(tmp_path / "models" / "reviews")
    predictor = load(made)
    described = reference.describe_table(
        predictor, [{"text": text, "row_number": 0} for text in texts(1000, 11, 0)]
    )
    predictor.close()
    manifest = read_json(made / MANIFEST)
    write_json(made / "reference.json", described)
    kept = {
        name: manifest[name]
        for name in manifest.keys() - {"format", "version", "files", "created", "code_version"}
    }
    seal(made, {**kept, "reference": "reference.json"})
    return tmp_path / "models"


@pytest.fixture
def client(folder, tmp_path):
    rules = tmp_path / "alerts.yaml"
    rules.write_text(RULES.format(python=sys.executable, output=tmp_path / "told"), encoding="utf-8")
    with TestClient(make_app(Settings(folder, threads=1, alerts=rules)), base_url="http://127.0.0.1") as made:
        yield made


def ask(client, batch):
    for start in range(0, len(batch), 50):
        answer = client.post("/predict/reviews", json={"texts": batch[start : start + 50]})
        assert answer.status_code == 200, answer.text


def drift(client, signal):
    found = re.search(
        rf'weitiao_drift{{model="reviews",signal="{signal}"}} (\S+)', client.get("/metrics").text
    )
    return float(found[1]) if found else None


def test_texts_as_in_training_are_no_drift_and_longer_ones_ring(client, tmp_path):
    watch = client.app.state.service.alerts
    ask(client, texts(100, 11, 1))
    assert drift(client, "length") is None  # too few to say
    ask(client, texts(900, 11, 2))
    for signal in ("length", "length_ks", "characters", "unknown", "decisions", "confidence", "embedding"):
        assert drift(client, signal) < 0.1, signal
    assert watch.look() == []
    ask(client, texts(1000, 40, 3))
    assert drift(client, "length") > 0.2
    (notice,) = watch.look()
    assert notice.state == "firing" and watch.tell(notice)
    told = json.loads((tmp_path / "told").read_text("utf-8"))
    assert told["alert"] == "other lengths" and told["value"] > 0.2
    assert 'weitiao_alert_firing{alert="other lengths",severity="warning"} 1.0' in client.get("/metrics").text


def test_a_client_leaves_no_word_on_the_metrics_page(client):
    canary = "canary13800138000"
    client.post(f"/predict/{canary}", json={"text": canary})
    client.get(f"/{canary}", headers={"Authorization": f"Bearer {canary}", "User-Agent": canary})
    client.post("/predict/reviews", json={"text": canary, canary: canary})
    client.post("/v1/embeddings", json={"model": canary, "input": canary})
    ask(client, [canary] * 3)
    page = client.get("/metrics").text
    assert canary not in page and "13800138000" not in page
    assert 'weitiao_requests_total{model="reviews",route="/predict/{model}",status="200"}' in page
