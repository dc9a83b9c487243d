"""A JSON schema as a regular expression: what an automaton can hold of it.

Properties come in the schema's order; one space may follow a colon or a comma. Nested values without a schema of their
own are followed to a set depth. What cannot be held to is refused, not ignored.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say

CHARACTER = r'(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))'
INTEGER = r"-?(?:0|[1-9][0-9]*)"
NUMBER = INTEGER + r"(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
DEPTH = 2
KNOWN = {
    "": {"title", "description", "default", "examples", "$schema", "$id", "$comment", "$defs", "definitions", "type",
         "enum", "const", "anyOf", "oneOf", "$ref"},
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"minLength", "maxLength", "pattern"},
    "integer": {"minimum", "maximum"},
}  # fmt: skip
MOST_NUMBERS = 1000  # of a bounded range of whole numbers, which are written out


def pattern_of(schema: Any) -> str:
    """The regular expression of the texts that fulfil a schema.

    Args:
        schema: a dict, or its JSON text.

    Raises:
        WeitiaoError: it is no schema, or demands what is not supported; names the keyword.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise WeitiaoError(
                say(f"The schema is not valid JSON: {error}", f"该 schema 不是合法的 JSON：{error}")
            ) from None
    return _Schema(schema).pattern(schema, 0)


class _Schema:
    def __init__(self, root: Any) -> None:
        self.root = root

    def pattern(self, schema: Any, level: int) -> str:
        if level > 32:
            raise _refused("$ref", say("it is recursive", "存在递归引用"))
        if schema is True or schema == {}:
            return _anything(DEPTH)
        if not isinstance(schema, Mapping):
            raise _refused(str(schema)[:40], say("it is no schema", "不是 schema"))
        self._check(schema)
        if "$ref" in schema:
            return self.pattern(self._found(schema["$ref"]), level + 1)
        if "enum" in schema or "const" in schema:
            values = schema["enum"] if "enum" in schema else [schema["const"]]
            return _either(re.escape(json.dumps(value, ensure_ascii=False)) for value in values)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return _either(self.pattern(one, level + 1) for one in schema[key])
        kind = schema.get("type") or ("object" if "properties" in schema else None)
        if isinstance(kind, list):
            return _either(self._typed(one, schema, level) for one in kind)
        return _anything(DEPTH) if kind is None else self._typed(kind, schema, level)

    def _check(self, schema: Mapping[str, Any]) -> None:
        kinds = schema.get("type") or ("object" if "properties" in schema else "")
        known = set(KNOWN[""]).union(
            *(KNOWN.get(kind, ()) for kind in ([kinds] if isinstance(kinds, str) else kinds))
        )
        for key in schema:
            if key not in known:
                raise _refused(key, say("it is not supported here", "此处不支持"))

    def _found(self, reference: Any) -> Any:
        found = self.root
        try:
            for part in str(reference).removeprefix("#/").split("/"):
                found = found[part.replace("~1", "/").replace("~0", "~")]
        except (KeyError, TypeError):
            raise _refused("$ref", say(f"{reference} is not in it", f"找不到 {reference}")) from None
        return found

    def _typed(self, kind: Any, schema: Mapping[str, Any], level: int) -> str:
        if kind == "string":
            return self._string(schema)
        if kind == "integer":
            return _integer(schema)
        if kind == "number":
            return NUMBER
        if kind == "boolean":
            return "(?:true|false)"
        if kind == "null":
            return "null"
        if kind == "array":
            item = self.pattern(schema.get("items", {}), level + 1)
            return _list(item, int(schema.get("minItems", 0)), schema.get("maxItems"))
        if kind == "object":
            return self._object(schema, level)
        raise _refused("type", str(kind)[:40])

    def _string(self, schema: Mapping[str, Any]) -> str:
        if "pattern" in schema:
            return f'"(?:{schema["pattern"].removeprefix("^").removesuffix("$")})"'
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        return f'"{CHARACTER}{{{least},{most}}}"' if least or most != "" else f'"{CHARACTER}*"'

    def _object(self, schema: Mapping[str, Any], level: int) -> str:
        properties = schema.get("properties") or {}
        if not properties:
            return _map(DEPTH)
        needed = set(schema.get("required", ()))
        parts = [
            (
                re.escape(json.dumps(name, ensure_ascii=False)) + ": ?" + self.pattern(one, level + 1),
                name in needed,
            )
            for name, one in properties.items()
        ]
        return r"\{" + _members(parts) + r"\}"


def _members(parts: list[tuple[str, bool]]) -> str:
    """Members in order, those not needed optional: ``first`` may be any up to the first that is needed."""
    choices = []
    for start, (part, needed) in enumerate(parts):
        rest = "".join(f", ?{one}" if must else f"(?:, ?{one})?" for one, must in parts[start + 1 :])
        choices.append(part + rest)
        if needed:
            return _either(choices)
    return _either([*choices, ""])


def _list(item: str, least: int, most: int | None) -> str:
    if most == 0:
        return r"\[\]"
    more = f"(?:, ?{item}){{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
    return rf"\[{item}{more}\]" if least else rf"\[(?:{item}{more})?\]"


def _anything(depth: int) -> str:
    simple = [f'"{CHARACTER}*"', NUMBER, "true", "false", "null"]
    return _either(simple if depth <= 0 else [*simple, _list(_anything(depth - 1), 0, None), _map(depth)])


def _map(depth: int) -> str:
    member = f'"{CHARACTER}*": ?{_anything(depth - 1)}'
    return rf"\{{(?:{member}(?:, ?{member})*)?\}}"


def _integer(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and high is None:
        return INTEGER
    if high is None and low in (0, 1):
        return "(?:0|[1-9][0-9]*)" if low == 0 else "[1-9][0-9]*"
    if low is None or high is None or not 0 <= high - low < MOST_NUMBERS:
        raise _refused(
            "minimum",
            say(
                f"give both bounds, at most {MOST_NUMBERS} apart",
                f"请同时给出上下界，相差不超过 {MOST_NUMBERS}",
            ),
        )
    return _either(str(number) for number in range(int(low), int(high) + 1))


def _either(choices: Any) -> str:
    return "(?:" + "|".join(choices) + ")"


def _refused(key: str, reason: str) -> WeitiaoError:
    return WeitiaoError(
        say(f"The schema's '{key}' cannot be held to: {reason}", f"无法满足 schema 中的“{key}”：{reason}")
    )
