"""One encoding for all who keep up: each of them is told the same as if he were alone, whenever he comes and however
often he falls behind.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
from starlette.websockets import WebSocket

from turnkeep.broadcast import Broadcasts, Payload, websocket_frame
from turnkeep.doors.socket import session
from turnkeep.doors.socket.session import CLOSE_ABOVE, PeerWriter, SocketChannel
from turnkeep.events import Answer, Event, delta
from turnkeep.hub import SubscriptionStart
from turnkeep.messages import Address
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
    """The system's side of one socket: takes what is written, or says that it is full."""

    is_full: bool = False
    is_ended: bool = False
    data: bytearray = field(default_factory=bytearray)
    unsent_bytes: int = 0
    user: Any = None

    @property
    def is_writable(self) -> bool:
        return not (self.is_full or self.is_ended)

    def attach(self, user: Any) -> None:
        self.user = user

    def write_frames(self, data: bytes) -> bool:
        if self.is_writable:
            self.data += data
        return self.is_writable

    def end(self, code: int, reason: str) -> None:
        self.is_ended = True

    def resume(self) -> None:
        self.is_full = False
        self.user.on_writable()


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

    def __init__(self, broadcasts: Broadcasts, dialect: Dialect, start: SubscriptionStart) -> None:
        self.system = System()
        self.writer = PeerWriter(WebSocket({"type": "websocket", "state": {}}, _nothing, _nothing))
        self.writer._transport = self.system  # type: ignore[assignment]
        self.writer.write_at_once = self.system.write_frames
        self.system.attach(self.writer)
        self.channel = SocketChannel(
            HERE,
            dialect,
            lambda start: subscription_frame(HERE, "thread_1", start, at=1.0),
            writer=self.writer,
            broadcasts=broadcasts,
        )
        self.channel.on_subscription(HERE, start)

    @property
    def frames(self) -> list[dict[str, Any]]:
        return frames_in(bytes(self.system.data))

    @property
    def is_sharing(self) -> bool:
        return self.channel._broadcast is not None


async def _nothing(*_: Any) -> Any: ...


class Log:
    """A channel's log as it is delivered: who begins now is given the answer so far."""

    def __init__(self) -> None:
        self.top = self.delivered_top = 0
        self.text = ""
        self._answer = Answer()

    def add(self, event: Event) -> Event:
        self.top += 1
        self.text = {"delta": self.text + event.text, "snapshot": event.text, "started": ""}.get(event.kind, self.text)
        return event.at_position(self.top, "e", 1.5 * self.top)

    def deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            self._answer.take(event)
            self.delivered_top = event.offset

    def start(self) -> SubscriptionStart:
        return SubscriptionStart("e", self.delivered_top, self.delivered_top, True, self._answer.copy())


def some_events(rng: random.Random, log: Log, run: int) -> list[Event]:
    """What a delivery may hold."""
    name, ids = f"run_{run}", (f"m{run}", f"n{run}")
    events = [log.add(Event("started", ids, run_id=name, attempt=1))]
    for place in range(rng.randrange(1, 12)):
        kind = rng.choice(["delta"] * 6 + ["snapshot", "processing", "accepted", "responding"])
        if kind == "delta":
            events.append(log.add(delta(f"«{run}.{place}» ", name, 1)))
        elif kind == "snapshot":
            events.append(log.add(Event("snapshot", text=f"anew {place} ", run_id=name, attempt=1)))
        else:
            events.append(log.add(Event(kind, ids, run_id=name, attempt=1)))  # type: ignore[arg-type]
    events.append(log.add(Event("completed", ids, text=log.text, run_id=name, attempt=1, outcome="completed")))
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
    """Played by seed: peers come in the middle, fall behind, catch up and go, at any place between two deliveries."""
    monkeypatch.setattr(session, "EVERY", 0.001)
    has_shared = 0
    for seed in range(size(8, 500)):
        rng, log, broadcasts = random.Random(seed), Log(), Broadcasts()
        peers: list[Compared] = []
        for run in range(rng.randrange(2, 5)):
            for events in in_pieces(rng, some_events(rng, log, run)):
                if len(peers) < 6 and rng.random() < 0.3:
                    peers.append(Compared(broadcasts, dialect, log))
                for one in peers:
                    one.suffer(rng)
                log.deliver(events)
                for one in peers:
                    one.deliver(events)
                if rng.random() < 0.3:
                    await asyncio.sleep(0.003)
                has_shared += sum(one.peer.is_sharing for one in peers) > 1
        for one in peers:
            one.peer.system.resume()
        await asyncio.sleep(0.005)
        for one in peers:
            assert shown(one.peer.frames[1:], one.text) == shown(one.expected_frames(), one.text), seed
            one.peer.channel.leave()
        assert len(broadcasts) == 0
    assert has_shared > 20, "nobody shared anything: this test tells nothing"


class Compared:
    """One who may share, and the same alone."""

    def __init__(self, broadcasts: Broadcasts, dialect: Dialect, log: Log) -> None:
        self.peer = Peer(broadcasts, dialect, log.start())
        self.peer.channel.join()
        self._alone = WireEncoder(HERE, "thread_1", dialect, log.start())
        self.text = log.start().answer.text
        self._expected: list[bytes] = []

    def suffer(self, rng: random.Random) -> None:
        match rng.randrange(6):
            case 0:
                self.peer.system.is_full = True
            case 1 | 2:
                self.peer.system.resume()

    def deliver(self, events: Sequence[Event]) -> None:
        self.peer.channel.deliver(HERE, events)
        for event in events:
            self._expected += self._alone.encode(event)

    def expected_frames(self) -> list[dict[str, Any]]:
        frames = [orjson.loads(message) for message in [*self._expected, *self._alone.flush()]]
        return [frame.get("payload", frame) for frame in frames]


async def test_an_event_is_encoded_once_for_all_who_keep_up(monkeypatch: pytest.MonkeyPatch) -> None:
    log, broadcasts, dialect = Log(), Broadcasts(), Dialect(deltas=True)
    peers = [Peer(broadcasts, dialect, log.start()) for _ in range(50)]
    for peer in peers:
        peer.channel.join()
    encoded: list[Event] = []
    encode = WireEncoder.encode

    def noted(self: WireEncoder, event: Event) -> list[bytes]:
        encoded.append(event)
        return encode(self, event)

    monkeypatch.setattr(WireEncoder, "encode", noted)
    events = some_events(random.Random(1), log, 1)
    for event in events:
        for peer in peers:
            peer.channel.deliver(HERE, (event,))

    assert encoded == events
    assert len({bytes(peer.system.data) for peer in peers}) == 1
    assert "".join(f["delta"] for f in peers[0].frames if "delta" in f)


async def test_a_notice_beside_the_log_is_told_though_it_has_the_position_of_the_event_before_it() -> None:
    log, broadcasts = Log(), Broadcasts()
    peers = [Peer(broadcasts, Dialect(), log.start()) for _ in range(2)]
    for peer in peers:
        peer.channel.join()
    event = log.add(Event("processing", ("m",), run_id="r", attempt=1))
    for told in ([event], [Event("processing", ("m",), run_id="r", attempt=1).at_position(1, "e", 2.0)]):
        for peer in peers:
            peer.channel.deliver(HERE, told)

    assert [len(peer.frames) for peer in peers] == [3, 3]


async def test_an_event_that_cannot_be_encoded_ends_all_who_share_it_and_no_other() -> None:
    log, broadcasts = Log(), Broadcasts()
    peers = [Peer(broadcasts, Dialect(deltas=n < 2), log.start()) for n in range(3)]
    for peer in peers:
        peer.channel.join()
    started = log.add(Event("started", ("m",), run_id="r", attempt=1))
    half = log.add(delta("\ud800", "r", 1))  # no UTF-8 can be made of it
    after = log.add(Event("completed", ("m",), text="x", run_id="r", attempt=1, outcome="completed"))
    for event in (started, half):
        for peer in peers[:2]:
            peer.channel.deliver(HERE, (event,))
    for event in (started, after):
        peers[2].channel.deliver(HERE, (event,))

    assert [peer.writer.closing is not None for peer in peers] == [True, True, False]
    assert peers[2].frames[-1]["message"] == "x"


async def test_what_waits_for_a_peer_that_does_not_read_is_bounded_and_then_it_is_closed() -> None:
    log, broadcasts = Log(), Broadcasts()
    deaf, other = (Peer(broadcasts, Dialect(deltas=True), log.start()) for _ in range(2))
    for peer in (deaf, other):
        peer.channel.join()
    deaf.system.is_full = True
    most = 0
    for _ in range(200):
        event = log.add(delta("x" * 10_000, "r", 1))
        for peer in (deaf, other):
            peer.channel.deliver(HERE, (event,))
        await asyncio.sleep(0)
        most = max(most, deaf.writer.size)
    assert len(other.frames) == 201
    assert most <= CLOSE_ABOVE
    assert not deaf.is_sharing
    assert other.is_sharing
    # text is merged for it, so that it need not be closed; what cannot be merged closes it
    for _ in range(2_000):
        deaf.channel.deliver(HERE, (log.add(Event("processing", ("m",), tools=("t" * 1_000,), run_id="r", attempt=1)),))
    assert deaf.writer.closing == (4008, "too slow, resume from the last offset")
    assert deaf.writer.size == 0


@pytest.mark.parametrize("size_of", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_a_prepared_frame_is_one_whole_text_frame(size_of: int) -> None:
    message = b'"' + b"x" * size_of + b'"'
    data = websocket_frame(message)
    assert data.endswith(message)
    assert len(data) - len(message) == (2 if len(message) < 126 else 4 if len(message) < 65_536 else 10)
    assert Payload((message, message)).frames == data + data
