"""Tokens that nobody signed, that were signed for others, that are over, or that are no tokens at all."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
import websockets
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.attack.conftest import Tried
from tests.attack.target import Attempt, Target
from tests.patience import PATIENCE
from tests.process.callers import CANARY, CHANNEL, SECRET, TENANT, guarded
from tests.process.served import heard
from tests.rsa_keys import rsa_key
from turnkeep.auth.audit_trail import events_of

ISSUER = "https://login.example.com"
ED, P256 = ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256R1())
Claims = Mapping[str, Any]


def claims(**others: Any) -> dict[str, Any]:
    values = {
        "sub": "olga",
        "tenant": TENANT,
        "aud": "turnkeep",
        "iss": ISSUER,
        "exp": time.time() + 300,
        "channels": ["*"],
        "scope": "send read admin",
        "iat": time.time(),
        **others,
    }
    return {name: value for name, value in values.items() if value is not ...}


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def public_pem() -> bytes:
    """What an attacker knows, too."""
    encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return rsa_key().public_key().public_bytes(encoding, form)


def signed(said: Claims, key: Any = None, algorithm: str = "RS256", **header: Any) -> str:
    """As an identity provider signs it, also what no careful library would; with our RSA key, if no other is given."""
    head = {"kid": "rsa", "typ": "JWT", **header}
    return jwt.api_jws.encode(json.dumps(dict(said)).encode(), key or rsa_key(), algorithm=algorithm, headers=head)


def forged(header: Claims, said: Claims, signature: bytes = b"", secret: bytes | None = None) -> str:
    body = ".".join(encoded(json.dumps(dict(part)).encode()) for part in (header, said))
    if secret is not None:
        signature = hmac.new(secret, body.encode(), hashlib.sha256).digest()
    return f"{body}.{encoded(signature)}"


def jwk(key: Any) -> dict[str, Any]:
    kinds: Mapping[type, Any] = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
    }
    kind = next((one for base, one in kinds.items() if isinstance(key, base)), jwt.algorithms.OKPAlgorithm)
    return dict(json.loads(kind.to_jwk(key.public_key())))


# ---------------------------------------------------------------- what is shown


def by_algorithm() -> Iterator[tuple[str, str]]:
    said, pem = claims(), public_pem()
    for algorithm in (
        "none",
        "NoNe",
        "NONE",
        "",
        "HS256",
        "HS384",
        "HS512",
        "ES256",
        "EdDSA",
        "PS256",
        "RS512",
        "RSA",
        "x5c",
    ):
        yield f"says {algorithm!r} and is not signed", forged({"alg": algorithm, "kid": "rsa"}, said)
    for name, secret in (
        ("PEM", pem),
        ("stripped PEM", pem.strip()),
        ("empty", b""),
        ("null", b"\0" * 32),
        ("kid", b"rsa"),
        ("shared", SECRET.encode()),
        ("modulus", jwk(rsa_key())["n"].encode()),
        ("body", b"".join(pem.splitlines()[1:-1])),
    ):
        for kid in ("rsa", "ed", "ec"):
            yield f"HS256 with the {name} as {kid}", forged({"alg": "HS256", "kid": kid}, said, secret=secret)
    for algorithm in ("RS384", "RS512", "PS256", "PS512"):
        yield f"signed with {algorithm}", signed(said, rsa_key(), algorithm)
    yield "signed with ES256 under the kid of RSA", signed(said, P256, "ES256")
    yield "signed with EdDSA under the kid of RSA", signed(said, ED, "EdDSA")
    yield "signed with RS256 under the kid of EdDSA", signed(said, rsa_key(), "RS256", kid="ed")


def by_key() -> Iterator[tuple[str, str]]:
    said, others_key = claims(), rsa_key("others")
    mine = jwk(others_key)
    for kid in (
        "other",
        "../../etc/passwd",
        "/dev/null",
        "' OR 1=1 --",
        "http://127.0.0.1:1/jwks.json",
        7,
        ["rsa"],
        {"rsa": 1},
        "x" * 5_000,
        None,
        "",
        "RSA",
        "rsa\0",
        "rsa ",
    ):
        yield f"the key {str(kid)[:40]!r}", forged({"alg": "RS256", "kid": kid}, said, b"x" * 256)
    for name, header in (
        ("jwk", {"jwk": mine}),
        ("jwk of its own kid", {"jwk": {**mine, "kid": "mine"}, "kid": "mine"}),
        ("jku", {"jku": "http://127.0.0.1:1/jwks.json"}),
        ("x5u", {"x5u": "http://127.0.0.1:1/x.pem"}),
        ("x5c", {"x5c": ["AAAA"]}),
        ("crit", {"crit": ["exp"], "exp": 1}),
        ("b64", {"b64": False, "crit": ["b64"]}),
        ("zip", {"zip": "DEF"}),
    ):
        head = {"alg": "RS256", "kid": "rsa", **header}
        body = ".".join(encoded(json.dumps(part).encode()) for part in (head, dict(said)))
        signature = jwt.algorithms.RSAAlgorithm(jwt.algorithms.RSAAlgorithm.SHA256).sign(body.encode(), others_key)
        yield f"{name} in the header", f"{body}.{encoded(signature)}"
    yield "signed by another", signed(said, others_key)


def by_claim() -> Iterator[tuple[str, str]]:
    now = time.time()
    for name, value in (
        ("exp", now - 1),
        ("exp", now - 1e6),
        ("exp", "soon"),
        ("exp", True),
        ("exp", None),
        ("exp", ...),
        ("exp", [now + 60]),
        ("aud", ...),
        ("aud", "other"),
        ("aud", ["other"]),
        ("aud", {"turnkeep": 1}),
        ("aud", None),
        ("aud", "Turnkeep"),
        ("iss", ...),
        ("iss", "https://evil.example"),
        ("iss", ISSUER + "/"),
        ("iss", [ISSUER]),
        ("iss", None),
        ("iss", 7),
        ("nbf", now + 60),
        ("nbf", "x"),
        ("iat", now + 60),
        ("iat", "x"),
        ("iat", float("inf")),
        ("tenant", [TENANT]),
        ("tenant", ""),
        ("tenant", None),
        ("tenant", f"{TENANT}\n"),
        ("tenant", f"{TENANT}\0"),
        ("tenant", {"a": 1}),
        ("tenant", "x" * 513),
        ("sub", 7),
        ("sub", ""),
        ("sub", None),
        ("sub", ...),
        ("sub", ["olga"]),
        ("sub", "a\x1b[0m"),
        ("channels", None),
        ("channels", "own-*"),
        ("channels", {"own-*": 1}),
        ("channels", [1]),
        ("channels", [""]),
        ("channels", ["a"] * 1_001),
        ("channels", ["x" * 513]),
        ("scope", 1),
        ("scope", {"admin": 1}),
        ("scope", None),
    ):
        if isinstance(value, float) and value == float("inf"):
            continue  # no JSON
        yield f"{name} is {str(value)[:30]!r}", signed(claims(**{name: value}))


def by_form() -> Iterator[tuple[str, str]]:
    good = signed(claims())
    head, body, signature = good.split(".")
    admin = encoded(json.dumps(claims(sub="root")).encode())
    yield from (
        ("another body", f"{head}.{admin}.{signature}"),
        ("no signature", f"{head}.{body}."),
        ("two parts", f"{head}.{body}"),
        ("five parts", f"{good}.a.b"),
        ("dots", "." * 8_192),
        ("8,193 letters", "e" * 8_193),
        ("a cut signature", good[:-8]),
        ("a longer signature", good + "AAAA"),
        ("a signature of zeros", f"{head}.{body}.{encoded(bytes(256))}"),
        ("blanks", f"{head}. {body}.{signature}"),
        ("no base64", "eyJ!.eyJ!.x"),
        ("no JSON", f"{encoded(b'x')}.{encoded(b'y')}.z"),
        ("a deep header", f"{encoded(b'[' * 3_000)}.{body}.{signature}"),
        ("a list", f"{encoded(b'[]')}.{body}.{signature}"),
        ("a key that is none", "tk_0123456789abcdef_" + "0" * 64),
        ("half a key", "tk_"),
        ("the secret", SECRET),
        ("the public key", base64.b64encode(public_pem()).decode()),
        ("null", "null"),
        ("undefined", "undefined"),
        ("[object Object]", "[object Object]"),
    )


def by_chance() -> Iterator[tuple[str, str]]:
    source = random.Random(246)
    for number in range(50):
        yield f"garbage key {number}", f"tk_{source.randbytes(8).hex()}_{source.randbytes(32).hex()}"
        parts = ({"alg": source.choice(["RS256", "EdDSA", "ES256"]), "kid": source.randbytes(4).hex()}, claims())
        yield f"garbage token {number}", forged(*parts, source.randbytes(256))


def shown_otherwise(good: str) -> Iterator[tuple[str, dict[str, str], str]]:
    """A good token, where none is taken."""
    yield from (
        ("as Basic", {"Authorization": "Basic " + base64.b64encode(f"olga:{good}".encode()).decode()}, ""),
        ("without a scheme", {"Authorization": good}, ""),
        ("as Token", {"Authorization": f"Token {good}"}, ""),
        ("as a cookie", {"Cookie": f"turnkeep_session={good}"}, ""),
        ("as another cookie", {"Cookie": f"token={good}"}, ""),
        ("in a header of its own", {"X-API-Key": good}, ""),
        ("for a proxy", {"Proxy-Authorization": f"Bearer {good}"}, ""),
    )
    for name in ("token", "access_token", "jwt", "key", "authorization", "bearer", "TOKEN", "x", "auth"):
        yield f"in the address as {name}", {}, f"?{name}={good}"


# ---------------------------------------------------------------- trying


def at_http(name: str, headers: Mapping[str, str], query: str = "") -> Attempt:
    async def act(target: Target) -> str | None:
        url = f"{target.server.url}/api/channels/{CHANNEL}/messages{query}"
        async with target.server.http.get(url, headers=headers) as told:
            said = await told.text()
            return None if told.status in (400, 401) and CANARY not in said else f"{told.status} {said[:200]}"

    return Attempt("token", f"{name}, over HTTP", act)


def at_socket(name: str, headers: Mapping[str, str], query: str = "") -> Attempt:
    async def act(target: Target) -> str | None:
        url = target.server.url.replace("http", "ws") + "/ws" + query
        try:
            async with asyncio.timeout(PATIENCE), websockets.connect(url, additional_headers=dict(headers)) as socket:
                return repr(await heard(socket))
        except InvalidStatus as refusal:
            status = refusal.response.status_code
            return None if status in (400, 401, 403, 431) else f"the upgrade is answered with {status}"
        except TimeoutError:
            return "the upgrade is not answered"
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else None
            return None if code in (4401, 4403) else f"closed with {code}"

    return Attempt("token", f"{name}, on a socket", act)


def attempts() -> Iterator[Attempt]:
    for make in (by_algorithm, by_key, by_claim, by_form, by_chance):
        for name, text in make():
            headers = {"Authorization": f"Bearer {text}"}
            yield at_http(name, headers)
            yield at_socket(name, headers)
    for name, headers, query in shown_otherwise(signed(claims())):
        yield at_http(name, headers, query)
        yield at_socket(name, headers, query)


@pytest.fixture
def jwks(tmp_path: Path) -> str:
    path = tmp_path / "jwks.json"
    keys = [
        {**jwk(rsa_key()), "kid": "rsa"},
        {**jwk(ED), "kid": "ed"},
        {**jwk(P256), "kid": "ec"},
        {"kty": "oct", "k": "AA", "kid": "o"},
    ]
    path.write_text(json.dumps({"keys": keys}))
    return str(path)


async def test_no_token_but_a_good_one_opens_anything(jwks: str, tried: Tried) -> None:
    async with guarded(jwt_secret=None, jwt_jwks=jwks, jwt_issuer=ISSUER) as house:
        target = Target(house.server)
        before = await house.state()
        await tried(target, [*attempts()])
        assert await house.state() == before
        events = [event for event in await events_of(house.server.queue.store) if event.event == "auth_failed"]
        assert 3 <= len(events) <= 60, "the trail tells of an attack and is not filled by it"
        for key, algorithm, kid in ((rsa_key(), "RS256", "rsa"), (ED, "EdDSA", "ed"), (P256, "ES256", "ec")):
            headers = {"Authorization": f"Bearer {signed(claims(), key, algorithm, kid=kid)}"}
            url = f"{house.server.url}/api/channels/{CHANNEL}/messages"
            async with house.server.http.get(url, headers=headers) as told:
                assert CANARY in await told.text(), "a good token opens what the others did not"
