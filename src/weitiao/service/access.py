"""Who is calling, and may they: API keys and signed tokens, roles, tenants, rates.

``Access.check(request, role)`` is the one dependency of every route. It needs no web framework: a request has
``headers.get(name)`` and ``client.host``.
"""

import asyncio
import datetime
import hashlib
import hmac
import logging
import re
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.service import keyfile
from weitiao.service.keyfile import PREFIX, ROLES, Key, KeyFile
from weitiao.service.limits import Clock, Limits, Refused, Sizes
from weitiao.service.tokens import BadToken, Tokens

__all__ = ["Access", "Caller", "Refused"]

LOG = logging.getLogger("weitiao.service.access")
RELOAD_SECONDS = 1.0
MOST_CACHED = 4096
MODEL_LABEL = re.compile(r'[{,]model="((?:[^"\\]|\\.)+)"')
WRONG_PER_MINUTE, WRONG_BURST = 10, 10  # argon2 checks that a client may cost by keys that are not known yet


@dataclass(frozen=True)
class Caller:
    """Who calls. ``models`` are patterns of the models that the caller's tenant may see."""

    key_id: str
    tenant: str
    roles: frozenset[str]
    models: tuple[str, ...] = ("*",)
    per_minute: float = 0
    per_day: int = 0

    def sees(self, model: str) -> bool:
        """Whether a model exists, as far as this caller may know."""
        return any(fnmatchcase(model, pattern) for pattern in self.models)

    def visible(self, metrics: str) -> str:
        """Metrics without the lines that speak of models which do not exist for this caller."""
        if "*" in self.models:
            return metrics
        lines = metrics.splitlines(keepends=True)
        return "".join(
            line for line in lines if not (label := MODEL_LABEL.search(line)) or self.sees(label[1])
        )


class Access:
    """Checks requests against keys.toml, which is read again when it changes.

    Args:
        path: keys.toml; an empty one lets everybody in with every role.
        clock: seconds that never jump back.
        today: seconds since 1970.
    """

    def __init__(
        self, path: str | Path = "", clock: Clock = time.monotonic, today: Clock = time.time
    ) -> None:
        self.path = Path(path) if path else None
        self._clock, self._today = clock, today
        self.limits = Limits(clock, today)
        self._attempts = Limits(clock, today)
        self._secret = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, bool] = OrderedDict()  # digest of a key: whether it is right
        self._lock, self._slow = threading.Lock(), threading.Lock()
        self._looked = clock()
        self._stamp = _stamp(self.path)
        self._file, self._tokens = self._read()
        self._hasher = keyfile.hasher() if self._file.keys else None

    @property
    def sizes(self) -> Sizes:
        """The largest request that is read."""
        return self._file.sizes

    def check(self, request: Any, role: str) -> Caller:
        """The caller of a request to a route that needs ``role``. Takes about 40 ms for a key not seen before.

        Raises:
            Refused: 401 who calls is not known, 403 the role is not theirs, 429 too often.
        """
        if self.path is None:
            return Caller("open", "", frozenset(ROLES))
        self._reload()
        token = _token(request)
        caller = self._by_key(token, request) if token.startswith(PREFIX) else self._by_token(token)
        return self._admit(caller, role)

    async def check_async(self, request: Any, role: str) -> Caller:
        """The same without holding up the event loop: what is slow runs on another thread."""
        if self.path is not None and self._is_slow(_token(request)):
            return await asyncio.to_thread(self.check, request, role)
        return self.check(request, role)

    def _admit(self, caller: Caller, role: str) -> Caller:
        if role and role not in caller.roles:
            message = say(f"this key lacks the role '{role}'", f"该密钥没有“{role}”角色")
            raise Refused(403, "forbidden", message)
        self.limits.take(caller.key_id, caller.per_minute, caller.per_day)
        return caller

    def _is_slow(self, token: str) -> bool:
        key = _named(token, self._file)
        if key is None:
            return not token.startswith(PREFIX)  # a signed token; an id that is not known is refused at once
        return self._remembered(self._digest(token, key)) is None

    def _by_key(self, token: str, request: Any) -> Caller:
        file = self._file
        key = _named(token, file)
        if key is None or not self._right(token, key, request):
            raise unauthorized()
        if key.expires and self._date() >= key.expires:
            raise unauthorized()
        models = file.tenants[key.tenant] if key.tenant else ("*",)
        limits = key.requests_per_minute, key.requests_per_day
        return Caller(key.id, key.tenant, frozenset(key.roles), models, *limits)

    def _right(self, token: str, key: Key, request: Any) -> bool:
        """One argon2 check for a key not seen before; the answer is remembered under a keyed digest."""
        digest = self._digest(token, key)
        remembered = self._remembered(digest)
        if remembered is None:
            host = getattr(request.client, "host", "") or "unknown"
            with self._slow:  # one at a time: a flood of wrong keys costs one core and 19 MiB, no more
                remembered = self._remembered(digest)
                if remembered is None:
                    self._attempts.take(host, WRONG_PER_MINUTE, burst=WRONG_BURST)
                    remembered = self._verify(key.hash, token)
                    if remembered:
                        self._attempts.give_back(host)
                    with self._lock:
                        self._known[digest] = remembered
                        if len(self._known) > MOST_CACHED:
                            self._known.popitem(last=False)
        return remembered

    def _verify(self, hash: str, token: str) -> bool:
        from argon2.exceptions import Argon2Error, InvalidHash

        assert self._hasher is not None
        try:
            return bool(self._hasher.verify(hash, token))
        except (Argon2Error, InvalidHash):
            return False

    def _remembered(self, digest: bytes) -> bool | None:
        with self._lock:
            if digest in self._known:
                self._known.move_to_end(digest)
            return self._known.get(digest)

    def _digest(self, token: str, key: Key) -> bytes:
        """The hash is part of it, so that what was right for an earlier entry is forgotten with that entry."""
        return hmac.digest(self._secret, f"{key.hash} {token}".encode("utf-8", "surrogatepass"), "sha256")

    def _by_token(self, token: str) -> Caller:
        tokens, file = self._tokens, self._file
        if not token or tokens is None or file.jwt is None:
            raise unauthorized()
        try:
            claims = tokens.claims(token)
        except BadToken as error:
            LOG.info("token refused: %s", error)
            raise unauthorized() from None
        except WeitiaoError as error:
            LOG.warning("%s", error)
            message = say("tokens cannot be checked at present", "目前无法校验令牌")
            raise Refused(503, "unavailable", message, {"Retry-After": "30"}) from None
        tenant = str(_claim(claims, file.jwt.tenant_claim) or "")
        if file.tenants and not tenant:
            raise Refused(403, "forbidden", say("the token names no tenant", "令牌没有指明租户"))
        models = file.tenants.get(tenant, ()) if file.tenants else ("*",)
        roles = frozenset(_words(_claim(claims, file.jwt.roles_claim))) & frozenset(ROLES)
        # The subject may be a person's address: a digest stands for it in logs.
        subject = hashlib.sha256(f"{claims['iss']} {claims['sub']}".encode()).hexdigest()[:12]
        return Caller(
            f"jwt-{subject}", tenant, roles, models, file.jwt.requests_per_minute, file.jwt.requests_per_day
        )

    def _date(self) -> datetime.date:
        return datetime.datetime.fromtimestamp(self._today(), datetime.UTC).date()

    def _read(self) -> tuple[KeyFile, Tokens | None]:
        if self.path is None:
            return KeyFile(), None
        file = keyfile.read(self.path)
        if not file.keys and not file.jwt:
            raise WeitiaoError(
                say(
                    f"{self.path} holds no keys and no [jwt]: nobody could call. Add one: weitiao keys add",
                    f"{self.path} 里没有密钥，也没有 [jwt]：谁都无法调用。请用 weitiao keys add 添加",
                )
            )
        return file, Tokens(file.jwt, self.path.parent, self._clock) if file.jwt else None

    def _reload(self) -> None:
        """Read keys.toml again if it has changed. One that cannot be read leaves the old keys in force."""
        with self._lock:
            if self._clock() - self._looked < RELOAD_SECONDS:
                return
            self._looked = self._clock()
            stamp = _stamp(self.path)
            if stamp == self._stamp:
                return
            self._stamp = stamp
            try:
                self._file, self._tokens = self._read()
                self._hasher = keyfile.hasher() if self._file.keys else None
            except WeitiaoError as error:
                LOG.warning("%s", error)


def unauthorized() -> Refused:
    """The one answer to every key or token that is not accepted: it does not tell why."""
    message = say("a valid API key or token is needed", "需要有效的 API 密钥或令牌")
    return Refused(401, "unauthorized", message, {"WWW-Authenticate": "Bearer"})


def _token(request: Any) -> str:
    """What ``Authorization: Bearer`` or ``X-API-Key`` holds, or an empty string."""
    scheme, _, value = (request.headers.get("authorization") or "").partition(" ")
    if scheme.lower() == "bearer":
        return str(value.strip())
    return str((request.headers.get("x-api-key") or "").strip())


def _named(token: str, file: KeyFile) -> Key | None:
    """The entry that an API key names by its id."""
    if not token.startswith(PREFIX):
        return None
    return file.keys.get(token[len(PREFIX) :].partition("_")[0])


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None


def _claim(claims: Any, path: str) -> Any:
    """The claim at a path like ``realm_access.roles``; a claim whose own name has dots is found as well."""
    if path in claims:
        return claims[path]
    for part in path.split("."):
        claims = claims.get(part) if isinstance(claims, dict) else None
    return claims


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        return value.split()
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
