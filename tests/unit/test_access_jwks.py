"""A set of keys at a URL: it may change, go away, be too large, or point elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from websockets.exceptions import ConnectionClosed

from tests.process.served import ask, served
from tests.services import free_port
from turnkeep.auth import jwks
from turnkeep.auth.signing import PUBLIC
from turnkeep.auth.tokens import TokenRules, Tokens, tokens_of
from turnkeep.errors import NotAuthenticated, StoreUnavailable
from turnkeep.settings import Settings

Private = ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


@dataclass
class KeyServer:
    """Hands out a body at `/jwks.json`; counts who asks."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    url: str = ""
    asked: int = 0
    asked_elsewhere: int = 0
    sent: int = 0
    hang: bool = False

    def holds(self, **keys: Private) -> None:
        self.body = json.dumps({"keys": [entry(kid, key) for kid, key in keys.items()]}).encode()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        if self.hang:
            await asyncio.Event().wait()
        response = web.StreamResponse(status=self.status, headers=self.headers)
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(self.body), 65_536):
                await response.write(self.body[start : start + 65_536])
                self.sent = start
        return response

    async def elsewhere(self, _: web.Request) -> web.Response:
        self.asked_elsewhere += 1
        return web.Response(body=self.body)


def entry(kid: str, key: Private) -> dict[str, Any]:
    kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.OKPAlgorithm
    return {**json.loads(kind.to_jwk(key.public_key())), "kid": kid}  # type: ignore[arg-type]


@pytest.fixture
async def keys() -> AsyncIterator[KeyServer]:
    server = KeyServer()
    application = web.Application()
    application.router.add_get("/jwks.json", server.answer)
    application.router.add_get("/elsewhere", server.elsewhere)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/jwks.json"
    try:
        yield server
    finally:
        await runner.cleanup()


def tokens(url: str) -> Tokens:
    made = tokens_of(Settings.load(jwt_jwks=url))
    assert made is not None
    return made


def signed(kid: str, key: Private) -> str:
    claims = {"sub": "olga", "aud": "turnkeep", "exp": time.time() + 60, "channels": ["*"]}
    algorithm = "RS256" if isinstance(key, rsa.RSAPrivateKey) else "EdDSA"
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})


def generated() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


# ---------------------------------------------------------------- a set that changes


async def test_a_set_is_read_once_and_a_rotated_key_is_found(keys: KeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = generated(), generated()
    keys.holds(old=old)
    known = tokens(keys.url)
    for _ in range(3):
        assert (await known.authenticate(signed("old", old))).subject == "user:olga"
    assert keys.asked == 1

    keys.holds(new=new)
    with pytest.raises(NotAuthenticated):
        await known.authenticate(signed("new", new))
    assert keys.asked == 1, "a token cannot make us ask more often"
    monkeypatch.setattr(jwks, "AGAIN", 0.0)
    assert (await known.authenticate(signed("new", new))).subject == "user:olga"
    with pytest.raises(NotAuthenticated):
        await known.authenticate(signed("old", old))


class Time:
    """Of a set of keys, moved by hand."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def timed(url: str, *, ttl: float) -> tuple[Tokens, Time]:
    time = Time()
    return Tokens(jwks.Jwks(url, frozenset(PUBLIC), ttl=ttl, now=time), TokenRules("turnkeep")), time


async def test_a_set_outlives_a_server_that_is_away_for_a_while(keys: KeyServer) -> None:
    key = generated()
    keys.holds(a=key)
    known, time = timed(keys.url, ttl=100.0)
    await known.authenticate(signed("a", key))
    for keys.status, keys.body in ((500, b""), (200, b"<html>"), (200, b'{"keys": []}')):
        time.now += 30.0
        assert (await known.authenticate(signed("a", key))).subject == "user:olga"
    assert keys.asked == 3, "it is asked again from the middle of its time on"


@pytest.mark.parametrize("is_away", [False, True])
async def test_a_key_that_is_taken_out_is_refused_within_the_time_that_is_set(keys: KeyServer, is_away: bool) -> None:
    gone, stays = generated(), generated()
    keys.holds(gone=gone, stays=stays)
    known, time = timed(keys.url, ttl=60.0)
    await known.authenticate(signed("gone", gone))
    keys.holds(stays=stays)
    keys.status = 500 if is_away else 200
    time.now += 60.1
    with pytest.raises(StoreUnavailable if is_away else NotAuthenticated):
        await known.authenticate(signed("gone", gone))
    keys.status = 200
    time.now += 1.1
    assert (await known.authenticate(signed("stays", stays))).subject == "user:olga"


async def test_a_second_rotation_is_found_as_soon_as_the_first(keys: KeyServer) -> None:
    first, second, third = generated(), generated(), generated()
    known, time = timed(keys.url, ttl=600.0)
    keys.holds(first=first)
    await known.authenticate(signed("first", first))
    for name, key in (("second", second), ("third", third)):
        keys.holds(**{name: key})
        time.now += jwks.AGAIN
        assert (await known.authenticate(signed(name, key))).subject == "user:olga"


# ---------------------------------------------------------------- a set that cannot be had


WRONG: dict[str, Callable[[KeyServer], None]] = {
    "an error": lambda server: setattr(server, "status", 500),
    "no JSON": lambda server: setattr(server, "body", b"<html>"),
    "no UTF-8": lambda server: setattr(server, "body", b"\xff\xfe{"),
    "a list": lambda server: setattr(server, "body", b"[]"),
    "keys of another kind": lambda server: setattr(server, "body", b'{"keys": {"a": 1}}'),
    "entries of another kind": lambda server: setattr(server, "body", b'{"keys": [1, null, [], {"kty": ["RSA"]}]}'),
    "a key without its numbers": lambda server: setattr(server, "body", b'{"keys": [{"kty": "RSA", "kid": "a"}]}'),
    "deep JSON": lambda server: setattr(server, "body", b"[" * 200_000),
    "too much": lambda server: setattr(server, "body", b" " * 50_000_000),
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_set_that_is_no_set_is_unavailable_and_no_error_of_ours(keys: KeyServer, name: str) -> None:
    WRONG[name](keys)
    with pytest.raises(StoreUnavailable, match="TURNKEEP_JWT_JWKS"):
        await tokens(keys.url).authenticate(signed("a", generated()))
    assert keys.sent < 20_000_000, "no more is read than the limit"


async def test_a_redirect_is_not_followed(keys: KeyServer) -> None:
    key = generated()
    keys.holds(a=key)
    keys.status, keys.headers = 302, {"Location": "/elsewhere"}
    with pytest.raises(StoreUnavailable):
        await tokens(keys.url).authenticate(signed("a", key))
    assert keys.asked_elsewhere == 0


async def test_a_server_that_hangs_holds_up_one_request_and_not_all(
    keys: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "PATIENCE", 0.3)
    monkeypatch.setattr(jwks, "AFTER_FAILURE", 60.0)
    keys.hang = True
    known, text = tokens(keys.url), signed("a", generated())
    outcomes = await asyncio.gather(*(known.authenticate(text) for _ in range(50)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
    assert keys.asked == 1


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits")
async def test_a_weak_key_or_one_of_another_kind_is_passed_over(keys: KeyServer) -> None:
    good, weak = generated(), rsa.generate_private_key(65537, 1024)
    other = {"kty": "oct", "k": "c2VjcmV0", "kid": "o"}
    keys.body = json.dumps({"keys": [other, entry("weak", weak), {"kid": ["x"]}, entry("good", good)]}).encode()
    known = tokens(keys.url)
    assert (await known.authenticate(signed("good", good))).subject == "user:olga"
    with pytest.raises(NotAuthenticated):
        await known.authenticate(signed("weak", weak))


async def test_every_door_says_that_it_cannot_know_and_to_come_back() -> None:
    url = f"http://127.0.0.1:{free_port()}/jwks.json"
    bearer = {"Authorization": f"Bearer {signed('a', generated())}"}
    async with served(role="gateway", auth="on", jwt_jwks=url) as server:
        async with server.http.get(f"{server.url}/api/queue", headers=bearer) as told:
            assert told.status == 503
            assert (await told.json())["error"]["code"] == "store_unavailable"
            assert int(told.headers["Retry-After"]) >= 1
        async with server.socket(additional_headers=bearer) as socket:
            with pytest.raises(ConnectionClosed):
                await ask(socket, {"action": "ping"})
            assert socket.close_code == 1012
