"""``/docs``: the OpenAPI description as one page for people, in both languages. It runs no script and loads nothing."""

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from weitiao.core.messages import language
from weitiao.reporting.style import STYLE
from weitiao.reporting.text import both, escape

ADDRESS = "http://127.0.0.1:8000"
ROLES = {
    "predict": ("Prediction", "预测"),
    "metrics": ("Monitoring", "监控"),
    "admin": ("Administration", "管理"),
    "": ("Health", "健康检查"),
}
# Kept by the JSON schema under a name of its own: how people write the bound.
BOUNDS = {
    "minimum": "≥ {}", "exclusiveMinimum": "&gt; {}", "maximum": "≤ {}", "exclusiveMaximum": "&lt; {}",
    "minItems": "items ≥ {}", "maxItems": "items ≤ {}", "minLength": "length ≥ {}", "maxLength": "length ≤ {}",
    "pattern": "{}",
}  # fmt: skip
LOOK = (
    STYLE
    + """
code, pre { font-family: ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, monospace; font-size: 13px; }
pre { background: var(--paper); border: 1px solid var(--hair); border-radius: 10px; padding: 12px 16px;
  overflow-x: auto; margin: 14px 0 4px; line-height: 1.55; }
a { color: var(--accent); text-decoration: none; }
a:hover, a:focus-visible { text-decoration: underline; }
:target { border-color: var(--accent); }
section h2 { overflow-wrap: anywhere; margin-bottom: 6px; }
h2 code { font-size: 15.5px; }
h2.group { margin: 44px 0 0; font-size: 20px; }
h3 { margin: 18px 0 6px; }
h3 code { color: var(--ink); }
h3 a code { color: inherit; }
.verb { display: inline-block; width: 54px; text-align: center; font-size: 11.5px; font-weight: 650; padding: 1px 0;
  margin-right: 8px; border-radius: 6px; border: 1px solid transparent; background: var(--wash); color: var(--accent);
  letter-spacing: .03em; }
.verb.get { background: none; border-color: var(--hair); color: var(--soft); }
.tag { color: var(--soft); font-size: 13px; }
table.left th, table.left td { text-align: left; white-space: normal; vertical-align: top; }
table.left td:first-child { width: 44%; overflow-wrap: anywhere; }
table.left th:not(:last-child), table.left td:not(:last-child) { padding-right: 14px; padding-left: 0; }
table.left th:last-child, table.left td:last-child { padding-left: 0; }
.must { color: var(--accent); }
.schema { border-top: 1px solid var(--hair); padding-top: 4px; margin-top: 18px; }
"""
)
POLICY = "; ".join([
    "default-src 'none'",
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(LOOK.encode()).digest()).decode()}'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
])  # fmt: skip
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept-Language",
}


class Docs:
    """The page as an ASGI application. The reader's browser says which language is shown first."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.pages = {tongue: page(description, tongue) for tongue in ("en", "zh")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        wish = Request(scope).headers.get("accept-language", "").strip()[:2].lower()
        text = self.pages.get(wish) or self.pages[language()]
        await Response(text, headers=HEADERS, media_type="text/html")(scope, receive, send)


def page(description: Mapping[str, Any], tongue: str) -> str:
    """An OpenAPI description as HTML, ``tongue`` (``en`` or ``zh``) shown first."""
    radios = "".join(
        f'<input type="radio" name="tongue" class="tongue" id="{each}"{" checked" if each == tongue else ""}>'
        for each in ("zh", "en")
    )
    operations = [
        (method.upper(), path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    groups = {role: [one for one in operations if one[2]["x-role"] == role] for role in ROLES}
    schemas = description["components"]["schemas"]
    info = description["info"]
    parts = [
        f'<!doctype html>\n<html lang="{tongue}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])} · API</title><style>{LOOK}</style></head>\n<body>{radios}<main>"
        f'<header><div><div class="brand">微调 Weitiao {escape(info["version"])}</div>'
        f"<h1>{both('Routes of this service', '服务接口')}</h1></div>"
        '<div class="toggle"><label for="zh">中文</label><label for="en">English</label></div></header>',
        _start(),
        f"<section><h2>{both('All routes', '全部接口')}</h2>{_overview(groups)}</section>",
    ]
    for role, members in groups.items():
        parts.append(f'<h2 class="group">{both(*ROLES[role])}</h2>')
        parts += [_operation(*one, schemas) for one in members]
    parts.append(f'<h2 class="group">{both("Schemas", "数据结构")}</h2><section>')
    parts += [_schema(name, schema) for name, schema in schemas.items()]
    return "\n".join([*parts, "</section></main></body></html>\n"])


def _start() -> str:
    """How to call, whatever the route."""
    said = both(
        "Where the service has keys, each request carries one, as <code>Authorization: Bearer KEY</code> or "
        "<code>X-API-Key: KEY</code>; without, it answers this machine only. Bodies are JSON, with "
        "<code>Content-Type: application/json</code>. The examples below are for a shell that knows:",
        "服务设有密钥时，每个请求都要带上密钥：<code>Authorization: Bearer KEY</code> 或 <code>X-API-Key: KEY</code>；"
        "未设密钥时只响应本机请求。请求体为 JSON，须带 <code>Content-Type: application/json</code>。下面的示例使用这两个变量：",
    )
    machine = both("The same for programs:", "供程序使用的描述：")
    return (
        f"<section><h2>{both('To begin', '开始')}</h2><p>{said}</p>"
        f"<pre><code>export URL={ADDRESS} KEY=...</code></pre>"
        f'<p class="tag">{machine} <a href="/openapi.json"><code>/openapi.json</code></a> (OpenAPI 3.1)</p></section>'
    )


def _overview(groups: Mapping[str, list[tuple[str, str, Any]]]) -> str:
    rows = [
        f'<tr><td>{_verb(method)}<a href="#{operation["operationId"]}"><code>{escape(path)}</code></a></td>'
        f"<td>{_summary(operation)}</td><td><code>{role}</code></td></tr>"
        for role, members in groups.items()
        for method, path, operation in members
    ]
    head = [both("route", "接口"), both("what it does", "作用"), both("role", "角色")]
    return _table(head, rows)


def _operation(method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """One route: parameters, body, example, answer, refusals."""
    role = operation["x-role"]
    key = (
        both(f"needs the role <code>{role}</code>", f"需要 <code>{role}</code> 角色")
        if role
        else both("open to all", "无需密钥")
    )
    parts = [
        f'<section id="{operation["operationId"]}"><h2>{_verb(method)}<code>{escape(path)}</code></h2>'
        f'<p>{_summary(operation)} <span class="tag">· {key}</span></p>'
    ]
    if parameters := operation.get("parameters"):
        head = [both("parameter", "参数"), both("in", "位置"), both("type", "类型")]
        rows = [
            f"<tr><td><code>{escape(one['name'])}</code> {_must(one['required'])}</td><td>{escape(one['in'])}</td>"
            f"<td>{_kind(one['schema'])}</td></tr>"
            for one in parameters
        ]
        parts.append(_table(head, rows))
    body = operation.get("requestBody")
    if body:
        schema = body["content"]["application/json"]["schema"]
        optional = (
            "" if body["required"] else f' <span class="tag">{both("may be left out", "可省略")}</span>'
        )
        parts.append(f"<h3>{both('Body:', '请求体：')} {_kind(schema)}{optional}</h3>")
        parts.append(_fields(schemas[schema["$ref"].rpartition("/")[2]]))
    parts.append(f"<pre><code>{escape(_curl(method, path, operation))}</code></pre>")
    answers = operation["responses"]
    good = ", ".join(
        f"{_kind(one['schema'])} ({escape(kind)})" for kind, one in answers["200"]["content"].items()
    )
    parts.append(f"<h3>{both('Answer 200:', '响应 200：')} {good}</h3>")
    refused = [
        f"<tr><td>{code}</td><td>{both(escape(one['description']), escape(one['x-description-zh']))}</td>"
        f"<td>{_kind(one['content']['application/json']['schema'])}</td></tr>"
        for code, one in answers.items()
        if code != "200"
    ]
    head = [both("status", "状态码"), both("why", "原因"), both("body", "响应体")]
    parts.append(
        f"<details><summary>{both('Refusals', '拒绝与错误')}</summary>{_table(head, refused)}</details></section>"
    )
    return "".join(parts)


def _curl(method: str, path: str, operation: Mapping[str, Any]) -> str:
    """A call for a shell; what has to be filled in stands in capitals."""
    address = re.sub(r"{(\w+)}", lambda found: found[1].upper(), path)
    lines = [f'curl "$URL{address}"']
    body = operation.get("requestBody")
    if method != "GET" and not body:
        lines[0] = f'curl -X {method} "$URL{address}"'
    if operation["x-role"]:
        lines.append('-H "Authorization: Bearer $KEY"')
    if body:
        example = json.dumps(body["content"]["application/json"]["example"], ensure_ascii=False)
        lines += ['-H "Content-Type: application/json"', f"-d {shlex.quote(example)}"]
    return " \\\n  ".join(lines)


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    said = _text(schema.get("description", ""))
    head = f'<h3><code>{name}</code></h3><p lang="en">{said}</p>'
    return f'<div class="schema" id="schema-{name}">{head}{_fields(schema)}</div>'


def _fields(schema: Mapping[str, Any]) -> str:
    """The fields of an object, as a table."""
    must = schema.get("required", ())
    rows = [
        f"<tr><td><code>{escape(name)}</code> {_must(name in must)}</td><td>{_kind(one)}</td>"
        f'<td lang="en">{_text(one.get("description", ""))}</td></tr>'
        for name, one in schema.get("properties", {}).items()
    ]
    return _table([both("field", "字段"), both("type", "类型"), ""], rows) if rows else ""


def _kind(schema: Mapping[str, Any]) -> str:
    """The type of a value as HTML: ``string | Label[]``, with its bounds; null is left out, it means absent."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{name}"><code>{name}</code></a>'
    if "anyOf" in schema:
        return " | ".join(_kind(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "const" in schema or "enum" in schema:
        values = schema.get("enum") or [schema["const"]]
        return " | ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    bounds = ", ".join(_bounds(schema))
    return _bare(schema) + (f' <span class="tag">{bounds}</span>' if bounds else "")


def _bare(schema: Mapping[str, Any]) -> str:
    if schema.get("type") == "array":
        inner = _kind(schema.get("items", {}))
        return f"({inner})[]" if " | " in inner or "<span" in inner else f"{inner}[]"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"{{string: {_kind(schema['additionalProperties'])}}}"
    return escape(schema.get("type", "any"))


def _bounds(schema: Mapping[str, Any]) -> Iterator[str]:
    for key, shown in BOUNDS.items():
        if key in schema:
            yield shown.format(
                f"<code>{escape(schema[key])}</code>" if key == "pattern" else escape(schema[key])
            )


def _text(words: str) -> str:
    """A docstring's text: its literals as code."""
    return re.sub(r"``(.+?)``", r"<code>\1</code>", escape(words))


def _summary(operation: Mapping[str, Any]) -> str:
    return both(escape(operation["summary"]), escape(operation["x-summary-zh"]))


def _verb(method: str) -> str:
    return f'<span class="verb {method.lower()}">{method}</span>'


def _must(required: bool) -> str:
    return f'<span class="tag must">{both("required", "必填")}</span>' if required else ""


def _table(head: list[str], rows: list[str]) -> str:
    heads = "".join(f"<th>{name}</th>" for name in head)
    return f'<div class="scroll"><table class="left"><tr>{heads}</tr>{"".join(rows)}</table></div>'
