"""What lies in deploy/ is valid and fits the code: manifests, image, dashboard, Prometheus rules."""

import json
import re
import subprocess
import sys
from itertools import combinations
from typing import Any

import pytest
import yaml

from weitiao.service.metrics import Metrics

KINDS = {
    ("apps/v1", "Deployment"): "V1Deployment",
    ("v1", "Service"): "V1Service",
    ("v1", "ServiceAccount"): "V1ServiceAccount",
    ("v1", "PersistentVolumeClaim"): "V1PersistentVolumeClaim",
    ("autoscaling/v2", "HorizontalPodAutoscaler"): "V2HorizontalPodAutoscaler",
    ("policy/v1", "PodDisruptionBudget"): "V1PodDisruptionBudget",
    ("networking.k8s.io/v1", "NetworkPolicy"): "V1NetworkPolicy",
}
PLAIN = {"string": str, "integer": int, "boolean": bool, "number": (int, float), "datetime": str}
ROUTE = "/predict/{model}"


@pytest.fixture(scope="module")
def folder(root):
    return root / "deploy"


@pytest.fixture(scope="module")
def types(root):
    """Fields of the Kubernetes types in use, taken from its OpenAPI description."""
    return json.loads((root / "tests" / "kubernetes_fields.json").read_text("utf-8"))["types"]


@pytest.fixture(scope="module")
def manifests(folder):
    """``{kind: object}``; every kind occurs once."""
    found = {}
    kustomization = yaml.safe_load((folder / "kubernetes" / "kustomization.yaml").read_text("utf-8"))
    for name in kustomization["resources"]:
        for document in yaml.safe_load_all((folder / "kubernetes" / name).read_text("utf-8")):
            assert document["kind"] not in found
            found[document["kind"]] = document
    listed = {
        *kustomization["resources"],
        *kustomization["configMapGenerator"][0]["files"],
        "kustomization.yaml",
    }
    assert {path.name for path in (folder / "kubernetes").iterdir()} == listed
    return found


def problems(kind: Any, value: Any, types: dict[str, Any], place: str) -> list[str]:
    """Where a value differs from what the API takes: unknown and missing fields, wrong types."""
    if isinstance(kind, list):
        if not isinstance(value, list):
            return [f"{place}: not a list"]
        return [
            found for i, part in enumerate(value) for found in problems(kind[0], part, types, f"{place}[{i}]")
        ]
    if isinstance(kind, dict):
        if not isinstance(value, dict):
            return [f"{place}: not a mapping"]
        return [
            found
            for key, part in value.items()
            for found in problems(kind["*"], part, types, f"{place}.{key}")
        ]
    if kind in PLAIN:
        right = isinstance(value, PLAIN[kind]) and (kind == "boolean" or not isinstance(value, bool))
        return [] if right else [f"{place}: {value!r} is no {kind}"]
    if kind == "any":
        return []  # a number or a text, such as a port's name
    if kind not in types:
        return [f"{place}: tests/kubernetes_fields.json has no {kind}"]
    if not isinstance(value, dict):
        return [f"{place}: not a mapping"]
    known = types[kind]
    found = [f"{place}: no '{name}'" for name in known["required"] if name not in value]
    found += [f"{place}: unknown '{name}'" for name in value if name not in known["fields"]]
    for name in value.keys() & known["fields"].keys():
        found += problems(known["fields"][name], value[name], types, f"{place}.{name}")
    return found


def test_manifests_fit_the_api(manifests, types):
    assert len(manifests) == len(KINDS)
    for kind, document in manifests.items():
        name = KINDS[document["apiVersion"], kind]
        assert problems(name, document, types, kind) == []
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", document["metadata"]["name"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda pod: pod["containers"][0].update(readynessProbe={}), "unknown 'readynessProbe'"),
        (lambda pod: pod["containers"][0].pop("name"), "no 'name'"),
        (lambda pod: pod.update(terminationGracePeriodSeconds="60"), "is no integer"),
        (lambda pod: pod.update(containers={}), "not a list"),
        (lambda pod: pod["containers"][0]["args"].append(8000), "is no string"),
        (lambda pod: pod["securityContext"].update(runAsNonRoot="yes"), "is no boolean"),
    ],
)
def test_the_check_sees_mistakes(manifests, types, change, expected):
    broken = json.loads(json.dumps(manifests["Deployment"]))
    change(broken["spec"]["template"]["spec"])
    found = problems("V1Deployment", broken, types, "Deployment")
    assert len(found) == 1 and expected in found[0]


def test_manifests_fit_each_other(manifests):
    template = manifests["Deployment"]["spec"]["template"]
    pod, labels = template["spec"], template["metadata"]["labels"].items()
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    selectors = [
        manifests["Deployment"]["spec"]["selector"]["matchLabels"],
        manifests["Service"]["spec"]["selector"],
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)
    assert all(port["targetPort"] in ports for port in manifests["Service"]["spec"]["ports"])
    assert manifests["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"] in ports
    target = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    deployment = manifests["Deployment"]
    assert (target["apiVersion"], target["kind"]) == (deployment["apiVersion"], deployment["kind"])
    assert target["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]
    assert pod["serviceAccountName"] == manifests["ServiceAccount"]["metadata"]["name"]
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    assert claims == [manifests["PersistentVolumeClaim"]["metadata"]["name"]]
    probes = [container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")]
    assert {probe["port"] for probe in probes} <= ports.keys()
    assert container["args"][container["args"].index("--port") + 1] == str(ports["http"])


def test_the_pod_runs_without_rights(manifests):
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    context = pod["containers"][0]["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert not pod["automountServiceAccountToken"]
    writable = [m["name"] for m in pod["containers"][0]["volumeMounts"] if not m.get("readOnly")]
    assert writable == ["scratch"]
    assert {volume["name"] for volume in pod["volumes"] if "emptyDir" in volume} == {"scratch"}


def test_scaling_is_on_a_metric_that_exists(manifests, folder):
    (metric,) = manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name in series()
    (rule,) = yaml.safe_load((folder / "prometheus" / "adapter.yaml").read_text("utf-8"))["rules"]["custom"]
    assert rule["name"]["as"] == name and rule["seriesQuery"].startswith(name)


def series() -> dict[str, set[str]]:
    """Every metric's name and its labels, from a process in which everything has happened once."""
    from prometheus_client.parser import text_string_to_metric_families

    metrics = Metrics([ROUTE])
    reference = {
        "version": 1,
        "tokens": {"edges": [5], "counts": [200, 200]},
        "unknown": {"edges": [0], "counts": [400, 0]},
        "decisions": {"good": 200, "bad": 200},
    }
    metrics.declare("reviews", "1", ["good", "bad"], reference)
    metrics.observe_request(ROUTE, "reviews", 200, 0.1, 7)
    for i in range(300):
        metrics.observe_prediction("reviews", i % 10, 0.0, ["good", "bad"][i % 2], 0.9)
    metrics.firing.labels("a", "info").set(1)
    metrics.failures.labels("a").inc()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.render()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def check_query(query: str) -> None:
    """A query names only metrics and labels that exist, and reads as PromQL where a parser is installed."""
    known = series()
    names = re.findall(r"\b(weitiao_\w+)(?:\{([^}]*)\})?", query)
    assert names, query
    for name, matchers in names:
        assert name in known, f"{name} in {query}"
        for label in re.findall(r"(\w+)\s*[=!]~?", matchers):
            assert label in known[name], f"{label} of {name} in {query}"
    # Prometheus itself adds one label, several replicas behind one address (Metrics.share) the other.
    for grouping in re.findall(r"\bby \(([^)]*)\)", query):
        labels = {label.strip() for label in grouping.split(",")}
        assert labels <= set.union(*(known[name] for name, _ in names)) | {"instance", "replica"}, query


@pytest.fixture(scope="module")
def dashboard(folder):
    return json.loads((folder / "grafana" / "weitiao.json").read_text("utf-8"))


def targets(dashboard):
    return [(panel, target) for panel in dashboard["panels"] for target in panel.get("targets", ())]


def test_generated_files_are_up_to_date(folder):
    done = subprocess.run([sys.executable, folder / "make.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_query_of_the_dashboard_uses_metrics_that_exist(dashboard):
    queries = [target["expr"] for _, target in targets(dashboard)]
    assert len(queries) >= 15
    for query in queries:
        check_query(query)
    shown = set(re.findall(r"weitiao_\w+", " ".join(queries)))
    family = {name: re.sub(r"_(bucket|sum|count|created|total)$", "", name) for name in {*shown, *series()}}
    assert {family[name] for name in series()} == {family[name] for name in shown}


def test_every_query_reads_as_promql(dashboard, folder):
    promql = pytest.importorskip("promql_parser")
    rules = yaml.safe_load((folder / "prometheus" / "rules.yaml").read_text("utf-8"))
    queries = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    queries += [target["expr"] for _, target in targets(dashboard)]
    for query in queries:
        assert promql.parse(query.replace("$__rate_interval", "1m").replace("$model", ".*"))


def test_the_dashboard_is_one_that_grafana_reads(dashboard):
    assert dashboard["title"] and dashboard["uid"] and dashboard["schemaVersion"] >= 36
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    boxes = []
    for panel in panels:
        assert panel["title"] and panel["type"] in ("row", "timeseries", "table")
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= 24 and place["h"] > 0
        boxes.append((place["x"], place["y"], place["x"] + place["w"], place["y"] + place["h"]))
    for one, two in combinations(boxes, 2):
        assert one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1], (one, two)
    for panel, target in targets(dashboard):
        assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for name in re.findall(r"\$(\w+)", target["expr"]):
            assert name in variables or name == "__rate_interval"
        legend = set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
        assert all(re.search(rf"by \([^)]*\b{label}\b", target["expr"]) for label in legend)
    for panel in panels:
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(letters)) == len(letters)


def test_rules_for_prometheus_use_metrics_that_exist(folder):
    content = yaml.safe_load((folder / "prometheus" / "rules.yaml").read_text("utf-8"))
    names = []
    for group in content["groups"]:
        for rule in group["rules"]:
            assert rule.keys() <= {"alert", "expr", "for", "keep_firing_for", "labels", "annotations"}
            assert re.fullmatch(r"\d+s", rule.get("for", "0s"))
            check_query(rule["expr"])
            names.append(rule["alert"])
    assert len(set(names)) == len(names) >= 8


def instructions(text):
    """``[(instruction, arguments)]`` of a container file, with continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(None, 1)) for line in joined.splitlines()]


def test_the_image_holds_the_service_alone(root, folder):
    steps = instructions((folder / "Containerfile").read_text("utf-8"))
    known = {
        "ARG",
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "ENV",
        "USER",
        "EXPOSE",
        "VOLUME",
        "STOPSIGNAL",
        "HEALTHCHECK",
    }
    assert {name for name, _ in steps} == known | {"ENTRYPOINT", "CMD"}
    starts = [place for place, (name, _) in enumerate(steps) if name == "FROM"]
    build, last = steps[: starts[-1]], steps[starts[-1] :]
    (install,) = [rest for name, rest in build if name == "RUN"]
    assert "-c constraints.txt" in install and "'.[serve]'" in install
    extra = yaml.safe_load("[" + re.search(r"'\.\[(.*)\]'", install)[1] + "]")
    assert extra == ["serve"]
    for name, rest in build:
        if name == "COPY":
            assert all((root / source).exists() for source in rest.split()[:-1])
    assert not any("pip install" in rest for name, rest in last if name == "RUN")
    (user,) = [rest for name, rest in last if name == "USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    words = dict(last)
    assert json.loads(words["ENTRYPOINT"]) == ["weitiao"] and words["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(words["CMD"])[0] == "serve" and words["EXPOSE"] in json.loads(words["CMD"])
    variables = dict(part.split("=", 1) for part in words["ENV"].split())
    assert variables["WEITIAO_HOME"].startswith("/tmp/") and variables["PYTHONDONTWRITEBYTECODE"] == "1"


def test_image_and_manifest_agree(folder, manifests):
    words = dict(instructions((folder / "Containerfile").read_text("utf-8")))
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    assert words["USER"] == f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    command = json.loads(words["CMD"])
    assert pod["containers"][0]["args"][: len(command)] == command
    probe = pod["containers"][0]["livenessProbe"]["httpGet"]["path"]
    assert probe in words["HEALTHCHECK"]
