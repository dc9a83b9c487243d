"""Signed tokens (JWT) of an identity provider: checked against its public keys, which are cached.

Only algorithms of public keys are let through, each only with a key of its own kind: ``none``, and a public key
used as an HMAC secret, are refused before any signature is computed.
"""

import json
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weitiao.core.errors import WeitiaoError
from weitiao.core.messages import say
from weitiao.service.keyfile import Issuer, missing

LONGEST_TOKEN = 8192
MOST_BYTES = 1 << 20  # of a key set
FRESH_SECONDS, RETRY_SECONDS = 600, 30
LEEWAY_SECONDS = 30  # clocks differ
CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
LEAST_RSA_BITS = 2048


class BadToken(Exception):
    """A token that is not accepted. The reason is for the log of the service, not for who sent the token."""


class Tokens:
    """Checks tokens of one issuer. Relative names of key set files are looked up in ``folder``."""

    def __init__(self, issuer: Issuer, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        try:
            import jwt
        except ImportError:
            raise missing("pyjwt[crypto]") from None
        self.jwt = jwt
        self.issuer = issuer
        self.keys = KeySet(issuer, folder, clock)
        if issuer.jwks and not issuer.jwks.startswith(("http://", "https://")):
            self.keys.all()  # a file that cannot be read is an error at start, not at the first request

    def claims(self, token: str) -> dict[str, Any]:
        """What a valid token says.

        Raises:
            BadToken: signature, algorithm, issuer, audience or time is wrong, or no key fits.
        """
        jwt = self.jwt
        if len(token) > LONGEST_TOKEN:
            raise BadToken("too long")
        try:
            header = jwt.get_unverified_header(token)
            algorithm = header.get("alg")
            if algorithm not in self.issuer.algorithms:
                raise BadToken("algorithm not allowed")
            if header.get("crit"):
                raise BadToken("unknown critical header")
            key = self._key(header.get("kid"), algorithm)
            found: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                issuer=self.issuer.issuer,
                audience=self.issuer.audience,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            return found
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise BadToken(type(error).__name__) from None

    def _key(self, kid: Any, algorithm: str) -> Any:
        """The public key named ``kid`` (or the only one that fits), if it is of the algorithm's kind."""
        fitting = [one for one in self.keys.all() if _fits(one, kid, algorithm)]
        if not fitting:
            fitting = [one for one in self.keys.all(again=True) if _fits(one, kid, algorithm)]
        if len(fitting) != 1:
            raise BadToken("no key fits")
        key = self.jwt.PyJWK(fitting[0], algorithm).key
        if fitting[0]["kty"] == "RSA" and key.key_size < LEAST_RSA_BITS:
            raise BadToken("the key is too short")
        return key


def _fits(key: dict[str, Any], kid: Any, algorithm: str) -> bool:
    kind = {"R": "RSA", "P": "RSA", "E": "OKP" if algorithm == "EdDSA" else "EC"}[algorithm[0]]
    return (
        key.get("kty") == kind
        and (kid is None or key.get("kid") == kid)
        and key.get("use", "sig") == "sig"
        and key.get("alg", algorithm) == algorithm
        and (kind != "EC" or key.get("crv") == CURVES[algorithm])
    )


class KeySet:
    """An issuer's public keys (JWKS), from a file or an address, kept for ten minutes.

    A set that cannot be fetched again stays in use; an unknown key makes it fetched anew, at most every 30 seconds.
    """

    def __init__(self, issuer: Issuer, folder: Path, clock: Callable[[], float]) -> None:
        self.issuer, self.folder, self.clock = issuer, folder, clock
        self._keys: list[dict[str, Any]] = []
        self._fetched = self._tried = float("-inf")
        self._lock = threading.Lock()

    def all(self, again: bool = False) -> list[dict[str, Any]]:
        """The keys; ``again`` asks for fresh ones.

        Raises:
            WeitiaoError: there are none yet, and they cannot be read.
        """
        with self._lock:
            now = self.clock()
            stale = again or now - self._fetched >= FRESH_SECONDS
            if not self._keys or (stale and now - self._tried >= RETRY_SECONDS):
                self._tried = now
                try:
                    self._keys, self._fetched = _key_list(self._read()), now
                except (OSError, ValueError, RecursionError) as error:
                    if not self._keys:
                        where = self.issuer.jwks or self.issuer.issuer
                        raise WeitiaoError(
                            say(f"{where}: no key set: {error}", f"{where}：读不到公钥集：{error}")
                        ) from None
            return self._keys

    def _read(self) -> Any:
        jwks = self.issuer.jwks
        if not jwks:
            found = fetch(self.issuer.issuer.rstrip("/") + "/.well-known/openid-configuration")
            if not isinstance(found, dict) or found.get("issuer") != self.issuer.issuer:
                raise ValueError(say("it belongs to another issuer", "它属于另一个签发者"))
            jwks = str(found.get("jwks_uri"))
            return fetch(jwks)
        if jwks.startswith(("http://", "https://")):
            return fetch(jwks)
        return json.loads((self.folder / jwks).read_text(encoding="utf-8"))


def _key_list(content: Any) -> list[dict[str, Any]]:
    keys = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys) or not keys:
        raise ValueError(say('it is not {"keys": [...]}', '内容不是 {"keys": [...]}'))
    return keys


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could lead from https to anywhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def fetch(address: str) -> Any:
    """JSON from an https address (http only on this machine), at most 1 MiB, without redirects.

    Raises:
        OSError, ValueError: not reached, not such an address, too large, not JSON.
    """
    local = address.startswith(("http://127.0.0.1:", "http://localhost:", "http://[::1]:"))
    if not (local or address.startswith("https://")):
        raise ValueError(say("only https addresses are fetched", "只允许 https 地址"))
    with urllib.request.build_opener(_NoRedirect).open(address, timeout=5) as answer:
        content = answer.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(say("it is larger than 1 MiB", "超过 1 MiB"))
    return json.loads(content)
