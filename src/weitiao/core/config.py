"""One home per setting: a dataclass field with its help in both languages.

Flags, YAML validation, ``--help`` and the command reference are all derived from these fields. A field may
name a family (``tuning``); the chosen member's own fields then count as settings too, so a member's options
live in its file.
"""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from weitiao.core import catalogue
from weitiao.core.errors import WeitiaoError, nearest
from weitiao.core.messages import say


def option(
    default: Any,
    en: str,
    zh: str,
    *,
    family: str = "",
    choices: tuple[str, ...] = (),
    positional: bool = False,
    least: float | None = None,
    most: float | None = None,
) -> Any:
    """A setting: its default, its help, and what it may be (a family's member, some words, a range)."""
    metadata = {"en": en, "zh": zh, "family": family, "choices": choices, "positional": positional}
    metadata |= {"least": least, "most": most}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def options(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The settings of a config or member class, by name."""
    if not dataclasses.is_dataclass(cls):
        return {}
    return {field.name: field for field in dataclasses.fields(cls) if "en" in field.metadata}


def member_options(config_class: type, values: Mapping[str, Any]) -> dict[str, dataclasses.Field[Any]]:
    """The settings that the chosen family members add to a stage's own."""
    found: dict[str, dataclasses.Field[Any]] = {}
    for name, field in options(config_class).items():
        family = field.metadata["family"]
        chosen = values.get(name, field.default)
        for part in several(chosen) if family and chosen else ():
            found |= options(catalogue.member(family, unweighted(part) if family == "objectives" else part))
    return found


def several(chosen: Any) -> list[str]:
    """The members that a value names: ``"a"``, ``"a+b"``, ``"a,b"`` or ``["a", "b"]``; of objectives, with weights."""
    parts = chosen if isinstance(chosen, list | tuple) else str(chosen).replace(",", "+").split("+")
    found = (str(part).rpartition("*") for part in parts if str(part).strip())
    return [weight.strip() + star + catalogue.canonical(name) for weight, star, name in found]


def unweighted(part: str) -> str:
    """The name in a part with a weight: ``0.5*fgm`` is fgm."""
    return catalogue.canonical(part.rpartition("*")[2])


def imply(config_class: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, and the members they imply: ``class_weights`` alone chooses the objective that has it.

    Only where no member is chosen, by the user or by default.
    """
    own = options(config_class)
    other = {key for key in values if key not in own}
    implied = {
        name: part
        for name, field in own.items()
        if other and field.metadata["family"] and not (values.get(name) or field.default)
        for part in catalogue.members(field.metadata["family"])
        if other & options(catalogue.member(field.metadata["family"], part)).keys()
    }
    return {**values, **implied}


def build(config_class: type, values: Mapping[str, Any]) -> Any:
    """A validated config from plain values (from flags, YAML or keyword arguments).

    Settings of family members are kept in ``config.member_values``.

    Raises:
        WeitiaoError: an unknown key (the nearest one is named), a value of the wrong type or out of range.
    """
    values = imply(config_class, {key.replace("-", "_"): value for key, value in values.items()})
    own = options(config_class)
    for name, field in own.items():
        if field.metadata["family"] and values.get(name):
            values[name] = "+".join(several(values[name]))
    extra = member_options(config_class, values)
    hints = typing.get_type_hints(config_class)
    checked: dict[str, Any] = {}
    members: dict[str, Any] = {}
    for key, value in values.items():
        if key in own:
            checked[key] = _checked(key, value, hints[key], own[key])
        elif key in extra:
            members[key] = _checked(key, value, extra[key].type, extra[key])
        else:
            raise _unknown_key(key, [*own, *extra])
    config = config_class(**checked)
    if "member_values" in {field.name for field in dataclasses.fields(config_class)}:
        config.member_values.update(members)
    return config


def make_member(family: str, name: str, values: Mapping[str, Any]) -> Any:
    """An instance of a family member with those of ``values`` that are its own settings."""
    cls = catalogue.member(family, name)
    return cls(**{key: value for key, value in values.items() if key in options(cls)})


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The settings in a YAML file.

    Raises:
        WeitiaoError: it is missing, or not a YAML mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeitiaoError(say(f"No such recipe: {path}", f"找不到配置文件：{path}")) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first = " ".join(str(error).split())
        raise WeitiaoError(
            say(f"{path} is not valid YAML: {first}", f"{path} 不是合法的 YAML：{first}")
        ) from None
    if not isinstance(values, dict):
        raise WeitiaoError(say(f"{path} must hold 'setting: value' lines.", f"{path} 的内容应是“设置: 值”。"))
    return values


def to_yaml(config: Any) -> str:
    """Every setting of a config, its members' too, as YAML; ``read_yaml`` and ``build`` turn it back."""
    import yaml

    values = {name: getattr(config, name) for name in options(type(config))}
    values |= member_settings(config)

    class Dumper(yaml.SafeDumper):
        """PyYAML writes the line breaks of Unicode raw and reads them as spaces, except in quotes."""

        def represent_str(self, data: str) -> Any:
            style = '"' if any(mark in data for mark in "\x85\u2028\u2029") else None
            return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)

    Dumper.add_representer(str, Dumper.represent_str)
    return yaml.dump(values, Dumper=Dumper, allow_unicode=True, sort_keys=False, width=100)


def member_settings(config: Any) -> dict[str, Any]:
    """The chosen members' settings with their defaults filled in."""
    values = {name: getattr(config, name) for name in options(type(config))}
    given = getattr(config, "member_values", {})
    found = member_options(type(config), values)
    return {name: given.get(name, default(field)) for name, field in found.items()}


def settings_of(config: Any, family: str, name: str) -> dict[str, Any]:
    """The settings of one chosen member, with its defaults filled in."""
    known = options(catalogue.member(family, name))
    return {key: value for key, value in member_settings(config).items() if key in known}


def default(field: "dataclasses.Field[Any]") -> Any:
    """A field's default value."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _unknown_key(key: str, known: list[str]) -> WeitiaoError:
    close = nearest(key, known)
    hint = say(f" Did you mean '{close}'?", f"是不是“{close}”？") if close else ""
    way = say(" See --help for all settings.", "全部设置见 --help。")
    return WeitiaoError(say(f"Unknown setting '{key}'.", f"没有名为“{key}”的设置。") + hint + way)


def _checked(key: str, value: Any, hint: Any, field: "dataclasses.Field[Any]") -> Any:
    """The value in its field's type, or an error that shows the value and what is wanted."""
    wanted = [part for part in _parts(hint) if part is not type(None)]
    if value is None:
        if type(None) in _parts(hint):
            return None
        raise _wrong(key, value, wanted)
    for kind in wanted:
        converted = _convert(value, kind)
        if converted is not None:
            return _in_range(key, converted, field)
    raise _wrong(key, value, wanted)


def _parts(hint: Any) -> tuple[Any, ...]:
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return typing.get_args(hint) if union else (hint,)


def _convert(value: Any, kind: Any) -> Any:
    """``value`` as ``kind``, or None where it is not one. Strings come from the command line."""
    kind = typing.get_origin(kind) or kind
    if kind is Any or kind is object:
        return value
    if kind is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        return value if isinstance(value, bool) else words.get(str(value).lower())
    if kind in (int, float):
        if isinstance(value, bool):
            return None
        return _number(value, kind)
    if kind is list:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return list(value) if isinstance(value, list | tuple) else None
    if kind is dict:
        if isinstance(value, str):
            pairs = [part.partition("=") for part in value.split(",") if part]
            whole = all(sign for _, sign, _ in pairs)
            return {key.strip(): part.strip() for key, _, part in pairs} if whole else None
        return dict(value) if isinstance(value, Mapping) else None
    return str(value) if kind is str and isinstance(value, str | int | float | Path) else None


def _number(value: Any, kind: type) -> Any:
    """``value`` as an int or a float, or None. A whole number never becomes a float, which would round it."""
    if isinstance(value, int):
        return kind(value)
    try:
        if kind is int and isinstance(value, str) and value.strip().lstrip("+-").isdecimal():
            return int(value)
        number = float(value)
    except (TypeError, ValueError):
        return None
    if number != number:
        return None
    return number if kind is float else int(number) if number.is_integer() else None


def _in_range(key: str, value: Any, field: "dataclasses.Field[Any]") -> Any:
    least, most, choices = (field.metadata[name] for name in ("least", "most", "choices"))
    if choices and value not in choices:
        close = nearest(str(value), choices)
        hint = say(f" Did you mean '{close}'?", f"是不是“{close}”？") if close else ""
        raise WeitiaoError(
            say(f"{key} cannot be '{value}'.{hint} Choices: ", f"{key} 不能是“{value}”。{hint}可选：")
            + ", ".join(choices)
        )
    if (least is not None and value < least) or (most is not None and value > most):
        low, high = ("" if bound is None else f"{bound:g}" for bound in (least, most))
        between = f"{low or '-∞'} .. {high or '∞'}"
        raise WeitiaoError(
            say(f"{key} is {value}; it must lie in {between}.", f"{key} 为 {value}，应在 {between} 之内。")
        )
    return value


def _wrong(key: str, value: Any, wanted: list[Any]) -> WeitiaoError:
    names = {str: ("text", "文本"), int: ("a whole number", "整数"), float: ("a number", "数"),
             bool: ("true or false", "true 或 false"), list: ("a list, a,b,c", "列表 a,b,c"),
             dict: ("pairs, a=b,c=d", "键值对 a=b,c=d")}  # fmt: skip
    kinds = [names.get(typing.get_origin(kind) or kind, (str(kind), str(kind))) for kind in wanted]
    en, zh = (" / ".join(kind[side] for kind in kinds) for side in (0, 1))
    return WeitiaoError(say(f"{key} is {value!r}; it must be {en}.", f"{key} 为 {value!r}，应是{zh}。"))
