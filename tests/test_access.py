"""Access: API keys, signed tokens, roles, tenants, rates, and what each refuses."""

import asyncio
import base64
import datetime
import hashlib
import hmac
import http.server
import json
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.requests import Request

from weitiao.cli import main
from weitiao.core.errors import WeitiaoError
from weitiao.service import keyfile
from weitiao.service.access import Access, Caller, Refused
from weitiao.service.limits import MOST_REMEMBERED, BodyLimit, Limits, Sizes
from weitiao.stages import keys as keys_stage

NOON = 1_900_000_000 // 86_400 * 86_400 + 43_200
ISSUER, AUDIENCE = "https://login.example.com/", "weitiao"


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def request(
    token: str = "", header: str = "authorization", host: str = "10.0.0.1", scheme: str = "Bearer"
) -> Request:
    value = f"{scheme} {token}" if header == "authorization" else token
    headers = [(header.encode(), value.encode())] if token else []
    return Request({"type": "http", "headers": headers, "client": (host, 1)})


def refusal(access: Access, role: str = "predict", **how: Any) -> tuple[int, str]:
    with pytest.raises(Refused) as refused:
        access.check(request(**how), role)
    return refused.value.status, refused.value.code


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """The text of a keys.toml, and its keys by name. Made once: argon2 is slow on purpose."""
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    made = {
        "acme": keyfile.add(path, "acme", ("predict",), "acme", ("reviews", "acme-*")),
        "other": keyfile.add(path, "other", ("predict", "admin"), "other", ("intents",)),
        "ops": keyfile.add(path, "ops", ("metrics",)),
        "slow": keyfile.add(path, "slow", ("predict",), per_minute=60, per_day=20),
        "old": keyfile.add(path, "old", ("predict",), expires="2001-02-03"),
    }
    return path.read_text(encoding="utf-8"), made


@pytest.fixture
def path(made: tuple[str, dict[str, str]], tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.write_text(made[0], encoding="utf-8")
    return path


@pytest.fixture
def keys(made: tuple[str, dict[str, str]]) -> dict[str, str]:
    return made[1]


# --- keys


def test_a_key_is_let_in_by_either_header_and_only_with_its_role(path: Path, keys: dict[str, str]) -> None:
    access = Access(path)
    for how in ({}, {"header": "x-api-key"}, {"scheme": "bearer"}):
        caller = access.check(request(keys["acme"], **how), "predict")
        assert (caller.tenant, caller.roles) == ("acme", {"predict"})
    assert caller.key_id == keys["acme"].split("_")[1]
    assert refusal(access, "metrics", token=keys["acme"]) == (403, "forbidden")
    assert refusal(access, "admin", token=keys["acme"]) == (403, "forbidden")
    assert refusal(access, "predict", token=keys["ops"]) == (403, "forbidden")
    assert access.check(request(keys["other"]), "admin").roles == {"predict", "admin"}


def test_what_is_no_key_gets_401_and_no_reason(path: Path, keys: dict[str, str]) -> None:
    access, key = Access(path), keys["acme"]
    prefix, id, secret = key.split("_", 2)
    other_id = keys["other"].split("_")[1]
    wrong = ["", "x", key[:-1], key + "x", key.swapcase(), f"{prefix}_{id}_", f"{prefix}_zzzzzzzz_{secret}",
             f"{prefix}_{other_id}_{secret}", f"{prefix}_{id}", "wt_", "e30.e30.", keys["old"]]  # fmt: skip
    said = set()
    for number, token in enumerate(wrong):
        with pytest.raises(Refused) as refused:
            access.check(request(token, host=f"10.0.0.{number}"), "predict")
        said.add((refused.value.status, refused.value.code, refused.value.message))
        assert refused.value.headers == {"WWW-Authenticate": "Bearer"}
    assert len(said) == 1 and next(iter(said))[:2] == (401, "unauthorized")
    assert refusal(access, token=key, scheme="Basic") == (401, "unauthorized")


def test_the_file_holds_no_key_and_the_memory_no_plain_digest(path: Path, keys: dict[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    access = Access(path)
    access.check(request(keys["acme"]), "predict")
    for key in keys.values():
        assert key not in text and key.split("_", 2)[2] not in text
    assert text.count("$argon2id$") == len(keys)
    remembered = list(access._known)
    assert hashlib.sha256(keys["acme"].encode()).digest() not in remembered and len(remembered) == 1


def test_argon2_is_paid_once_a_key_right_or_wrong(path: Path, keys: dict[str, str]) -> None:
    access, paid = Access(path), []
    verify = access._verify
    access._verify = lambda hash, token: paid.append(token) or verify(hash, token)  # type: ignore[method-assign]
    wrong = keys["acme"] + "x"
    for _ in range(5):
        access.check(request(keys["acme"]), "predict")
        assert refusal(access, token=wrong) == (401, "unauthorized")
    assert paid == [keys["acme"], wrong]
    assert refusal(access, token="wt_nobody_x") == (401, "unauthorized")
    assert len(paid) == 2


def test_guessing_is_slowed_down_per_client_and_known_keys_stay_in(path: Path, keys: dict[str, str]) -> None:
    clock = Clock()
    access = Access(path, clock)
    access._verify = lambda hash, token: False  # type: ignore[method-assign]  # guesses are wrong; spare the time
    answers = [refusal(access, token=keys["acme"] + str(guess))[0] for guess in range(14)]
    assert answers == [401] * 10 + [429] * 4
    assert refusal(access, token=keys["acme"] + "y", host="10.0.0.2")[0] == 401  # another client
    clock.now += 6
    assert refusal(access, token=keys["acme"] + "z")[0] == 401  # ten a minute: one more after six seconds
    assert refusal(access, token=keys["acme"] + "zz")[0] == 429


def test_a_tenant_s_key_sees_its_models_only(path: Path, keys: dict[str, str]) -> None:
    access = Access(path)
    there = ["reviews", "acme-tickets", "intents"]
    acme, ops = (access.check(request(keys[name]), "") for name in ("acme", "ops"))
    assert [model for model in there if acme.sees(model)] == ["reviews", "acme-tickets"]
    assert all(ops.sees(model) for model in there)


def test_a_removed_or_changed_key_stops_working_without_a_restart(path: Path, keys: dict[str, str]) -> None:
    clock = Clock()
    access = Access(path, clock)
    access.check(request(keys["acme"]), "predict")
    text = path.read_text(encoding="utf-8")
    hashes = {line.split('"')[1]: line for line in text.splitlines() if line.startswith("hash")}
    first, second = list(hashes)[:2]
    path.write_text(text.replace(first, second), encoding="utf-8")  # the same id, another secret
    assert access.check(request(keys["acme"]), "predict")  # looked at once a second
    clock.now += 1.5
    assert refusal(access, token=keys["acme"]) == (401, "unauthorized")
    path.write_text("this is [not toml", encoding="utf-8")
    clock.now += 1.5
    assert access.check(request(keys["other"]), "predict")  # the old keys stay in force
    path.write_text(text, encoding="utf-8")
    clock.now += 1.5
    assert access.check(request(keys["acme"]), "predict")


def test_many_at_once_share_one_argon2_check(path: Path, keys: dict[str, str]) -> None:
    access, paid = Access(path), []
    verify = access._verify
    access._verify = lambda hash, token: paid.append(1) or verify(hash, token)  # type: ignore[method-assign]

    async def all_at_once() -> list[Caller]:
        return await asyncio.gather(
            *(access.check_async(request(keys["acme"]), "predict") for _ in range(24))
        )

    assert len({caller.key_id for caller in asyncio.run(all_at_once())}) == 1
    assert len(paid) == 1


def test_no_file_lets_everybody_in_and_an_empty_one_nobody(tmp_path: Path) -> None:
    assert Access().check(request(), "admin").sees("anything")
    (tmp_path / "keys.toml").write_text("", encoding="utf-8")
    with pytest.raises(WeitiaoError, match="nobody could call"):
        Access(tmp_path / "keys.toml")


def test_keys_that_are_right_do_not_count_as_guesses(path: Path, keys: dict[str, str]) -> None:
    access = Access(path, Clock())
    access._verify = lambda hash, token: token in keys.values()  # type: ignore[method-assign]  # spare the time
    for _ in range(5):
        for name in ("acme", "other", "ops"):
            access.check(request(keys[name]), "")
            access._known.clear()
    assert refusal(access, token=keys["acme"] + "x")[0] == 401


# --- rates and quotas


def test_a_rate_refills_and_says_when(path: Path, keys: dict[str, str]) -> None:
    clock, today = Clock(), Clock(NOON)
    access = Access(path, clock, today)

    def allowed() -> int:
        count = 0
        try:
            while count < 100:
                access.check(request(keys["slow"]), "predict")
                count += 1
        except Refused as refused:
            assert (refused.status, refused.headers) == (429, {"Retry-After": "1"})
        return count

    assert allowed() == 6  # a tenth of a minute's
    clock.now += 3
    assert allowed() == 3
    clock.now += 3600
    assert allowed() == 6


def test_a_quota_lasts_until_midnight() -> None:
    clock, today = Clock(), Clock(NOON)
    limits = Limits(clock, today)
    for _ in range(3):
        limits.take("a", per_day=3)
    with pytest.raises(Refused) as refused:
        limits.take("a", per_day=3)
    assert (refused.value.status, refused.value.code) == (429, "quota_exceeded")
    assert refused.value.headers == {"Retry-After": "43200"}
    limits.take("b", per_day=3)
    today.now += 43_200
    limits.take("a", per_day=3)


def test_a_request_refused_for_its_rate_does_not_count_towards_the_quota() -> None:
    clock, today = Clock(), Clock(NOON)
    limits = Limits(clock, today)
    limits.take("a", per_minute=1, per_day=2)
    for _ in range(5):
        with pytest.raises(Refused, match="too many"):
            limits.take("a", per_minute=1, per_day=2)
    clock.now += 60
    limits.take("a", per_minute=1, per_day=2)


def test_the_memory_for_rates_is_bounded() -> None:
    limits = Limits(Clock(), Clock(NOON))
    for number in range(MOST_REMEMBERED + 50):
        limits.take(str(number), per_minute=1)
    assert len(limits._buckets) == MOST_REMEMBERED


def test_texts_too_many_or_too_long_are_refused_with_the_numbers() -> None:
    sizes = Sizes(text_characters=5, texts=2)
    sizes.check_texts(["12345", ""])
    for texts, code, number in (
        (["", "", ""], "too_many_texts", "3"),
        (["", "123456"], "text_too_long", "6"),
    ):
        with pytest.raises(Refused, match=number) as refused:
            sizes.check_texts(texts)
        assert (refused.value.status, refused.value.code) == (413, code)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_is_read_up_to_its_limit_whatever_it_declares(declared: bool) -> None:
    inside, read = FastAPI(), []

    @inside.post("/echo")
    async def echo(body: dict[str, str]) -> dict[str, str]:
        return body

    def answer(refused: Refused) -> JSONResponse:
        return JSONResponse({"code": refused.code}, refused.status, refused.headers)

    async def parts(content: bytes) -> AsyncIterator[bytes]:
        for start in range(0, len(content), 16):
            read.append(start)
            yield content[start : start + 16]

    async def ask(content: bytes) -> tuple[int, Any]:
        transport = httpx.ASGITransport(BodyLimit(inside, Sizes(body_bytes=100), answer))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            sent = await client.post(
                "/echo",
                content=content if declared else parts(content),
                headers={"content-type": "application/json"},
            )
            return sent.status_code, sent.json()

    fits, too_large = b'{"a": "%s"}' % (b"x" * 91), b'{"a": "%s"}' % (b"x" * 92)
    assert asyncio.run(ask(fits)) == (200, {"a": "x" * 91})
    assert asyncio.run(ask(too_large)) == (413, {"code": "body_too_large"})
    read.clear()
    assert asyncio.run(ask(b"x" * 10_000)) == (413, {"code": "body_too_large"})
    assert len(read) <= 8  # the rest was left unread


# --- signed tokens


@pytest.fixture(scope="module")
def signers() -> dict[str, Any]:
    return {
        "rsa": rsa.generate_private_key(65537, 2048),
        "ec": ec.generate_private_key(ec.SECP256R1()),
        "short": rsa.generate_private_key(65537, 1024),  # refused, and pyjwt warns of it
        "stranger": rsa.generate_private_key(65537, 2048),
    }


def key_set(signers: dict[str, Any], names: tuple[str, ...] = ("rsa", "ec", "short")) -> dict[str, Any]:
    keys = []
    for name in names:
        kind = jwt.algorithms.ECAlgorithm if name == "ec" else jwt.algorithms.RSAAlgorithm
        keys.append({**json.loads(kind.to_jwk(signers[name].public_key())), "kid": name, "use": "sig"})
    return {"keys": keys}


def token(signer: Any, kid: str | None, algorithm: str = "RS256", **changes: Any) -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "li@example.com", "exp": int(time.time()) + 600,
              "realm_access": {"roles": ["predict", "boss"]}, "tenant": "acme"}  # fmt: skip
    claims = {key: value for key, value in {**claims, **changes}.items() if value is not None}
    return jwt.encode(claims, signer, algorithm, headers={"kid": kid} if kid else {})


def issuer(path: Path, jwks: str = 'jwks = "jwks.json"', algorithms: str = '["RS256", "ES256"]') -> Path:
    settings = f'issuer = "{ISSUER}"\naudience = "{AUDIENCE}"\nroles_claim = "realm_access.roles"\n'
    path.write_text(
        f'[tenants.acme]\nmodels = ["reviews"]\n[jwt]\n{settings}{jwks}\nalgorithms = {algorithms}\n',
        encoding="utf-8",
    )
    return path


@pytest.fixture
def signed(signers: dict[str, Any], tmp_path: Path) -> Access:
    (tmp_path / "jwks.json").write_text(json.dumps(key_set(signers)), encoding="utf-8")
    return Access(issuer(tmp_path / "keys.toml"))


def test_a_token_of_the_issuer_is_let_in_with_its_roles_and_tenant(
    signed: Access, signers: dict[str, Any]
) -> None:
    for name, algorithm in (("rsa", "RS256"), ("ec", "ES256")):
        caller = signed.check(request(token(signers[name], name, algorithm)), "predict")
        assert (caller.tenant, caller.roles, caller.models) == ("acme", {"predict"}, ("reviews",))
        assert caller.key_id.startswith("jwt-") and "example" not in caller.key_id
    assert refusal(signed, "metrics", token=token(signers["rsa"], "rsa")) == (403, "forbidden")
    assert refusal(signed, token=token(signers["rsa"], "rsa", tenant=None)) == (403, "forbidden")
    stranger = signed.check(request(token(signers["rsa"], "rsa", tenant="globex")), "predict")
    assert not stranger.sees("reviews")


def unsigned(header: dict[str, Any], claims: str, signature: bytes = b"") -> str:
    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    return f"{part(json.dumps(header).encode())}.{claims}.{part(signature)}"


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits long")
def test_tokens_that_must_be_refused(signed: Access, signers: dict[str, Any]) -> None:
    good, now = token(signers["rsa"], "rsa"), int(time.time())
    claims = good.split(".")[1]
    public = signers["rsa"].public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    hs = unsigned({"alg": "HS256", "kid": "rsa", "typ": "JWT"}, claims)
    confused = [
        unsigned(
            {"alg": "HS256", "kid": "rsa", "typ": "JWT"},
            claims,
            hmac.digest(secret, hs.rsplit(".", 1)[0].encode(), "sha256"),
        )
        for secret in (pem, public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), b"")
    ]
    bad = {
        "none": unsigned({"alg": "none"}, claims),
        "None with a kid": unsigned({"alg": "None", "kid": "rsa"}, claims),
        "no algorithm": unsigned({}, claims),
        **{f"public key as HMAC secret {n}": one for n, one in enumerate(confused)},
        "another key": token(signers["stranger"], "rsa"),
        "unknown key": token(signers["stranger"], "stranger"),
        "short key": token(signers["short"], "short"),
        "expired": token(signers["rsa"], "rsa", exp=now - 60),
        "not yet": token(signers["rsa"], "rsa", nbf=now + 600),
        "no expiry": token(signers["rsa"], "rsa", exp=None),
        "issuer": token(signers["rsa"], "rsa", iss="https://login.example.org/"),
        "no issuer": token(signers["rsa"], "rsa", iss=None),
        "audience": token(signers["rsa"], "rsa", aud="another"),
        "no audience": token(signers["rsa"], "rsa", aud=None),
        "no subject": token(signers["rsa"], "rsa", sub=None),
        "algorithm outside the list": token(signers["rsa"], "rsa", "RS512"),
        "key of another kind": token(signers["rsa"], "ec"),
        "changed claims": good.replace(
            claims, claims[:-2] + ("A" if claims[-2] != "A" else "B") + claims[-1]
        ),
        "cut": good[:-8],
        "long": good + "A" * 9000,
        "garbage": "a.b.c",
        "key in the header": jwt.encode(
            jwt.decode(good, options={"verify_signature": False}),
            signers["stranger"],
            "RS256",
            headers={"jwk": key_set(signers, ("stranger",))["keys"][0]},
        ),
    }
    signed.check(request(good), "predict")
    for name, one in bad.items():
        assert refusal(signed, token=one) == (401, "unauthorized"), name


@pytest.mark.parametrize("algorithm", ["HS256", "none", "rs256"])
def test_algorithms_without_a_public_key_are_refused_at_start(tmp_path: Path, algorithm: str) -> None:
    with pytest.raises(WeitiaoError, match=algorithm):
        Access(issuer(tmp_path / "keys.toml", algorithms=f'["RS256", "{algorithm}"]'))


class Provider(http.server.BaseHTTPRequestHandler):
    """An identity provider on this machine: its pages are in ``server.pages``, the paths asked in ``server.asked``."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        status, body, *location = self.server.pages.get(self.path, (404, b""))  # type: ignore[attr-defined]
        self.send_response(status)
        if location:
            self.send_header("Location", location[0])
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def provider() -> Any:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        server.pages, server.asked = {}, []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_keys_from_an_address_are_cached_fetched_anew_and_outlive_an_outage(
    provider: Any, signers: dict[str, Any], tmp_path: Path
) -> None:
    address = f"http://127.0.0.1:{provider.server_port}/jwks"
    provider.pages["/jwks"] = (200, json.dumps(key_set(signers, ("rsa",))).encode())
    clock = Clock()
    access = Access(issuer(tmp_path / "keys.toml", f'jwks = "{address}"'), clock)
    for _ in range(3):
        access.check(request(token(signers["rsa"], "rsa")), "predict")
    assert len(provider.asked) == 1
    provider.pages["/jwks"] = (200, json.dumps(key_set(signers, ("rsa", "ec"))).encode())
    new = token(signers["ec"], "ec", "ES256")
    assert refusal(access, token=new) == (401, "unauthorized")  # asked a moment ago
    clock.now += 31
    access.check(request(new), "predict")
    assert len(provider.asked) == 2
    for _ in range(5):
        assert refusal(access, token=token(signers["stranger"], "stranger")) == (401, "unauthorized")
    assert len(provider.asked) == 2  # a flood of unknown keys does not reach the provider
    provider.pages["/jwks"] = (500, b"")
    clock.now += 10_000
    access.check(request(new), "predict")
    assert len(provider.asked) == 3


def test_a_provider_that_is_down_redirects_or_talks_nonsense_is_503(
    provider: Any, signers: dict[str, Any], tmp_path: Path
) -> None:
    address = f"http://127.0.0.1:{provider.server_port}/jwks"
    good = json.dumps(key_set(signers)).encode()
    provider.pages["/moved"] = (200, good)
    clock = Clock()
    access = Access(issuer(tmp_path / "keys.toml", f'jwks = "{address}"'), clock)
    pages: list[tuple[Any, ...]] = [(404, b""), (302, b"", "/moved"), (200, b"<html>"), (200, b"[" * 100_000),
                                    (200, b'{"keys": []}'), (200, good + b" " * (1 << 20))]  # fmt: skip
    for page in pages:
        provider.pages["/jwks"] = page
        clock.now += 31
        assert refusal(access, token=token(signers["rsa"], "rsa")) == (503, "unavailable")
    assert "/moved" not in provider.asked
    provider.pages["/jwks"] = (200, good)
    clock.now += 31
    assert access.check(request(token(signers["rsa"], "rsa")), "predict")


def test_the_key_set_is_found_from_the_issuer(provider: Any, signers: dict[str, Any], tmp_path: Path) -> None:
    base = f"http://127.0.0.1:{provider.server_port}"
    where = "/.well-known/openid-configuration"
    provider.pages["/keys"] = (200, json.dumps(key_set(signers)).encode())
    path = issuer(tmp_path / "keys.toml", "")
    path.write_text(path.read_text(encoding="utf-8").replace(ISSUER, base), encoding="utf-8")
    clock = Clock()
    access = Access(path, clock)
    for claimed, outcome in (("https://evil.example.com", 503), (base, 200)):
        provider.pages[where] = (200, json.dumps({"issuer": claimed, "jwks_uri": f"{base}/keys"}).encode())
        clock.now += 31
        one = request(token(signers["rsa"], "rsa", iss=base))
        if outcome == 200:
            assert access.check(one, "predict").tenant == "acme"
        else:
            with pytest.raises(Refused) as refused:
                access.check(one, "predict")
            assert refused.value.status == outcome


def test_a_key_set_is_fetched_over_https_only(signers: dict[str, Any], tmp_path: Path) -> None:
    access = Access(issuer(tmp_path / "keys.toml", 'jwks = "http://login.example.com/jwks"'))
    assert refusal(access, token=token(signers["rsa"], "rsa")) == (503, "unavailable")


# --- keys.toml and the command


@pytest.mark.parametrize(
    "text, said",
    [
        ("[[key]]", "Did you mean 'keys'"),
        ("keys = 3", "[[keys]]"),
        ('[[keys]]\nid = "a"', "lacks hash, roles"),
        ('[[keys]]\nid = "a"\nhash = "secret"\nroles = []', "no argon2 hash"),
        ('[[keys]]\nid = "a"\nhash = "$argon2id$"\nroles = ["predct"]', "Did you mean 'predict'"),
        ('[[keys]]\nid = "a"\nhash = "$argon2id$"\nroles = "predict"', "cannot be 'predict'"),
        ('[[keys]]\nid = "a"\nhash = "$argon2id$"\nroles = []\ntenant = "acme"', "[tenants.acme]"),
        ('[[keys]]\nid = "a"\nhash = "$argon2id$"\nroles = []\nrequests_per_minute = -1', "cannot be -1"),
        ('[[keys]]\nid = "a"\nhash = "$argon2id$"\nroles = []\nexpires = "soon"', "cannot be 'soon'"),
        ('[[keys]]\nid = "a"\nhash = "$argon2id$"\nroles = []\nrole = "x"', "Did you mean 'roles'"),
        ('[[keys]]\nid = "a"\nhash = "$argon2id$"\nroles = []\n' * 2, "the id 'a'"),
        ('[jwt]\nissuer = ""\naudience = "x"', "needs issuer and audience"),
        ("[limits]\nbody_byte = 1", "Did you mean 'body_bytes'"),
        ("a = " + "[" * 5000, "not TOML"),
    ],
)
def test_a_bad_keys_file_is_one_clear_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "keys.toml").write_text(text, encoding="utf-8")
    with pytest.raises(WeitiaoError) as error:
        keyfile.read(tmp_path / "keys.toml")
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_example_in_the_help_is_a_good_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys.toml").write_text(keyfile.EXAMPLE, encoding="utf-8")
    file = keyfile.read(tmp_path / "keys.toml")
    assert file.keys["q3hz7wkd"].expires == datetime.date(2030, 1, 1) and file.sizes == Sizes()
    assert file.jwt is not None and file.tenants == {"acme": ("reviews", "acme-*")}
    with pytest.raises(SystemExit):
        main(["keys", "--help"])
    assert "realm_access.roles" in capsys.readouterr().out
    assert keys_stage.table(file).startswith("q3hz7wkd  ops  predict,metrics  acme  600 a minute")


def test_the_command_shows_a_key_that_works_and_keeps_the_file_s_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.toml"
    path.write_text("# mine\n[limits]\ntexts = 7\n", encoding="utf-8")
    words = ["--file", str(path), "--name", "小明\x7f\n", "--roles", "predict,metrics", "--tenant", "acme"]
    assert main(["keys", "add", *words]) == 2
    assert "--models" in capsys.readouterr().err
    assert main(["keys", "add", *words, "--models", "a,b"]) == 2  # TOML cannot hold that name
    assert path.read_text(encoding="utf-8") == "# mine\n[limits]\ntexts = 7\n"
    words[3] = '小明 "ops"'
    capsys.readouterr()
    assert main(["keys", "add", *words, "--models", "a,b"]) == 0
    key = capsys.readouterr().out.strip().splitlines()[-1]
    assert path.read_text(encoding="utf-8").startswith("# mine\n") and path.stat().st_mode & 0o777 == 0o600
    access = Access(path)
    assert access.sizes.texts == 7 and access.check(request(key), "metrics").models == ("a", "b")
    assert main(["keys", "list", "--file", str(path)]) == 0
    assert '小明 "ops"  predict,metrics  acme' in capsys.readouterr().out
    for wrong in (
        ["ad"],
        ["add", "--file", str(path)],
        ["add", *words, "--expires", "soon"],
        ["add", *words[:4], "--roles", "x"],
    ):
        assert main(["keys", *wrong]) == 2
