"""Every limit of a door: what is just allowed, and what is just too much."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import websockets

from tests.patience import PATIENCE
from tests.process.callers import CHANNEL, Guarded, guarded, token
from tests.process.served import Served, ask, served
from turnkeep.auth import limits
from turnkeep.auth.limits import Limits
from turnkeep.auth.principals import Principal
from turnkeep.doors import http_transport, socket_transport
from turnkeep.doors.http import endpoint as http
from turnkeep.doors.http.routes import ENDPOINTS
from turnkeep.doors.socket import sockets
from turnkeep.doors.socket.socket_actions import ACTIONS
from turnkeep.errors import TooManyRequests
from turnkeep.messages import Address, Message, text_content
from turnkeep.settings import Settings
from turnkeep.testing.fake_clock import FakeClock

UNFINISHED = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"
STILL: dict[str, Any] = {"role": "gateway", "window": 600.0, "max_wait": 3600.0}


async def post(
    server: Served, channel: str, text: str, message_id: str, *, user: str | None = None, **headers: str
) -> tuple[int, Any, Any]:
    url = f"{server.url}/api/channels/{channel}/messages"
    body = {"message": text, "message_id": message_id, "metadata": {"user": user} if user else {}}
    async with server.http.post(url, json=body, headers=headers) as told:
        return told.status, await told.json(), told.headers


async def send(socket: Any, channel: str, text: str, message_id: str, **more: Any) -> dict[str, Any]:
    return await ask(socket, {"channel": channel, "message": text, "message_id": message_id, **more})


def text_message(text: str) -> Message:
    return Message(Address("default", "assistant", "c"), "m", text_content(text))


async def test_a_message_of_the_limit_is_taken_and_one_byte_more_is_413() -> None:
    async with served(**STILL, max_message_bytes=1000) as server, server.socket() as socket:
        whole = "x" * (1000 - text_message("").size)
        assert (await post(server, "a", whole, "m1"))[0] == 202
        status, body, _ = await post(server, "b", whole + "x", "m1")
        assert (status, body["error"]["code"]) == (413, "message_too_large")
        assert (await send(socket, "c", whole, "m1"))["status"] == "accepted"
        assert (await send(socket, "d", whole + "x", "m1"))["code"] == "message_too_large"


async def test_a_frame_of_the_limit_is_taken_and_one_byte_more_is_told() -> None:
    async with served(**STILL, max_frame_bytes=500) as server, server.socket() as socket:
        for extra, code in ((0, None), (1, "message_too_large")):
            frame = json.dumps({"action": "ping", "pad": ""})
            padded = frame[:-2] + "x" * (500 - len(frame) + extra) + frame[-2:]
            assert len(padded) == 500 + extra
            assert (await ask(socket, padded)).get("code") == code
            url = f"{server.url}/api/channels/c/cancel"
            async with server.http.post(url, data=padded) as told:
                assert told.status == (200 if code is None else 413)


@pytest.mark.parametrize(
    ("setting", "others"),
    [("channel_rate", ["other-channel"]), ("user_rate", []), ("tenant_rate", [])],
)
async def test_a_rate_is_told_with_the_time_to_wait(setting: str, others: list[str]) -> None:
    async with served(**{**STILL, setting: "3/600"}) as server, server.socket() as socket:
        for number in range(3):
            assert (await post(server, "c", "hello", f"m{number}", user="olga"))[0] == 202
        status, body, headers = await post(server, "c", "hello", "m4", user="olga")
        assert (status, body["error"]["code"], body["error"]["retryable"]) == (429, "too_many_requests", True)
        assert 1 <= int(headers["Retry-After"]) <= 200
        frame = await send(socket, "c", "hello", "m5", metadata={"user": "olga"})
        assert (frame["type"], frame["code"]) == ("error", "too_many_requests")
        assert 0 < frame["retry_after"] <= 200
        for channel in others:
            assert (await post(server, channel, "hello", "m6"))[0] == 202
        assert (await server.queue.store.counts()).open_messages == 3 + len(others)


def test_rates_are_of_a_channel_a_user_and_a_tenant() -> None:
    clock = FakeClock()
    these = Limits(Settings.load(channel_rate="1/10", user_rate="2/10", tenant_rate="3/10"), clock)
    olga, bob = Principal("acme", "olga"), Principal("acme", "bob")

    def taken(principal: Principal, channel: str) -> bool:
        try:
            these.check_rate(principal, Address(principal.tenant, "assistant", channel))
        except TooManyRequests as refused:
            return not refused.retry_after
        return True

    assert taken(olga, "a")
    assert not taken(bob, "a"), "the channel has had its message"
    assert taken(olga, "b")
    assert not taken(olga, "c"), "the user has had two"
    clock.advance(10)
    assert [taken(olga, "d"), taken(olga, "e"), taken(bob, "f")] == [True, True, True]
    assert not taken(bob, "g"), "the tenant has had three"
    assert taken(Principal("rival", "olga"), "g")


def test_a_program_that_speaks_for_many_has_no_rate_of_one() -> None:
    """A backend's key and an open server: whoever is named has his rate, the others that of channel and tenant."""
    these = Limits(Settings.load(channel_rate="5/600", user_rate="2/600", tenant_rate="50/600"), FakeClock())
    backend = Principal("acme", "backend", key="k1")
    for number in range(20):
        these.check_rate(backend, Address("acme", "assistant", f"c{number}"))
    anybody = Principal("home")
    for user in ("olga", "bob"):
        for number in range(2):
            these.check_rate(anybody, Address("home", "assistant", f"{user}-{number}"), user)
        with pytest.raises(TooManyRequests, match="this user"):
            these.check_rate(anybody, Address("home", "assistant", f"{user}-3"), user)
    for _ in range(5):
        these.check_rate(anybody, Address("home", "assistant", "shared"))
    with pytest.raises(TooManyRequests, match="this channel"):
        these.check_rate(anybody, Address("home", "assistant", "shared"))


async def test_a_repeat_has_its_receipt_whatever_the_rate_and_costs_none() -> None:
    async with served(**{**STILL, "channel_rate": "2/600"}) as server, server.socket() as socket:
        _, first, _ = await post(server, "c", "hello", "m0")
        for _ in range(5):
            status, again, _ = await post(server, "c", "hello", "m0")
            assert (status, again["thread_id"], again["position"]) == (200, first["thread_id"], first["position"])
        assert (await post(server, "c", "hello", "m1"))[0] == 202, "repeats took nothing of the rate"
        assert (await post(server, "c", "hello", "m2"))[0] == 429
        assert (await post(server, "c", "hello", "m1"))[0] == 200
        assert (await send(socket, "c", "hello", "m1"))["status"] == "accepted"
        assert (await send(socket, "c", "hello", "m2"))["code"] == "too_many_requests"


async def test_every_route_and_action_has_a_rate() -> None:
    """`request_rate` of a credential: everything but messages, which have their own."""
    async with guarded(request_rate="1/600") as house:
        bearer = {"Authorization": f"Bearer {token()}"}
        socket = await house.server.socket(additional_headers=bearer)
        async with house.server.http.get(f"{house.server.url}/api/queue", headers=bearer) as told:
            assert told.status == 200
        for endpoint in ENDPOINTS:
            path = re.sub(r"\{(\w+)(?::path)?\}", "x", endpoint.path)
            async with house.server.http.request(endpoint.method, house.server.url + path, headers=bearer) as told:
                if endpoint.is_metered and not endpoint.public:
                    assert told.status == 429, endpoint
        for action in set(ACTIONS) - {"message"}:
            frame = await ask(socket, {"action": action, "channel": CHANNEL})
            assert frame["code"] == "too_many_requests", action
        other = {"Authorization": f"Bearer {token(sub='bob')}"}
        async with house.server.http.get(f"{house.server.url}/api/queue", headers=other) as told:
            assert told.status == 200
        await socket.close()


SENDERS: dict[str, Any] = {
    f"/api/channels/{CHANNEL}/messages": {"message": "hello"},
    "/api/chat": {"id": CHANNEL, "messages": [{"id": "m", "role": "user", "parts": [{"type": "text", "text": "hi"}]}]},
    "/api/agui": {
        "threadId": CHANNEL, "runId": "r", "messages": [{"id": "m", "role": "user", "content": "hi"}], "tools": [],
        "context": [], "state": {}, "forwardedProps": {},
    },
    "/v1/chat/completions": {"model": "", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/responses": {"model": "", "input": "hi"},
    "/v1/conversations/{conversation}/items": {"items": [{"type": "message", "role": "user", "content": "hi"}]},
    "/v1/threads/runs": {"assistant_id": "", "thread": {"messages": [{"role": "user", "content": "hi"}]}},
    "/v1/threads/{thread}/messages": {"role": "user", "content": "hi"},
    "/v1/threads/{thread}/runs": {
        "assistant_id": "", "additional_messages": [{"role": "user", "content": "hi"}],
    },
}  # fmt: skip
"""Bodies for the routes that take messages in, whatever dialect they speak."""


async def test_whoever_sends_through_any_dialect_has_one_rate_of_messages() -> None:
    assert {re.sub(r"\{\w+\}", "x", path) for path in SENDERS} == {
        re.sub(r"\{\w+\}", "x", endpoint.path).replace("/channels/x/", f"/channels/{CHANNEL}/")
        for endpoint in ENDPOINTS
        if not endpoint.is_metered
    }
    async with guarded(user_rate="1/600", channel_rate="0") as house:
        bearer = {"Authorization": f"Bearer {token()}"}
        async with house.server.http.get(f"{house.server.url}/v1/models", headers=bearer) as told:
            assistant = (await told.json())["data"][0]["id"]
        async with house.server.http.post(f"{house.server.url}/v1/threads", json={}, headers=bearer) as told:
            thread = (await told.json())["id"]
        async with house.server.http.post(f"{house.server.url}/v1/conversations", json={}, headers=bearer) as told:
            conversation = (await told.json())["id"]
        statuses = []
        for path, body in SENDERS.items():
            words = {name: assistant if name in ("model", "assistant_id") else value for name, value in body.items()}
            url = house.server.url + path.format(thread=thread, conversation=conversation)
            async with house.server.http.post(url, json=words, headers=bearer) as told:
                statuses.append((path, told.status))
        assert [status for _, status in statuses] == [202] + [429] * (len(SENDERS) - 1), statuses


async def test_a_tenant_has_a_rate_of_requests_over_all_of_its_credentials() -> None:
    async with guarded(tenant_request_rate="2/600") as house:
        statuses = []
        for user in ("olga", "bob", "eve"):
            bearer = {"Authorization": f"Bearer {token(sub=user)}"}
            async with house.server.http.get(f"{house.server.url}/api/queue", headers=bearer) as told:
                statuses.append(told.status)
        assert statuses == [200, 200, 429]


async def test_a_tenant_has_so_many_threads_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOOK_SOON", 0.0)
    async with served(**STILL, max_threads=2) as server, server.socket() as socket:
        for channel in ("a", "b"):
            assert (await post(server, channel, "hello", "m"))[0] == 202
        status, body, _ = await post(server, "c", "hello", "m")
        assert (status, body["error"]["code"]) == (429, "too_many_requests")
        assert "TURNKEEP_MAX_THREADS" in body["error"]["message"]
        assert (await send(socket, "c", "hello", "m"))["code"] == "too_many_requests"
        async with server.http.post(f"{server.url}/api/threads") as told:
            assert told.status == 429
        assert (await post(server, "a", "hello", "m2"))[0] == 202, "what is there goes on"
        async with server.http.delete(f"{server.url}/api/channels/b?force=true") as told:
            assert told.status == 204
        assert (await post(server, "c", "hello", "m"))[0] == 202


def test_what_is_owed_is_waited_for_and_forgotten_in_time() -> None:
    clock = FakeClock()
    errors = limits.Rate(2, 1.0, clock)
    assert [errors.owe("olga") for _ in range(4)] == [0.0, 0.0, 0.5, 1.0]
    assert errors.owe("bob") == 0.0
    assert max(errors.owe("olga") for _ in range(100)) == limits.LONGEST_REFUSAL
    clock.advance(10)
    assert errors.owe("olga") == 0.0
    assert limits.Rate(0, 1.0, clock).owe("olga") == 0.0


async def test_whoever_errs_is_told_more_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """`error_rate`, over HTTP, before the upgrade and on a socket; what is right comes at once."""
    waits: list[float] = []

    async def noted(self: Limits, who: object, lost: asyncio.Event | None = None) -> None:
        waits.append(self._errors.owe(who))

    async with guarded(error_rate="1/600") as house:
        bearer = {"Authorization": f"Bearer {token()}"}
        socket = await house.server.socket(additional_headers=bearer)
        monkeypatch.setattr(Limits, "hold_back", noted)
        for _ in range(2):
            async with house.server.http.get(f"{house.server.url}/api/queue") as told:
                assert told.status == 401
        with pytest.raises(websockets.exceptions.InvalidStatus):
            await house.server.socket()
        for _ in range(2):
            assert (await ask(socket, "{"))["type"] == "error"
        async with house.server.http.get(f"{house.server.url}/api/queue", headers=bearer) as told:
            assert told.status == 200
        await socket.close()
    assert waits == [0.0, 5.0, 5.0, 0.0, 5.0]


async def test_nobody_waits_to_refuse_somebody_who_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is dropped while he waits for a refusal comes back: what was done for him must not pile up."""
    monkeypatch.setattr(limits, "LONGEST_REFUSAL", 3600.0)
    kept = limits.Limits(Settings.load(error_rate="1/3600"))
    await kept.hold_back("eve")
    lost = asyncio.Event()
    waiting = asyncio.create_task(kept.hold_back("eve", lost))
    await asyncio.sleep(0)
    assert not waiting.done()
    lost.set()
    async with asyncio.timeout(PATIENCE):
        await waiting


async def test_a_socket_has_so_many_channels_and_no_more() -> None:
    async with served(**STILL, channels_per_socket=2) as server, server.socket() as socket:
        for channel in ("a", "b", "b"):
            assert (await ask(socket, {"action": "subscribe", "channel": channel}))["status"] == "subscribed"
        assert (await ask(socket, {"action": "subscribe", "channel": "c"}))["code"] == "too_many_requests"
        await ask(socket, {"action": "unsubscribe", "channel": "a"})
        assert (await ask(socket, {"action": "subscribe", "channel": "c"}))["status"] == "subscribed"


async def test_a_user_has_so_many_sockets_and_others_have_theirs() -> None:
    async with guarded(sockets_per_user=2) as house, contextlib.AsyncExitStack() as stack:

        async def opened(user: str) -> Any:
            bearer = {"Authorization": f"Bearer {token(sub=user)}"}
            return await stack.enter_async_context(house.server.socket(additional_headers=bearer))

        first, second = await opened("olga"), await opened("olga")
        for socket in (first, second):
            assert (await ask(socket, {"action": "ping"}))["status"] == "pong"
        third = await opened("olga")
        async with asyncio.timeout(PATIENCE):
            await third.wait_closed()
        assert third.close_code == 4408
        assert (await ask(await opened("bob"), {"action": "ping"}))["status"] == "pong"


async def test_streams_of_events_count_among_the_sockets_of_a_credential() -> None:
    async with guarded(sockets_per_user=2) as house, contextlib.AsyncExitStack() as stack:
        bearer = {"Authorization": f"Bearer {token()}"}
        url = f"{house.server.url}/api/channels/own-1/events"
        socket = await stack.enter_async_context(house.server.socket(additional_headers=bearer))
        assert (await ask(socket, {"action": "ping"}))["status"] == "pong"
        stream = await stack.enter_async_context(house.server.http.get(url, headers=bearer))
        assert (await stream.content.readline()).startswith(b"retry")
        async with house.server.http.get(url, headers=bearer) as told:
            assert (told.status, (await told.json())["error"]["code"]) == (429, "too_many_requests")
        stream.close()
        async with asyncio.timeout(PATIENCE):
            while (again := await house.server.http.get(url, headers=bearer)).status == 429:
                again.close()
        again.close()
        assert again.status == 200, "it gives back its place"


ADDRESSES = ("127.0.0.1", "127.0.0.2")


async def test_where_nobody_is_asked_each_address_has_so_many_sockets_and_streams() -> None:
    async with served(**STILL, sockets_per_user=2) as server, contextlib.AsyncExitStack() as stack:

        async def socket_of(address: str) -> Any:
            return await stack.enter_async_context(server.socket(local_addr=(address, 0)))

        async def stream_of(address: str) -> int:
            connector = aiohttp.TCPConnector(local_addr=(address, 0))
            http = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
            url = f"{server.url}/api/channels/c/events"
            return (await stack.enter_async_context(http.get(url))).status

        many, other = ADDRESSES
        assert (await ask(await socket_of(many), {"action": "ping"}))["status"] == "pong"
        assert [await stream_of(many), await stream_of(many)] == [200, 429]
        third = await socket_of(many)
        async with asyncio.timeout(PATIENCE):
            await third.wait_closed()
        assert third.close_code == 4408
        assert (await ask(await socket_of(other), {"action": "ping"}))["status"] == "pong"
        assert await stream_of(other) == 200


async def test_where_nobody_is_asked_behind_a_proxy_each_address_that_it_names_has_its_places() -> None:
    async with served(**STILL, sockets_per_user=1, auth="off", insecure_no_auth=True) as server:
        async with contextlib.AsyncExitStack() as stack:
            statuses = []
            for whom in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
                url, said = f"{server.url}/api/channels/c/events", {"X-Forwarded-For": whom}
                statuses.append((await stack.enter_async_context(server.http.get(url, headers=said))).status)
        assert statuses == [200, 429, 200]


async def test_where_nobody_is_asked_each_address_has_so_many_unfinished_bodies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "SOON", 0.05)
    async with served(**STILL, bodies_per_user=2) as server, asyncio.timeout(PATIENCE):
        first, second = ADDRESSES
        half = b'POST /api/channels/c/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{"message":'
        connections = []
        for address in (first, first, second, first):
            port = urlsplit(server.url).port
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
            writer.write(half)
            connections.append((address, reader, writer))
        waiting = {asyncio.ensure_future(reader.readline()): address for address, reader, _ in connections}
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        [told] = done
        assert (told.result()[:12], waiting[told]) == (b"HTTP/1.1 429", first)
        for _, _, writer in connections:
            writer.close()


async def test_an_address_has_so_many_sockets_without_a_credential_and_others_have_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sockets, "WAITING_OF_ONE", 2)
    monkeypatch.setattr(sockets, "FIRST_FRAME", 20.0)
    async with guarded(first_frame_auth=True) as house, contextlib.AsyncExitStack() as stack:
        first, second = ADDRESSES
        opened = [
            await stack.enter_async_context(house.server.socket(local_addr=(address, 0)))
            for address in (first, first, second, first)
        ]
        async with asyncio.timeout(PATIENCE):
            await opened[3].wait_closed()
        assert opened[3].close_code == 4408
        for socket in opened[:3]:
            await socket.send(json.dumps({"action": "auth", "token": token()}))
            assert (await ask(socket, {"action": "ping"}))["status"] == "pong"


def posting(house: Guarded, user: str) -> bytes:
    """A request whose body does not come to its end."""
    bearer = f"Authorization: Bearer {token(sub=user)}"
    head = ["POST /api/channels/c/messages HTTP/1.1", "Host: localhost", bearer, "Content-Length: 1000"]
    return "\r\n".join(head).encode() + b'\r\n\r\n{"message": '


async def test_a_user_has_so_many_unfinished_bodies_and_others_have_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SOON", 0.05)
    async with guarded(bodies_per_user=2) as house, asyncio.timeout(PATIENCE):
        port = urlsplit(house.server.url).port
        olga: list[Any] = []
        bob: list[Any] = []
        for user, own in (("olga", olga), ("olga", olga), ("bob", bob), ("olga", olga)):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(posting(house, user))
            own.append((reader, writer))
        done, _ = await asyncio.wait(
            [asyncio.ensure_future(reader.readline()) for reader, _ in (*olga, *bob)],
            return_when=asyncio.FIRST_COMPLETED,
        )
        [told] = done
        assert told.result().startswith(b"HTTP/1.1 429")
        for _, writer in (*olga, *bob):
            writer.close()


async def test_whoever_asks_finds_room_however_many_ask_for_nothing() -> None:
    async with served(**STILL, max_connections=20) as server, contextlib.AsyncExitStack() as stack:
        socket = await stack.enter_async_context(server.socket())
        port = urlsplit(server.url).port
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        for number in range(5):
            assert (await post(server, "c", "hello", f"m{number}"))[0] == 202
        assert (await ask(socket, {"action": "ping"}))["status"] == "pong", "whoever was at work stays"
        async with asyncio.timeout(PATIENCE):
            assert await idle[0][0].read() == b"", "whoever has waited longest goes"
        for _, writer in idle:
            writer.close()


@contextlib.asynccontextmanager
async def filled(**settings: Any) -> AsyncIterator[tuple[Served, list[Any]]]:
    """A server whose two places are taken by streams of events, for which something is done."""
    async with served(**STILL, max_connections=2, **settings) as server, asyncio.timeout(PATIENCE):
        streams = [await opened(server, EVENTS) for _ in range(2)]
        for reader, _ in streams:
            await reader.readuntil(b"retry")
        yield server, streams
        for _, writer in streams:
            writer.close()


async def opened(server: Served, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)
    writer.write(data)
    return reader, writer


EVENTS = b"GET /api/channels/c/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def test_whoever_finds_no_room_waits_and_is_answered_when_there_is() -> None:
    async with filled() as (server, streams):
        reader, writer = await opened(server, HEALTH)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read(1)
        streams[0][1].close()
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (HEALTH, b"HTTP/1.1 503"),
        (HEALTH + b"x" * 70_000, b"HTTP/1.1 503"),
        (b"x" * 70_000, b"HTTP/1.1 414"),
        (b"", b""),
    ],
)
async def test_whoever_waits_for_room_too_long_or_says_too_much_meanwhile_is_told(
    sent: bytes, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_transport, "HEAD_TIMEOUT", 0.2)
    async with filled() as (server, _):
        reader, writer = await opened(server, sent)
        heard = b""
        with contextlib.suppress(ConnectionError):  # what it said was not read to the end
            while data := await reader.read(1_000):
                heard += data
        assert heard.startswith(said)
        writer.close()


async def test_those_whom_a_trusted_proxy_names_make_room_each_for_himself() -> None:
    def asking(whom: str) -> bytes:
        return HEALTH.replace(b"\r\n\r\n", f"\r\nX-Forwarded-For: {whom}\r\n\r\n".encode())

    async with served(**STILL, max_connections=10) as server, asyncio.timeout(PATIENCE):
        alone = await opened(server, asking("192.0.2.1"))
        await alone[0].readuntil(b"ok")
        many = [await opened(server, asking("192.0.2.2")) for _ in range(40)]
        for reader, _ in many[-5:]:
            await reader.readuntil(b"ok")
        alone[1].write(asking("192.0.2.1"))
        await alone[0].readuntil(b"ok")
        assert await many[0][0].readuntil(b"ok")
        assert await many[0][0].read() == b"", "of the many the one that has waited longest goes"
        for _, writer in (alone, *many):
            writer.close()


@pytest.mark.parametrize(
    ("name", "sent", "said"),
    [
        ("HEAD_TIMEOUT", b"", b""),
        ("HEAD_TIMEOUT", b"GET /healthz HTTP/1.1\r\nHost: loc", b"HTTP/1.1 408"),
        ("BODY_TIMEOUT", UNFINISHED.replace(b"GET /healthz", b"POST /api/threads"), b"HTTP/1.1 408"),
        ("LINGER", UNFINISHED, b"HTTP/1.1 200"),
    ],
)  # fmt: skip
async def test_a_request_arrives_in_time_or_is_given_up(
    name: str, sent: bytes, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_transport, name, 0.1)
    async with served(**STILL) as server, asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)
        writer.write(sent)
        heard = await reader.read()
        writer.close()
        assert heard.startswith(said)


async def test_a_message_on_a_socket_arrives_in_time_or_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_transport, "FRAME_TIMEOUT", 0.1)
    async with served(**STILL) as server, server.socket() as socket, asyncio.timeout(PATIENCE):
        assert (await ask(socket, {"action": "ping"}))["status"] == "pong"
        socket.transport.write(b"\x81\xff" + (1_000).to_bytes(8, "big") + b"\0\0\0\0half")
        await socket.wait_closed()
        assert socket.close_code == 1008


async def test_a_channel_has_so_many_waiting_and_no_more() -> None:
    async with served(**STILL, max_inbox=2, max_batch=64) as server, server.socket() as socket:
        for number in range(2):
            assert (await post(server, "c", "hello", f"m{number}"))[0] == 202
        status, body, headers = await post(server, "c", "hello", "m3")
        assert (status, body["error"]["code"]) == (429, "inbox_full")
        assert int(headers["Retry-After"]) >= 1
        assert (await send(socket, "c", "hello", "m3"))["code"] == "inbox_full"
        assert (await post(server, "c", "hello", "m1"))[0] == 200, "a repeat is no further message"
        assert (await post(server, "d", "hello", "m1"))[0] == 202


async def test_a_store_that_is_away_is_503_with_a_time_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from turnkeep.errors import StoreUnavailable

    async with served(**STILL) as server:

        async def away(*_: object, **__: object) -> Any:
            raise StoreUnavailable("the store at 10.0.0.1 is away")

        monkeypatch.setattr(server.queue, "accept", away)
        status, body, headers = await post(server, "c", "hello", "m")
        assert (status, body["error"]["code"]) == (503, "store_unavailable")
        assert "10.0.0.1" not in json.dumps(body)
        assert int(headers["Retry-After"]) >= 1


async def test_the_rate_of_a_user_counts_over_all_of_his_doors() -> None:
    async with guarded(user_rate="2/600", max_wait=3600.0) as house:
        headers = house.headers("owner")
        async with house.server.socket(additional_headers=headers) as socket:
            assert (await post(house.server, "x", "hello", "m1", **headers))[0] == 202
            assert (await send(socket, "y", "hello", "m2"))["status"] == "accepted"
            assert (await send(socket, "z", "hello", "m3"))["code"] == "too_many_requests"
        assert (await post(house.server, "x", "hello", "m4", **house.headers("other tenant")))[0] == 202
