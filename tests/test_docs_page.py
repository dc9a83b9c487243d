"""``/docs``: complete, in both languages, and without anything from elsewhere."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient
from served import make_bundle

from weitiao.service.app import Settings, make_app
from weitiao.service.routes import ROUTES

ALONE = {"meta", "input", "br", "hr"}  # elements without an end
NAMES = [f"{route.method} {route.path}" for route in ROUTES]


class Page(HTMLParser):
    """The elements of a page, its text in each language, and whether every element is closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements, self.open = [], []
        self.texts = {"en": "", "zh": ""}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ALONE:
            self.open.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if any(tag == "style" for tag, _ in self.open):
            return
        hidden = {attributes.get("class") for tag, attributes in self.open if tag == "span"} & {"en", "zh"}
        for tongue in hidden or self.texts:
            self.texts[tongue] += data

    def values(self, name: str) -> list[str]:
        return [attributes[name] for _, attributes in self.elements if name in attributes]


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deploy")
    make_bundle(folder / "reviews")
    with TestClient(make_app(Settings(folder, threads=1, engine="onnxruntime"))) as made:
        yield made


@pytest.fixture(scope="module")
def answer(client):
    found = client.get("/docs")
    assert found.status_code == 200 and found.headers["content-type"] == "text/html; charset=utf-8"
    return found


@pytest.fixture(scope="module")
def page(answer):
    made = Page(answer.text)
    assert made.open == []
    return made


def test_nothing_comes_from_elsewhere(answer, page):
    assert {tag for tag, _ in page.elements}.isdisjoint(
        {
            "script",
            "link",
            "img",
            "iframe",
            "object",
            "embed",
            "base",
            "form",
            "video",
            "audio",
            "svg",
            "source",
        }
    )
    for _, attributes in page.elements:
        assert not any(
            name.startswith("on") or name in ("src", "srcset", "style", "action") for name in attributes
        )
    assert all(target.startswith("#") or target == "/openapi.json" for target in page.values("href"))
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert "url(" not in style and "@import" not in style
    # The example's own address is text; there is no other.
    assert set(re.findall(r"\w+://[^\s<\"]+", answer.text)) == {"http://127.0.0.1:8000"}


def test_the_policy_lets_nothing_but_the_style_through(answer):
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    (style,) = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.pop("style-src") == f"'sha256-{digest}'"
    assert set(policy) == {"default-src", "base-uri", "form-action", "frame-ancestors"}
    assert set(policy.values()) == {"'none'"}


@pytest.mark.parametrize("route", ROUTES, ids=NAMES)
def test_every_route_is_there_in_both_languages(client, page, route):
    operation = client.get("/openapi.json").json()["paths"][route.path][route.method.lower()]
    ids, links = page.values("id"), page.values("href")
    assert ids.count(operation["operationId"]) == 1 and f"#{operation['operationId']}" in links
    for tongue, summary in zip(("en", "zh"), route.summary, strict=True):
        text = page.texts[tongue]
        assert text.count(f"{route.method}{route.path}{summary}") == 2, "in the overview and on its own"
    call = route.path.replace("{model}", "MODEL").replace("{version}", "VERSION")
    line = rf'curl (?:-X {route.method} )?"\$URL{re.escape(call)}"(?: |A).*'
    (found,) = re.findall(line, page.texts["en"].replace(" \\\n  ", " "))
    assert ('"Authorization: Bearer $KEY"' in found) == bool(route.role)
    assert ("-d '" in found) == (route.body is not None)


def test_every_parameter_field_and_schema_is_there(client, page):
    description = client.get("/openapi.json").json()
    ids = page.values("id")
    assert len(set(ids)) == len(ids) and {link[1:] for link in page.values("href") if link[0] == "#"} <= set(
        ids
    )
    text = page.texts["zh"]
    for name, schema in description["components"]["schemas"].items():
        assert f"schema-{name}" in ids
        part = text[text.rindex("数据结构") :].split(f"\n{name}", 1)[1]
        for field in schema.get("properties", {}):
            assert field in part
    assert text.count("version 必填path") == 3, "the parameter of the routes that name a version"
    assert "temperature number ≥ 0, ≤ 2" in re.sub(r"\s+", " ", text.replace("temperature", "temperature "))


@pytest.mark.parametrize("route", [route for route in ROUTES if route.body], ids=lambda route: route.path)
def test_examples_are_bodies_that_the_routes_read(client, route):
    given = route.body.model_validate(route.example)
    assert set(route.example) <= set(given.model_dump(exclude_unset=True))
    if route.path in ("/predict/{model}", "/v2/models/{model}/infer", "/v1/embeddings"):
        assert client.post(route.path.replace("{model}", "reviews"), json=route.example).status_code == 200


@pytest.mark.parametrize(
    ("wish", "tongue"),
    [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en-GB", "en"), ("fr", "en"), ("", "en")],
)
def test_the_browser_s_language_is_shown_first(client, wish, tongue):
    """Where it is neither, that of the messages; the tests' is English."""
    answer = client.get("/docs", headers={"Accept-Language": wish})
    assert f'<html lang="{tongue}">' in answer.text
    assert f'id="{tongue}" checked' in answer.text and answer.text.count(" checked") == 1
    assert answer.headers["vary"] == "Accept-Language"


def test_the_pages_that_load_scripts_are_gone(client):
    assert client.get("/redoc").status_code == 404
    assert client.get("/docs/oauth2-redirect").status_code == 404
    assert client.post("/docs").status_code == 405
