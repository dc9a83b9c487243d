"""The OpenAPI description, made from the routes. What is said in Chinese stands beside it, as ``x-...-zh``."""

import re
from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import models_json_schema

from weitiao.core.version import __version__
from weitiao.service.calls import Route, Shape
from weitiao.service.openai_shapes import OpenAIError
from weitiao.service.plain import ErrorResponse

SECURITY = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
REFUSALS = {
    "400": ("The body is not what the route reads", "请求体不符合该接口的要求"),
    "401": ("A valid key or token is needed", "需要有效的密钥或令牌"),
    "403": ("The key lacks the role", "密钥没有所需的角色"),
    "404": ("No such model, or not for this key", "没有这个模型，或该密钥无权使用"),
    "408": ("The body came too slowly", "请求体传输过慢"),
    "409": ("No earlier version", "没有更早的版本"),
    "413": ("Too large", "请求过大"),
    "415": ("Not declared as JSON", "未声明为 JSON"),
    "422": ("The model cannot use it", "模型无法处理"),
    "429": ("Too many requests; Retry-After says when", "请求过多，重试时间见 Retry-After"),
    "500": ("The service failed", "服务内部出错"),
    "503": (
        "The queue is full, or not ready; Retry-After says when",
        "队列已满或尚未就绪，重试时间见 Retry-After",
    ),
}
PARAMETER = re.compile(r"{(\w+)}")


def openapi(routes: Iterable[Route]) -> dict[str, Any]:
    """The description of all routes."""
    routes = list(routes)
    shapes = {shape for route in routes for shape in (route.body, route.answer) if shape is not None}
    ordered: list[type[Shape]] = sorted(
        {*shapes, ErrorResponse, OpenAIError}, key=lambda shape: shape.__name__
    )
    bodies = {route.body for route in routes}
    _, schema = models_json_schema(
        [(shape, "validation" if shape in bodies else "serialization") for shape in ordered],
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Weitiao", "version": __version__, "summary": "Fine-tuned models, served"},
        "paths": paths,
        "components": {"schemas": schema.get("$defs", {}), "securitySchemes": SECURITY},
    }


def _operation(route: Route) -> dict[str, Any]:
    names = PARAMETER.findall(route.path)
    found: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method} {route.path}").strip("_").lower(),
        "summary": route.summary[0],
        "x-summary-zh": route.summary[1],
        "tags": [route.role or "health"],
        "responses": {"200": _success(route)} | {code: _refusal(route, code) for code in _codes(route)},
        "security": [{"bearer": []}, {"key": []}] if route.role else [],
        "x-role": route.role,
    }
    if names:
        text = {"type": "string", "minLength": 1}
        found["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": text} for name in names
        ]
    if route.body is not None:
        content = _content(route.body)
        content["application/json"]["example"] = route.example
        found["requestBody"] = {"required": route.body_required, "content": content}
    return found


def _codes(route: Route) -> list[str]:
    """The statuses of refusals that a route can give."""
    if not route.role:
        return ["403", "503"]
    codes = {"401", "403", "429", "500", "503"}
    if "{model}" in route.path or route.style == "openai":
        codes |= {"404"}
    if route.body is not None:
        codes |= {"400", "408", "413", "415", "422"}
    if route.role == "admin":
        codes |= {"409", "422"}
    return sorted(codes)


def _success(route: Route) -> dict[str, Any]:
    said = {"description": route.summary[0], "x-description-zh": route.summary[1]}
    if route.answer is None:
        return said | {"content": {"text/plain": {"schema": {"type": "string"}}}}
    content = _content(route.answer)
    if "completions" in route.path:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return said | {"content": content}


def _refusal(route: Route, code: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "description": REFUSALS[code][0],
        "x-description-zh": REFUSALS[code][1],
        "content": _content(OpenAIError if route.style == "openai" else ErrorResponse),
    }
    if code in ("429", "503"):
        found["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return found


def _content(shape: type[Shape]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{shape.__name__}"}}}
