"""One encoding for all who keep up: each of them is told the same as if he were alone, whenever he comes and however
often he falls behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest
from starlette.websockets import WebSocket

from tests.patience import PATIENCE, until
from turnkeep import hub as hub_module
from turnkeep.doors.socket import session
from turnkeep.doors.socket.session import BROKEN, SocketChannel
from turnkeep.doors.socket.writers import CLOSE_ABOVE, Broadcasts, Payload, PeerWriter, websocket_frame
from turnkeep.events import Event, delta
from turnkeep.hub import Hub
from turnkeep.messages import Address
from turnkeep.store import Policies, Policy
from turnkeep.store.contract import Follower
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Notice, Page
from turnkeep.subscription import SubscriptionStart
from turnkeep.wire import Dialect, WireEncoder, subscription_frame

HERE = Address("default", "assistant", "c")
DIALECTS = {
    "full": Dialect(),
    "delta": Dialect(deltas=True),
    "all": Dialect(deltas=True, everything=True),
    "envelopes": Dialect(deltas=True, in_envelopes=True),
    "full all": Dialect(everything=True),
}


@dataclass
class System:
    """The system's side of one socket: takes what is written, and says in the moment in which it does not."""

    is_full: bool = False
    is_ended: bool = False
    is_lost: bool = False
    """The connection has ended just now, and nobody was told of it yet."""
    fills_at_next_write: bool = False
    cannot_end: bool = False
    data: bytearray = field(default_factory=bytearray)
    unsent_bytes: int = 0
    user: Any = None

    @property
    def is_writable(self) -> bool:
        return not (self.is_full or self.is_ended)

    def attach(self, user: Any) -> None:
        self.user = user

    def write_frames(self, data: bytes) -> bool:
        is_writable = self.is_writable
        if is_writable:
            self.write(data)
        return is_writable

    def write(self, data: bytes) -> None:
        assert self.is_writable, "it was told that nothing may be written"
        if self.is_lost:
            raise RuntimeError("the handler is closed")
        self.data += data
        if self.fills_at_next_write:
            self.fills_at_next_write = False
            self.fill()

    def fill(self) -> None:
        self.is_full = True
        self.user.on_unwritable()

    def resume(self) -> None:
        self.is_full = False
        self.user.on_writable()

    def end(self, code: int, reason: str) -> None:
        if self.cannot_end:
            raise OSError("a mistake of ours")
        self.is_ended = True


def frames_in(data: bytes) -> list[dict[str, Any]]:
    """The JSON of whole, unmasked text frames."""
    frames, place = [], 0
    while place < len(data):
        assert data[place] == 0x81
        size, start = data[place + 1], place + 2
        if size == 126:
            size, start = int.from_bytes(data[start : start + 2], "big"), start + 2
        elif size == 127:
            size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        frames.append(orjson.loads(data[start : start + size]))
        place = start + size
    return [frame.get("payload", frame) for frame in frames]


class Peer:
    """One subscriber with a channel of a socket, and what has come to it."""

    def __init__(self, hub: Hub, broadcasts: Broadcasts, dialect: Dialect) -> None:
        self._hub = hub
        self.system = System()
        self.writer = PeerWriter(WebSocket({"type": "websocket", "state": {}}, _nothing, _nothing))
        self.writer._transport = self.system  # type: ignore[assignment]
        self.system.attach(self.writer)
        self.channel = SocketChannel(HERE, dialect, self._first_frame, writer=self.writer, broadcasts=broadcasts)

    def _first_frame(self, start: SubscriptionStart) -> dict[str, Any]:
        self.start = replace(start, answer=start.answer.copy())  # which goes on as the answer grows
        return subscription_frame(HERE, "thread_1", start, at=1.0)

    async def come(self, after: int | None = None) -> None:
        """Subscribe as a socket does, here or from a position on."""
        await self._hub.subscribe(HERE, self.channel, after=after, epoch="e" if after is not None else None)
        self.channel.join()

    async def go(self) -> None:
        self.channel.leave()
        await self._hub.unsubscribe(HERE, self.channel)

    @property
    def frames(self) -> list[dict[str, Any]]:
        return frames_in(bytes(self.system.data))

    @property
    def is_sharing(self) -> bool:
        return self.channel._broadcast is not None


async def _nothing(*_: Any) -> Any: ...


class ChannelLog(MemoryStore):
    """One channel whose log is what a test says, and a hub that follows it."""

    def __init__(self) -> None:
        super().__init__(Policies(Policy()))
        self.events: list[Event] = []
        self.text = ""
        self._made = 0
        self._live_from: int | None = None
        self._notices: asyncio.Queue[Notice] = asyncio.Queue()

    def make(self, event: Event) -> Event:
        """The next event, which is not in the log before it is delivered."""
        self._made += 1
        self.text = {"delta": self.text + event.text, "snapshot": event.text, "started": ""}.get(event.kind, self.text)
        return event.at_position(self._made, "e", 1.5 * self._made)

    async def deliver(self, *events: Event) -> None:
        """Append, and wait until all were told."""
        for event in events:
            self.events.append(event)
            if event.kind == "started":
                self._live_from = event.offset
            elif event.is_final:
                self._live_from = None
        await self.tell(*events)

    async def tell(self, *events: Event) -> None:
        await self._notices.put(Notice(HERE, events))
        await self._notices.join()

    async def read(self, address: Address, *, after: int = 0, limit: int = 1000) -> Page:
        events = tuple(self.events[after : after + limit])
        return Page("e" if self.events else "", len(self.events), 0, self._live_from, events)

    @contextlib.asynccontextmanager
    async def follow(self) -> AsyncIterator[Follower]:
        async with super().follow() as follower:
            yield _Following(follower, self._notices)


class _Following:
    def __init__(self, follower: Follower, notices: asyncio.Queue[Notice]) -> None:
        self.add, self.discard = follower.add, follower.discard
        self._notices = notices
        self._has_given = False

    def __aiter__(self) -> AsyncIterator[Notice]:
        return self

    async def __anext__(self) -> Notice:
        if self._has_given:
            self._notices.task_done()
        notice = await self._notices.get()
        self._has_given = True
        return notice


@contextlib.asynccontextmanager
async def following(log: ChannelLog) -> AsyncIterator[tuple[Hub, Broadcasts]]:
    hub = Hub(log)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(hub.run())
        yield hub, Broadcasts(hub)
        task.cancel()


async def gathered(hub: Hub, broadcasts: Broadcasts, *dialects: Dialect) -> list[Peer]:
    """Peers that have come, in these dialects."""
    peers = [Peer(hub, broadcasts, dialect) for dialect in dialects]
    for peer in peers:
        await peer.come()
    return peers


def some_events(rng: random.Random, log: ChannelLog, run: int) -> list[Event]:
    """What a delivery may hold."""
    name, ids = f"run_{run}", (f"m{run}", f"n{run}")
    events = [log.make(Event("started", ids, run_id=name, attempt=1))]
    for place in range(rng.randrange(1, 12)):
        kind = rng.choice(["delta"] * 6 + ["snapshot", "processing", "accepted", "responding"])
        if kind == "delta":
            events.append(log.make(delta(f"«{run}.{place}» ", name, 1)))
        elif kind == "snapshot":
            events.append(log.make(Event("snapshot", text=f"anew {place} ", run_id=name, attempt=1)))
        else:
            events.append(log.make(Event(kind, ids, run_id=name, attempt=1)))  # type: ignore[arg-type]
    events.append(log.make(Event("completed", ids, text=log.text, run_id=name, attempt=1, outcome="completed")))
    return events


def in_pieces(rng: random.Random, events: list[Event]) -> list[list[Event]]:
    pieces = []
    while events:
        size = rng.randrange(1, 4)
        pieces.append(events[:size])
        events = events[size:]
    return pieces


def shown(frames: Sequence[dict[str, Any]], text: str) -> list[Any]:
    """What a client shows when it is told anything else than text; how text is cut is left out."""
    story = list[Any]()
    for frame in frames:
        if frame["status"] == "in_progress":
            text = frame["message"] or frame["delta"] if frame.get("snapshot") else text + frame["delta"]
            assert frame["message"] in ("", text), "the text so far is what the deltas add up to"
            continue
        story.append((text, frame["status"], frame["message_id"], frame["message"], frame["offset"]))
        if frame["status"] == "started" or frame["final_message"]:
            text = ""
    return [*story, text]


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
async def test_each_is_told_the_same_as_if_he_were_alone(
    dialect: Dialect, size: Callable[[int, int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Played by seed: peers come in the middle, fall behind, catch up and go, between two deliveries or within one."""
    monkeypatch.setattr(session, "EVERY", 0.001)
    has_shared = 0
    for seed in range(size(8, 500)):
        rng, log = random.Random(seed), ChannelLog()
        peers: list[Peer] = []
        async with following(log) as (hub, broadcasts):
            for run in range(rng.randrange(2, 5)):
                for events in in_pieces(rng, some_events(rng, log, run)):
                    if len(peers) < 6 and rng.random() < 0.3:
                        peers.append(Peer(hub, broadcasts, dialect))
                        await peers[-1].come(rng.choice([None, len(log.events)]))
                    for peer in peers:
                        suffer(rng, peer.system)
                    await log.deliver(*events)
                    if rng.random() < 0.3:
                        await asyncio.sleep(0.003)
                    has_shared += sum(peer.is_sharing for peer in peers) > 1
            for peer in peers:
                peer.system.fills_at_next_write = False
                peer.system.resume()
            await asyncio.sleep(0.005)
            for peer in peers:
                text = peer.start.answer.text
                assert shown(peer.frames[1:], text) == shown(frames_alone(log, dialect, peer.start), text), seed
                await peer.go()
            assert (len(broadcasts), hub.channels) == (0, 0)
    assert has_shared > 20, "nobody shared anything: this test tells nothing"


def suffer(rng: random.Random, system: System) -> None:
    match rng.randrange(8):
        case 0:
            system.fill()
        case 1:
            system.fills_at_next_write = True
        case 2 | 3 | 4:
            system.resume()


def frames_alone(log: ChannelLog, dialect: Dialect, start: SubscriptionStart) -> list[dict[str, Any]]:
    """What somebody is told whom nobody shares with."""
    encoder = WireEncoder(HERE, "thread_1", dialect, replace(start, answer=start.answer.copy()))
    messages = [message for event in log.events[start.start :] for message in encoder.encode(event)]
    frames = [orjson.loads(message) for message in [*messages, *encoder.flush()]]
    return [frame.get("payload", frame) for frame in frames]


async def test_an_event_is_encoded_once_for_all_who_keep_up(monkeypatch: pytest.MonkeyPatch) -> None:
    log = ChannelLog()
    encoded: list[Event] = []
    encode = WireEncoder.encode

    def noted(self: WireEncoder, event: Event) -> list[bytes]:
        encoded.append(event)
        return encode(self, event)

    async with following(log) as (hub, broadcasts):
        peers = await gathered(hub, broadcasts, *[Dialect(deltas=True)] * 50)
        monkeypatch.setattr(WireEncoder, "encode", noted)
        events = some_events(random.Random(1), log, 1)
        for event in events:
            await log.deliver(event)

        assert encoded == events
        assert len({bytes(peer.system.data) for peer in peers}) == 1
        assert "".join(f["delta"] for f in peers[0].frames if "delta" in f)
        assert (hub.subscribers, len(broadcasts)) == (50, 1)


async def test_who_comes_and_goes_is_counted_whether_he_shares_or_not() -> None:
    log = ChannelLog()
    async with following(log) as (hub, broadcasts):
        peers = await gathered(hub, broadcasts, Dialect(), Dialect(), Dialect(), Dialect(deltas=True))
        peers[1].system.fill()
        assert (hub.subscribers, [peer.is_sharing for peer in peers]) == (4, [True, False, True, True])
        for left, peer in enumerate(peers):
            await peer.go()
            assert hub.subscribers == 3 - left
        assert (hub.channels, len(broadcasts)) == (0, 0)


async def test_a_notice_beside_the_log_is_told_though_it_has_the_position_of_the_event_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub_module, "SILENCE", 0.05)
    log = ChannelLog()
    async with following(log) as (hub, broadcasts):
        peers = await gathered(hub, broadcasts, Dialect(), Dialect())
        await log.deliver(log.make(Event("processing", ("m",), run_id="r", attempt=1)))
        async with asyncio.timeout(PATIENCE):
            while any(len(peer.frames) < 3 for peer in peers):
                await asyncio.sleep(0.01)

        assert [peer.frames[-1]["reason"] for peer in peers] == ["silent", "silent"]


async def test_an_event_that_cannot_be_encoded_ends_all_who_share_it_and_no_other() -> None:
    log, everything = ChannelLog(), Dialect(deltas=True, everything=True)
    async with following(log) as (hub, broadcasts):
        peers = await gathered(hub, broadcasts, everything, everything, Dialect(deltas=True))
        half = log.make(Event("accepted", ("m",), text="\ud800"))  # no UTF-8 can be made of it
        said = log.make(Event("said", text="x", author="somebody"))
        await log.deliver(half)
        await log.deliver(said)

        assert [peer.writer.closing is not None for peer in peers] == [True, True, False]
        assert [peer.is_sharing for peer in peers] == [False, False, True]
        assert peers[2].frames[-1]["message"] == "x"


async def test_text_that_waits_to_be_merged_and_cannot_be_encoded_ends_who_would_miss_it() -> None:
    log = ChannelLog()
    async with following(log) as (hub, broadcasts):
        [peer] = await gathered(hub, broadcasts, Dialect())
        for text in ("whole", "\ud800"):
            await log.deliver(log.make(delta(text, "r", 1)))
        assert peer.frames[-1]["message"] == "whole"
        async with asyncio.timeout(PATIENCE):
            while peer.writer.closing is None:
                await asyncio.sleep(0.01)

        assert peer.writer.closing[0] == BROKEN


async def test_a_connection_that_ends_while_all_are_told_keeps_it_from_nobody() -> None:
    log = ChannelLog()
    async with following(log) as (hub, broadcasts):
        peers = await gathered(hub, broadcasts, *[Dialect(deltas=True)] * 3)
        peers[1].system.is_lost = True
        for text in ("some", " more"):
            await log.deliver(log.make(delta(text, "r", 1)))

        assert ["".join(f.get("delta", "") for f in peer.frames) for peer in peers] == ["some more", "", "some more"]
        assert [peer.is_sharing for peer in peers] == [True, False, True]
        assert peers[1].writer.closing is not None


async def test_one_who_cannot_be_ended_keeps_nobody_from_being_told_or_ended() -> None:
    log, everything = ChannelLog(), Dialect(deltas=True, everything=True)
    async with following(log) as (hub, broadcasts):
        peers = await gathered(hub, broadcasts, *[everything] * 3)
        peers[0].system.cannot_end = peers[0].system.is_lost = True
        await log.deliver(log.make(delta("some", "r", 1)))

        assert [peer.is_sharing for peer in peers] == [False, True, True]
        assert [peer.writer.closing is not None for peer in peers] == [True, False, False]

        peers[1].system.cannot_end = True
        await log.deliver(log.make(Event("accepted", ("m",), text="\ud800")))  # no UTF-8 can be made of it
        told = [len(peer.system.data) for peer in peers]
        await log.deliver(log.make(delta(" more", "r", 1)))

        assert [peer.writer.closing is not None for peer in peers] == [True, True, True]
        assert [peer.is_sharing for peer in peers] == [False, False, False]
        assert [len(peer.system.data) for peer in peers] == told


async def test_what_waits_for_a_peer_that_does_not_read_is_bounded_and_then_it_is_closed() -> None:
    log = ChannelLog()
    async with following(log) as (hub, broadcasts):
        deaf, other = await gathered(hub, broadcasts, Dialect(deltas=True), Dialect(deltas=True))
        deaf.system.fill()
        most = 0
        for _ in range(200):
            await log.deliver(log.make(delta("x" * 10_000, "r", 1)))
            most = max(most, deaf.writer.size)
        assert len(other.frames) == 201
        assert most <= CLOSE_ABOVE
        assert not deaf.is_sharing
        assert other.is_sharing
        # text is merged for it, so that it need not be closed; what cannot be merged closes it
        for _ in range(2_000):
            await log.deliver(log.make(Event("processing", ("m",), tools=("t" * 1_000,), run_id="r", attempt=1)))
        assert deaf.writer.closing == (4008, "too slow, resume from the last offset")
        assert deaf.writer.size == 0
        assert other.writer.closing is None


@pytest.mark.parametrize("size_of", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_a_prepared_frame_is_one_whole_text_frame(size_of: int) -> None:
    message = b'"' + b"x" * size_of + b'"'
    data = websocket_frame(message)
    assert data.endswith(message)
    assert len(data) - len(message) == (2 if len(message) < 126 else 4 if len(message) < 65_536 else 10)
    assert Payload((message, message)).frames == data + data


async def test_who_comes_when_the_others_were_told_of_silence_is_told_too_and_goes_on_with_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub_module, "SILENCE", 0.05)
    log = ChannelLog()

    def silences(peer: Peer) -> int:
        return sum(frame.get("reason") == "silent" for frame in peer.frames)

    async with following(log) as (hub, broadcasts):
        dialect = DIALECTS["delta"]
        peers = await gathered(hub, broadcasts, dialect, dialect)
        await log.deliver(log.make(Event("started", ("m1",), run_id="run_1", attempt=1)))
        assert all(peer.is_sharing for peer in peers)
        await until(lambda: all(silences(peer) == 1 for peer in peers))
        peers += await gathered(hub, broadcasts, dialect)
        await until(lambda: silences(peers[-1]) == 1)
        await until(lambda: peers[-1].is_sharing)
        monkeypatch.setattr(hub_module, "SILENCE", PATIENCE)
        await log.deliver(log.make(Event("completed", ("m1",), text="so", run_id="run_1", outcome="completed")))
        await log.deliver(log.make(Event("started", ("m2",), run_id="run_2", attempt=1)))
        peers += await gathered(hub, broadcasts, dialect)
        assert peers[-1].is_sharing, "what was told of an earlier silence keeps nobody apart"
        assert [peer.frames[-1]["status"] for peer in peers] == ["started"] * 4
