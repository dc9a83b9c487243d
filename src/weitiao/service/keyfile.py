"""keys.toml: who may call the service. Read strictly; keys are added to it, each stored as an argon2 hash.

A key reads ``wt_<id>_<secret>``: the id finds the entry, so that a check is one argon2 computation.
"""

import base64
import datetime
import json
import secrets
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError, unknown_name
from weitiao.core.messages import say
from weitiao.core.runs import atomic_file
from weitiao.service.limits import Sizes

ROLES = ("predict", "metrics", "admin")
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
PREFIX = "wt_"
EXAMPLE = """\
# the largest request that is read (these are the defaults)
[limits]
body_bytes = 2000000
text_characters = 20000
texts = 512

# a key with a tenant sees these models only; one without a tenant sees all
[tenants.acme]
models = ["reviews", "acme-*"]

# weitiao keys add writes these
[[keys]]
id = "q3hz7wkd"
name = "ops"
hash = "$argon2id$..."
roles = ["predict", "metrics"]
tenant = "acme"
requests_per_minute = 600
requests_per_day = 100000
expires = 2030-01-01

# tokens of an identity provider; jwks: a file, an https address, or absent (found from the issuer)
[jwt]
issuer = "https://login.example.com/"
audience = "weitiao"
jwks = "jwks.json"
algorithms = ["RS256", "ES256"]
roles_claim = "realm_access.roles"
tenant_claim = "tenant"
requests_per_minute = 600
"""


@dataclass(frozen=True)
class Key:
    """One entry of keys.toml. ``hash`` is argon2's; limits of 0 are none."""

    id: str
    hash: str
    roles: tuple[str, ...]
    name: str = ""
    tenant: str = ""
    requests_per_minute: float = 0
    requests_per_day: int = 0
    expires: datetime.date | None = None


@dataclass(frozen=True)
class Issuer:
    """An identity provider whose signed tokens are accepted; every token needs these and an expiry."""

    issuer: str
    audience: str
    jwks: str = ""
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    roles_claim: str = "roles"
    tenant_claim: str = "tenant"
    requests_per_minute: float = 0
    requests_per_day: int = 0


@dataclass(frozen=True)
class KeyFile:
    """What keys.toml says."""

    keys: dict[str, Key] = field(default_factory=dict)
    tenants: dict[str, tuple[str, ...]] = field(default_factory=dict)
    jwt: Issuer | None = None
    sizes: Sizes = Sizes()


def read(path: str | Path) -> KeyFile:
    """Read and check keys.toml.

    Raises:
        WeitiaoError: missing, not TOML, an unknown setting or role, a value of the wrong kind, an id given twice,
            a tenant that no ``[tenants]`` table describes, an algorithm that is not one of public keys.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        way = "weitiao keys add"
        raise WeitiaoError(
            say(f"No such file: {path}. Make it with: {way}", f"找不到文件：{path}。可用 {way} 创建")
        ) from None
    except UnicodeDecodeError as error:
        raise _bad(path, say(f"not UTF-8: {error}", f"不是 UTF-8：{error}")) from None
    return _parsed(path, text)


def _parsed(path: Path, text: str) -> KeyFile:
    try:
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _bad(path, say(f"not TOML: {error}", f"不是合法的 TOML：{error}")) from None
    for name in content:
        if name not in ("keys", "tenants", "jwt", "limits"):
            raise unknown_name(
                say(f"table of {path}", f"{path} 的表"), name, ("keys", "tenants", "jwt", "limits")
            )
    tenants = {
        name: _entry(path, f"tenants.{name}", table, _Tenant).models
        for name, table in _table(path, "tenants", content).items()
    }
    issuer = _entry(path, "jwt", content["jwt"], Issuer) if "jwt" in content else None
    if issuer:
        _check_issuer(path, issuer)
    sizes = _entry(path, "limits", content.get("limits", {}), Sizes)
    return KeyFile(_keys(path, content.get("keys", []), tenants), tenants, issuer, sizes)


def add(
    path: str | Path,
    name: str,
    roles: tuple[str, ...],
    tenant: str = "",
    models: tuple[str, ...] = (),
    per_minute: float = 0,
    per_day: int = 0,
    expires: str = "",
) -> str:
    """Make a key, write its hash into keys.toml (made if absent), and return the key: it is kept nowhere.

    Args:
        models: patterns of the models that a new ``tenant`` may see.

    Raises:
        WeitiaoError: an unknown role, a tenant without models, a bad date, or argon2-cffi is not installed.
    """
    path = Path(path)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    known = read(path) if before else KeyFile()
    for role in roles:
        if role not in ROLES:
            raise unknown_name(say("role", "角色"), role, ROLES)
    if not roles:
        raise WeitiaoError(
            say(f"A key needs --roles: {', '.join(ROLES)}", f"密钥需要 --roles：{', '.join(ROLES)}")
        )
    id = base64.b32encode(secrets.token_bytes(5)).decode().lower()
    key = f"{PREFIX}{id}_{secrets.token_urlsafe(32)}"
    lines = [before.rstrip("\n"), ""] if before else []
    if tenant and tenant not in known.tenants:
        if not models:
            raise WeitiaoError(
                say(
                    f"Tenant '{tenant}' is new: name its models with --models 'reviews,{tenant}-*'",
                    f"租户“{tenant}”是新的：请用 --models 'reviews,{tenant}-*' 指定它的模型",
                )
            )
        lines += [f"[tenants.{json.dumps(tenant, ensure_ascii=False)}]", f"models = {json.dumps(models)}", ""]
    entry: dict[str, Any] = {
        "id": id,
        "name": name,
        "hash": hasher().hash(key),
        "roles": roles,
        "tenant": tenant,
    }
    entry |= {"requests_per_minute": per_minute, "requests_per_day": per_day}
    lines.append("[[keys]]")
    lines += [f"{k} = {json.dumps(v, ensure_ascii=False)}" for k, v in entry.items() if v or k == "name"]
    if expires:
        lines.append(f"expires = {_date(expires)}")
    text = "\n".join(lines) + "\n"
    _parsed(path, text)  # a name that TOML cannot hold must not spoil the file
    with atomic_file(path) as file:
        file.write(text)
    path.chmod(0o600)
    return key


def hasher() -> Any:
    """argon2 as OWASP sets it for servers: 19 MiB, two passes, one lane (about 40 ms).

    Raises:
        WeitiaoError: argon2-cffi is not installed.
    """
    try:
        import argon2
    except ImportError:
        raise missing("argon2-cffi") from None
    return argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


def missing(package: str) -> WeitiaoError:
    """The error for a package of the ``serve`` extra that is not installed."""
    return WeitiaoError(
        say(
            f"Access control needs {package}: pip install 'weitiao[serve]'",
            f"访问控制需要 {package}：pip install 'weitiao[serve]'",
        )
    )


@dataclass(frozen=True)
class _Tenant:
    models: tuple[str, ...]


def _keys(path: Path, entries: Any, tenants: dict[str, Any]) -> dict[str, Key]:
    if not isinstance(entries, list):
        raise _bad(path, say("keys must be [[keys]] tables", "keys 应为 [[keys]] 表"))
    found: dict[str, Key] = {}
    for number, entry in enumerate(entries, 1):
        key = _entry(path, f"keys {number}", entry, Key)
        if key.id in found:
            raise _bad(path, say(f"two keys have the id '{key.id}'", f"有两个密钥的 id 都是“{key.id}”"))
        if not key.hash.startswith("$argon2"):
            raise _bad(path, say(f"key '{key.id}' has no argon2 hash", f"密钥“{key.id}”没有 argon2 哈希"))
        for role in key.roles:
            if role not in ROLES:
                raise unknown_name(say(f"role of key '{key.id}'", f"密钥“{key.id}”的角色"), role, ROLES)
        if key.tenant and key.tenant not in tenants:
            needed = f'[tenants.{key.tenant}] models = ["..."]'
            raise _bad(path, say(f"key '{key.id}' needs {needed}", f"密钥“{key.id}”需要 {needed}"))
        found[key.id] = key
    return found


def _check_issuer(path: Path, issuer: Issuer) -> None:
    """``none`` and the HS family are refused here already: with those, a public key could sign."""
    for name in issuer.algorithms:
        if name not in ALGORITHMS:
            raise unknown_name(say(f"jwt algorithm of {path}", f"{path} 的 jwt 算法"), name, ALGORITHMS)
    if not (issuer.issuer and issuer.audience and issuer.algorithms):
        raise _bad(path, say("[jwt] needs issuer and audience", "[jwt] 需要 issuer 和 audience"))


def _table(path: Path, name: str, content: dict[str, Any]) -> dict[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise _bad(path, say(f"[{name}] must be a table", f"[{name}] 应为表"))
    return table


def _entry(path: Path, where: str, table: Any, kind: Any) -> Any:
    """A table as a dataclass: every field of its type, no other, none of those without default missing."""
    if not isinstance(table, dict):
        raise _bad(path, say(f"[{where}] must be a table", f"[{where}] 应为表"))
    known = {one.name: one for one in fields(kind)}
    values = {}
    for name, value in table.items():
        if name not in known:
            raise unknown_name(
                say(f"setting of [{where}] in {path}", f"{path} [{where}] 的设置"), name, known
            )
        values[name] = _value(path, f"{where}.{name}", value, str(known[name].type))
    try:
        return kind(**values)
    except TypeError:
        lacking = ", ".join(name for name in known if name not in values and not hasattr(kind, name))
        raise _bad(path, say(f"[{where}] lacks {lacking}", f"[{where}] 缺少 {lacking}")) from None


def _value(path: Path, where: str, value: Any, kind: str) -> Any:
    right: bool
    if "tuple" in kind:
        right = isinstance(value, list) and all(isinstance(one, str) for one in value)
        value = tuple(value) if right else value
    elif "date" in kind:
        value = value.date() if isinstance(value, datetime.datetime) else value
        right = isinstance(value, datetime.date)
    elif "str" in kind:
        right = isinstance(value, str)
    else:
        numbers = (int, float) if "float" in kind else (int,)
        right = isinstance(value, numbers) and not isinstance(value, bool) and 0 <= value < 1e12
    if not right:
        raise _bad(path, say(f"{where} cannot be {value!r}", f"{where} 不能是 {value!r}"))
    return value


def _date(text: str) -> str:
    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise WeitiaoError(
            say(
                f"--expires {text} is no date like 2030-01-31", f"--expires {text} 不是形如 2030-01-31 的日期"
            )
        ) from None


def _bad(path: Path, reason: str) -> WeitiaoError:
    return WeitiaoError(f"{path}: {reason}")
