"""Who is sent away is gone everywhere: sockets, streams, sessions and tokens, in every process of a store."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed
from yarl import URL

from tests.patience import PATIENCE, until
from tests.process.callers import SECRET, token
from tests.process.served import Served, ask, heard, served
from turnkeep.auth.api_keys import ApiKeys
from turnkeep.auth.guard import Guard, access_of
from turnkeep.auth.principals import Credentials
from turnkeep.auth.revocations import FRESH, Revocations
from turnkeep.auth.signing import shared_secret
from turnkeep.auth.tickets import Tickets
from turnkeep.auth.tokens import OneKey, TokenRules, Tokens
from turnkeep.doors.http import event_stream, overview, turn_feed
from turnkeep.doors.http.openai import turn_reader
from turnkeep.errors import InvalidMessage, NotAuthenticated
from turnkeep.settings import Settings
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Claim
from turnkeep.testing.fake_clock import FakeClock


def bearer(**claims: Any) -> dict[str, str]:
    claims = {"sub": "mallory", "tenant": "acme", "scope": "send read", "iat": time.time() - 5, **claims}
    return {"Authorization": f"Bearer {token(**claims)}"}


ADMIN = {"sub": "olga", "scope": "admin"}


@contextlib.asynccontextmanager
async def gateways(store: str) -> AsyncIterator[tuple[Served, Served]]:
    """Two of them, that know of each other by their store alone."""
    values: dict[str, Any] = {"role": "gateway", "auth": "on", "jwt_secret": SECRET, "jwt_leeway": 0}
    async with served(store, **values) as first, served(store, **values) as second:
        yield first, second


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_server").url())
    return f"sqlite:{tmp_path / 'turnkeep.db'}"


async def closed(socket: ClientConnection) -> int | None:
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(ConnectionClosed):
            while True:
                await heard(socket)
    return socket.close_code


CHAT = {"id": "c", "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "hello"}]}]}
AGENT = {"threadId": "c", "messages": [{"id": "m", "role": "user", "content": "hello"}]}
COMPLETION = {"messages": [{"role": "user", "content": "hello"}]}
STREAMS: dict[str, tuple[str, str, dict[str, Any] | None]] = {
    "events": ("GET", "/api/channels/c/events", None),
    "a turn, for the AI SDK": ("POST", "/api/chat", CHAT),
    "a turn, for AG-UI": ("POST", "/api/agui", AGENT),
    "a completion": ("POST", "/v1/chat/completions", COMPLETION | {"stream": True}),
    "a response": ("POST", "/v1/responses", {"input": "hello", "stream": True}),
    "a run": ("POST", "/v1/threads/runs", {"thread": COMPLETION, "stream": True}),
    "an overview": ("GET", "/api/overview/events", None),
}
"""That go on for as long as nothing happens."""
WHOLE: dict[str, tuple[str, dict[str, Any]]] = {
    "a completion": ("/v1/chat/completions", COMPLETION),
    "a completion in a conversation": ("/v1/chat/completions", COMPLETION | {"metadata": {"channel": "c"}}),
    "a response": ("/v1/responses", {"input": "hello"}),
    "a response that is not kept": ("/v1/responses", {"input": "hello", "store": False}),
}
"""Answers that come at once, when all of it is there."""


@contextlib.asynccontextmanager
async def left_alone(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """A server that nobody answers at, and whose streams look at nothing by themselves, nor say anything."""
    for module, interval in (
        (event_stream, "HEARTBEAT"), (turn_feed, "HEARTBEAT"), (turn_reader, "LOOK_AGAIN"), (overview, "EVERY"),
    ):  # fmt: skip
        monkeypatch.setattr(module, interval, 3_600.0)
    async with served(role="gateway", auth="on", jwt_secret=SECRET, jwt_leeway=0) as server:
        yield server


async def asked(server: Served, body: dict[str, Any] | None) -> dict[str, Any] | None:
    """With the name of who is to answer."""
    assistant = await server.queue.assistants.default("default")
    assert assistant is not None
    return body and {**body, "model": assistant.assistant_id, "assistant_id": assistant.assistant_id}


async def send_away(server: Served) -> None:
    url = f"{server.url}/api/users/mallory/disconnect"
    async with server.http.post(url, headers=bearer(**ADMIN, tenant="default")) as told:
        assert told.status == 200


OF_THE_HOUSE = {"tenant": "default", "scope": "send read admin"}


@pytest.mark.parametrize("which", STREAMS)
async def test_a_silent_stream_ends_with_its_user(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, path, body = STREAMS[which]
    async with left_alone(monkeypatch) as server:
        body = await asked(server, body) if path.startswith("/v1/") else body
        async with server.http.request(method, server.url + path, json=body, headers=bearer(**OF_THE_HOUSE)) as stream:
            assert stream.status == 200
            await send_away(server)
            assert b"sign in" in (await rest_of(stream)).lower()


@pytest.mark.parametrize("which", WHOLE)
async def test_an_answer_that_is_waited_for_ends_with_its_user(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, body = WHOLE[which]
    async with left_alone(monkeypatch) as server, asyncio.TaskGroup() as group:
        waiting = group.create_task(whole(server, path, await asked(server, body)))
        await until(lambda: is_taken_in(server))
        await send_away(server)
        assert await waiting == UNKNOWN


async def test_a_stop_that_is_waited_for_ends_with_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run that it stops is of a worker who hears nothing of it."""
    async with left_alone(monkeypatch) as server, asyncio.TaskGroup() as group:
        body = await asked(server, {"input": "hello", "background": True})
        async with server.http.post(f"{server.url}/v1/responses", json=body, headers=bearer(**OF_THE_HOUSE)) as told:
            response_id = (await told.json())["id"]
        store, claims = server.queue.store, list[Claim]()

        async def is_claimed() -> bool:
            claims.extend(await store.claim(owner="deaf", limit=1, lease=3_600.0))
            return bool(claims)

        async def is_stopped() -> bool:
            directives = await store.renew("deaf", claims, lease=3_600.0)
            return all(one.stop for one in directives.values())

        await until(is_claimed)
        waiting = group.create_task(whole(server, f"/v1/responses/{response_id}/cancel", None))
        await until(is_stopped)
        await send_away(server)
        assert await waiting == UNKNOWN


UNKNOWN = (401, 'Bearer realm="turnkeep"', "not_authenticated")


async def whole(server: Served, path: str, body: dict[str, Any] | None) -> tuple[int, str | None, str]:
    """Status, what to show instead, and code of a refusal."""
    async with server.http.post(server.url + path, json=body, headers=bearer(**OF_THE_HOUSE)) as answer:
        error = json.loads(await rest_of(answer))["error"]
        return answer.status, answer.headers.get("WWW-Authenticate"), error["code"]


async def is_taken_in(server: Served) -> bool:
    """Whether there is a message that waits for its answer."""
    counts = await server.queue.store.counts(tenant="default", queue=server.queue.name)
    return counts.open_messages > 0


async def rest_of(stream: aiohttp.ClientResponse) -> bytes:
    async with asyncio.timeout(PATIENCE):
        return await stream.content.read()


async def test_everything_of_a_user_ends_in_every_process_and_of_others_nothing(store: str) -> None:
    async with gateways(store) as (first, second), contextlib.AsyncExitStack() as stack:
        sockets, streams, sessions = [], [], []
        for server in (first, second):
            sockets.append(await stack.enter_async_context(server.socket(additional_headers=bearer())))
            url = f"{server.url}/api/channels/c/events"
            streams.append(await stack.enter_async_context(server.http.get(url, headers=bearer())))
            async with server.http.post(f"{server.url}/api/session", headers=bearer()) as told:
                sessions.append({"Cookie": f"turnkeep_session={told.cookies['turnkeep_session'].value}"})
            server.http.cookie_jar.clear()
        for socket in sockets:
            assert (await ask(socket, {"action": "subscribe", "channel": "c"}))["status"] == "subscribed"
        others = await stack.enter_async_context(second.socket(additional_headers=bearer(sub="tim")))
        rival = await stack.enter_async_context(second.socket(additional_headers=bearer(tenant="rival")))

        url = f"{first.url}/api/users/mallory/disconnect"
        async with first.http.post(url, headers=bearer()) as told:
            assert told.status == 403, "he does not send anybody away himself"
        async with first.http.post(url, headers=bearer(**ADMIN)) as told:
            assert (told.status, (await told.json())["user"]) == (200, "mallory")

        assert [await closed(socket) for socket in sockets] == [4401, 4401]
        for stream in streams:
            assert b"not_authenticated" in await rest_of(stream)
        for server, session in zip((first, second), sessions, strict=True):
            for headers in (session, bearer(), bearer(iat=None)):
                async with server.http.get(f"{server.url}/api/session", headers=headers) as told:
                    assert told.status == 401
            async with server.http.get(f"{server.url}/api/session", headers=bearer(iat=time.time())) as told:
                assert told.status == 200, "what is issued to him afterwards counts"
        for socket in (others, rival):
            assert (await ask(socket, {"action": "ping"}))["status"] == "pong"


@pytest.mark.parametrize("ahead", [0, 1, 20, 29])
async def test_a_token_of_a_clock_that_is_ahead_does_not_outlive_its_user(ahead: float) -> None:
    """Nor the socket that it has opened; what is issued when no clock can be so far ahead counts."""
    async with served(role="gateway", auth="on", jwt_secret=SECRET, jwt_leeway=30) as server:
        issued_at = time.time() + ahead
        ours = bearer(iat=issued_at)
        async with server.socket(additional_headers=ours) as socket:
            assert (await ask(socket, {"action": "ping"}))["status"] == "pong"
            url = f"{server.url}/api/users/mallory/disconnect"
            async with server.http.post(url, headers=bearer(**ADMIN)) as told:
                moment = (await told.json())["before"]
            assert await closed(socket) == 4401
        async with server.http.get(f"{server.url}/api/session", headers=ours) as told:
            assert told.status == 401
    tokens = Tokens(OneKey(shared_secret(SECRET)), TokenRules("turnkeep", leeway=30))
    issued = await tokens.authenticate(token(iat=issued_at))
    assert issued.since is not None
    assert issued.since < moment


async def test_a_token_that_lies_further_ahead_than_clocks_may_is_refused() -> None:
    async with served(role="gateway", auth="on", jwt_secret=SECRET, jwt_leeway=30) as server:
        for ahead, status in ((20, 200), (300, 401), (1e6, 401)):
            headers = bearer(iat=time.time() + ahead, exp=time.time() + 1e7)
            async with server.http.get(f"{server.url}/api/session", headers=headers) as told:
                assert told.status == status, ahead


@pytest.mark.parametrize("user", ["auth0|7f/3", "mallory@example.com", "ann bob", "a%2Fb", "ü", "..", "*"])
async def test_a_user_may_be_called_anything(user: str) -> None:
    async with served(role="gateway", auth="on", jwt_secret=SECRET) as server:
        name = quote(user, safe="").replace(".", "%2E")
        url = f"{server.url}/api/users/{name}/disconnect"
        async with server.http.post(URL(url, encoded=True), headers=bearer(**ADMIN)) as told:
            assert (told.status, (await told.json())["user"]) == (200, user)
        async with server.http.get(f"{server.url}/api/session", headers=bearer(sub=user)) as told:
            assert told.status == 401
        async with server.http.get(f"{server.url}/api/session", headers=bearer(sub="tim")) as told:
            assert told.status == 200


async def test_what_was_issued_before_a_moment_is_refused_and_a_moment_never_goes_back() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    guard = Guard(ApiKeys(store, clock), Tickets(store, clock), clock=clock)
    value, _ = await guard.keys.create()
    principal = await guard.authenticate(Credentials(bearer=value))
    begun = clock.now()
    clock.advance(100)
    for before, ends in ((begun, False), (begun + 50, True), (begun - 50, True), (None, True)):
        await Revocations(store, clock).revoke("default", principal.subject, before)
        clock.advance(FRESH)
        if ends:
            with pytest.raises(NotAuthenticated, match="sign in again"):
                await guard.revalidate(principal)
        else:
            await guard.revalidate(principal)
    await guard.authenticate(Credentials(bearer=value))
    for wrong in (clock.now() + 60, 9e9, float("inf")):
        with pytest.raises(InvalidMessage):
            await Revocations(store, clock).revoke("default", "x", wrong)


async def test_it_is_asked_for_at_most_twice_a_second() -> None:
    class Counted(MemoryStore):
        looks = 0

        async def get(self, kind: Any, tenant: str, name: str) -> Any:
            self.looks += kind == "setting"
            return await super().get(kind, tenant, name)

    store = Counted()
    guard = await access_of(Settings.load(jwt_secret=SECRET), store)
    value = token()
    begun_at = time.monotonic()
    await asyncio.gather(*(guard.authenticate(Credentials(bearer=value)) for _ in range(200)))
    assert store.looks <= 3 + 2 * (time.monotonic() - begun_at)
