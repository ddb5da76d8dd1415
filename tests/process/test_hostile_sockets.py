"""Whoever comes to the socket with garbage, and whoever floods: everybody else is served as before."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.websockets import WebSocketState
from websockets.exceptions import ConnectionClosed

from tests.patience import PATIENCE
from tests.process.served import ask, frames_until_final, served
from turnkeep.auth.tokens import tokens_of
from turnkeep.doors.error_answers import status_of
from turnkeep.doors.socket import session, socket_watch
from turnkeep.doors.socket.session import Socket
from turnkeep.doors.socket.sockets import shown_in
from turnkeep.doors.socket.writers import CLOSE_ABOVE, Payload, PeerWriter
from turnkeep.errors import ConfigurationError, NotAuthenticated, StoreUnavailable, TurnkeepError
from turnkeep.events import Event
from turnkeep.inputs import read_channel, read_json, read_message
from turnkeep.messages import Address, Message, text_content
from turnkeep.setting_checks import parse_rate
from turnkeep.settings import Settings
from turnkeep.subscription import SubscriptionStart
from turnkeep.wire import Encoder, Frame


@pytest.mark.prove
async def test_a_flood_of_one_tenant_makes_others_wait_no_longer(
    size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    """Counted in claims: how many others are claimed before the last message of a small tenant."""
    flood, tenants, each = size(1_000, 5_000), 20, 5
    async with served(role="gateway", window=0.0, max_wait=0.0) as server:
        queue = server.queue
        small = [f"small-{n}" for n in range(tenants)]
        for tenant, count in (("flood", flood), *((name, each) for name in small)):
            await queue.accept(
                [Message(Address(tenant, queue.name, f"c{n}"), "m", text_content("hello")) for n in range(count)]
            )
        order: list[str] = []
        while sum(tenant != "flood" for tenant in order) < tenants * each:
            claims = await queue.store.claim(owner="tests", limit=1, lease=600.0, queues=(queue.name,))
            order += [claim.address.tenant for claim in claims]
            assert claims
    ahead = order.count("flood")
    proof("fairness", f"flood {flood} | small {tenants} x {each} | of the flood before the last small one {ahead}")
    assert ahead <= each + 1, "each tenant has its turn once in a round"


@pytest.mark.prove
async def test_who_never_reads_is_closed_and_others_are_served(
    proof: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It asks for much more than fits between two machines; what waits for it is bounded, then it is cut off."""
    monkeypatch.setattr(session, "CLOSE_AFTER", 0.5)
    most: list[int] = []
    write = PeerWriter.write

    def kept(self: PeerWriter, payload: Payload) -> None:
        write(self, payload)
        most.append(self.size + (self._transport.unsent_bytes if self._transport else 0))

    monkeypatch.setattr(PeerWriter, "write", kept)
    async with served(role="gateway") as server, server.socket() as other:
        await ask(other, {"action": "subscribe", "channel": "c"})
        opened: list[Socket] = []
        monkeypatch.setattr(Socket, "_leave", leaving(opened, Socket._leave))
        deaf = await server.socket(max_queue=1)
        deaf.transport.pause_reading()
        big = json.dumps({"action": "ping", "id": "x" * 400_000})
        async with asyncio.timeout(PATIENCE):
            with contextlib.suppress(ConnectionClosed, TimeoutError):
                for _ in range(100):
                    await asyncio.wait_for(deaf.send(big), 5)
            for _ in range(20):
                assert (await ask(other, {"action": "ping", "id": 1}))["id"] == 1
            while not opened:
                await asyncio.sleep(0.05)
        assert (await ask(other, {"action": "ping", "id": 2}))["id"] == 2
        deaf.transport.abort()
    proof("deaf socket", f"sent 40 MB | kept for it at most {max(most)} bytes | others served yes")
    assert not [
        record for record in caplog.records if record.name.startswith("uvicorn") and record.levelname == "ERROR"
    ]
    assert 0 < max(most) <= CLOSE_ABOVE < 1_000_000


async def test_a_socket_that_is_cut_while_it_writes_is_no_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its last frame comes after the end was sent: one task writes what another has closed."""
    ended: list[Socket] = []

    def look(self: Socket, now: float) -> None:
        self._websocket.application_state = WebSocketState.DISCONNECTED
        self.writer.send({"late": True})
        self._cut()

    monkeypatch.setattr(socket_watch, "LOOK_AGAIN", 0.01)
    async with served(role="gateway") as server:
        monkeypatch.setattr(Socket, "_leave", leaving(ended, Socket._leave))
        monkeypatch.setattr(Socket, "look", look)
        monkeypatch.setattr(Socket, "count_unsent", lambda _: 1)
        async with server.socket() as socket, asyncio.timeout(PATIENCE):
            while not ended:
                await asyncio.sleep(0.01)
            socket.transport.abort()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def leaving(gone: list[Socket], leave: Callable[[Socket], Awaitable[None]]) -> Callable[[Socket], Awaitable[None]]:
    """The same, and tells who left."""

    async def left(self: Socket) -> None:
        gone.append(self)
        await leave(self)

    return left


async def test_a_frame_that_cannot_be_made_ends_its_own_socket_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is asked to come back for it with 1011; others on the same channel and socket door go on."""
    encode = Encoder.encode

    def encoded(self: Encoder, event: Event) -> list[Frame]:
        if self._dialect.deltas:
            raise ValueError("a bug of ours")
        return encode(self, event)

    monkeypatch.setattr(Encoder, "encode", encoded)
    async with served() as server, server.socket() as good, server.socket() as bad:
        await ask(good, {"action": "subscribe", "channel": "c"})
        await ask(bad, {"action": "subscribe", "channel": "c", "text": "delta"})
        await good.send(json.dumps({"channel": "c", "message_id": "m", "message": "hello"}))
        frames = await frames_until_final(good, "m")
        async with asyncio.timeout(PATIENCE):
            await bad.wait_closed()
        assert frames[-1]["type"] == "response"
        assert bad.close_code == 1011


async def test_a_subscription_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(role="gateway", channels_per_socket=1) as server, server.socket() as socket:
        subscribe = server.queue.hub.subscribe

        async def away(*_: object, **__: object) -> SubscriptionStart:
            raise StoreUnavailable("away")

        monkeypatch.setattr(server.queue.hub, "subscribe", away)
        assert (await ask(socket, {"action": "subscribe", "channel": "a"}))["code"] == "store_unavailable"
        monkeypatch.setattr(server.queue.hub, "subscribe", subscribe)
        assert (await ask(socket, {"action": "subscribe", "channel": "b"}))["status"] == "subscribed"


# ---------------------------------------------------------------- parsers


ADDRESS = Address("default", "assistant", "c")
KNOWN = tokens_of(Settings.load(jwt_secret="v7Qm2ZrT9xKfW4bLcN8sYd3HgPe6RjUa5oXi0tMzBwEk1yVh"))
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=6),
    max_leaves=20,
)
FIELDS = st.sampled_from(["message", "message_id", "content", "metadata", "window", "on_busy", "not_before", "flush"])


def typed(read: Callable[[], object]) -> bool:
    """It gives something, or says what is wrong with what came in."""
    try:
        return read() is not None
    except TurnkeepError as error:
        return status_of(error) in (400, 413)


@given(st.one_of(st.binary(max_size=400), JSON.map(lambda value: json.dumps(value).encode())))
def test_bytes_become_an_object_or_a_typed_error(data: bytes) -> None:
    assert typed(lambda: read_json(data, limit=10_000))


@given(st.dictionaries(FIELDS, JSON, max_size=8))
def test_an_object_becomes_a_message_or_a_typed_error(body: dict[str, object]) -> None:
    assert typed(lambda: read_message(body, ADDRESS, limit=10_000))
    assert typed(lambda: read_channel({"channel": body}))


@given(st.text(max_size=300))
def test_a_first_frame_is_a_credential_or_a_typed_error(text: str) -> None:
    with pytest.raises(NotAuthenticated):
        shown_in(text)


@given(
    st.one_of(st.text(max_size=300), st.lists(st.binary(max_size=60).map(lambda b: b.hex()), max_size=5).map(".".join))
)
async def test_text_is_no_token(text: str) -> None:
    assert KNOWN is not None
    with pytest.raises(NotAuthenticated):
        await KNOWN.authenticate(text)


@given(st.text(max_size=30))
def test_a_rate_is_read_or_refused(text: str) -> None:
    try:
        count, seconds = parse_rate(text)
    except ValueError:
        with pytest.raises(ConfigurationError):
            Settings.load(channel_rate=text)
    else:
        assert count >= 0
        assert seconds > 0
