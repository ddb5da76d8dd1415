"""A program that is sent garbage by socket and by broker: documented answers, and nothing of it stays in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from tests.conftest import FULL
from tests.contract.broker import GARBAGE, Broker, broker
from tests.patience import PATIENCE, until
from tests.process.programs import Server
from tests.process.random_input import anything
from tests.process.served import heard
from tests.services import RabbitServer
from turnkeep import errors
from turnkeep.doors.error_answers import status_of
from turnkeep.errors import TurnkeepError

SECRET = "v7Qm2ZrT9xKfW4bLcN8sYd3HgPe6RjUa5oXi0tMzBwEk1yVh"
CODES = {
    kind.code for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, TurnkeepError) and status_of(kind()) < 500
}  # fmt: skip
STATUSES = {"accepted", "subscribed", "unsubscribed", "pong", "typing", "flushed", "cancelling", "edited", "withdrawn",
            "paused", "resumed", "regenerating", "decided", "authenticated", "started", "completed", "in_progress",
            "responding", "processing", "steered"}  # fmt: skip
CLOSED = {1009, 4401, 4403}
REASONS = {"invalid_message", "message_too_large"}
ROOM = 12.0
"""Megabytes by which a program that has warmed up may differ: an allocator does not give back to the byte."""
SOUND: list[dict[str, Any]] = [
    {"action": "subscribe", "channel": "c", "events": "all", "history": 10},
    {"action": "unsubscribe", "channel": "c"},
    {"channel": "subscription", "payload": {"action": "subscribe", "channel": "d"}},
    {"channel": "c", "message_id": "m", "message": "hello"},
    {"action": "message", "channel": "d", "content": [{"type": "text", "text": "hello"}]},
    {"action": "edit", "channel": "c", "message_id": "m", "message": "hello again"},
    {"action": "withdraw", "channel": "c", "message_id": "m"},
    {"action": "decide", "channel": "c", "call_id": "x", "digest": "y", "decision": "approved", "output": "z"},
    {"action": "cancel", "channel": "c", "inbox": "drop"},
    {"action": "typing", "channel": "c"},
    {"action": "pause", "channel": "c"},
    {"action": "resume", "channel": "c"},
    {"action": "regenerate", "channel": "c"},
    {"action": "flush", "channel": "c"},
    {"action": "ping", "id": 1},
]


@dataclass(frozen=True)
class Reading:
    descriptors: int
    megabytes: float

    @classmethod
    def of(cls, pid: int) -> Reading:
        status = Path(f"/proc/{pid}/status").read_text()
        kilobytes = next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]
        return cls(len(os.listdir(f"/proc/{pid}/fd")), int(kilobytes) / 1024)


def reading(server: Server) -> Reading:
    assert server.process is not None
    return Reading.of(server.process.pid)


async def settled(server: Server, base: Reading) -> Reading:
    """A reading, once the descriptors are what they were (or are not, in the end)."""
    now = reading(server)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while (now := reading(server)).descriptors > base.descriptors:
                await asyncio.sleep(0.05)
    return now


def compared(base: Reading, after: Reading) -> str:
    descriptors = f"descriptors {base.descriptors} -> {after.descriptors}"
    return f"{descriptors} | memory {base.megabytes:.1f} -> {after.megabytes:.1f} MB"


def require_back(base: Reading, after: Reading) -> None:
    assert after.descriptors <= base.descriptors
    if FULL:
        assert after.megabytes < base.megabytes + ROOM


@contextlib.asynccontextmanager
async def program(folder: Path, **settings: str) -> AsyncIterator[tuple[Server, aiohttp.ClientSession]]:
    environment = {"TURNKEEP_CHANNEL_RATE": "0", "TURNKEEP_USER_RATE": "0", "TURNKEEP_WINDOW": "600",
                   "TURNKEEP_MAX_WAIT": "3600", "TURNKEEP_MAX_INBOX": "50", **settings}  # fmt: skip
    server = Server(["serve", "--role", "gateway"], folder, environment)
    server.start()
    try:
        async with aiohttp.ClientSession() as http:
            await server.answers(http)
            yield server, http
    finally:
        server.kill9()


# ---------------------------------------------------------------- sockets


@pytest.mark.prove
@pytest.mark.timeout(900)
async def test_random_frames_get_documented_answers_and_leave_nothing_behind(
    tmp_path: Path, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    frames, source, answers = size(600, 10_000), random.Random(23), Counter[str]()
    async with program(tmp_path, TURNKEEP_AUTH="on", TURNKEEP_JWT_SECRET=SECRET) as (server, _):
        await send_frames(server, size(100, 2_000), random.Random(11), Counter())
        base = reading(server)
        sockets = await send_frames(server, frames, source, answers)
        after = await settled(server, base)
        async with opened(server) as socket:
            await socket.send(json.dumps({"action": "ping", "id": "still"}))
            assert (await said(socket)) == ("pong", "still")
    known = CODES | STATUSES | {"closed"}
    undocumented = sum(count for name, count in answers.items() if name not in known)
    proof(
        "random frames",
        f"frames {frames} | sockets {sockets} | undocumented {undocumented}"
        f" | {compared(base, after)} | answers {dict(answers.most_common(8))}",
    )
    assert set(answers) <= known, answers
    assert sum(count for name, count in answers.items() if name in CODES) > frames / 3
    require_back(base, after)


def opened(server: Server) -> websockets.connect:
    claims = {"sub": "olga", "aud": "turnkeep", "exp": time.time() + 3600, "channels": ["*"]}
    bearer = {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}
    return websockets.connect(server.url.replace("http", "ws") + "/ws", additional_headers=bearer, max_size=None)


async def send_frames(server: Server, frames: int, source: random.Random, answers: Counter[str]) -> int:
    """Send them, at most a hundred on each socket, and count the answers; how many sockets it took."""
    left, sockets = frames, 0
    while left > 0:
        sockets += 1
        async with opened(server) as socket:
            sent = 0
            with contextlib.suppress(ConnectionClosed):
                while sent < min(100, left):
                    sent += 1
                    await socket.send(frame(source))
                await socket.send(json.dumps({"action": "ping", "id": "last-of-all"}))
            left -= sent
            while (answer := await said(socket)) != ("pong", "last-of-all"):
                answers[answer[0]] += 1
                if answer[0].startswith("closed"):
                    break
    return sockets


async def said(socket: ClientConnection) -> tuple[str, object]:
    """What an answer is, and whose; that the socket is closed, if it is in a documented way."""
    try:
        told = await heard(socket)
    except ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd else None
        return ("closed", 0) if code in CLOSED else (f"closed with {code}", 0)
    told = told.get("payload", told)
    name = told["code"] if told.get("type") == "error" else told["status"]
    return str(name), told.get("id")


def frame(source: random.Random) -> str | bytes:
    """Anything, or something sound with a part of it exchanged; sometimes cut off, sometimes as bytes."""
    value = anything(source)
    if source.random() < 0.4:
        value = {**source.choice(SOUND), **(value if isinstance(value, dict) and source.random() < 0.7 else {})}
    text = json.dumps(value, ensure_ascii=False)
    cut = text[: source.randrange(len(text) + 1)] if source.random() < 0.15 else text
    clean = cut.encode("utf-8", "replace")
    return clean if source.random() < 0.05 else clean.decode()


# ---------------------------------------------------------------- the broker


@pytest.fixture
async def rabbit(rabbit_server: RabbitServer, amqp_name: str) -> AsyncIterator[Broker]:
    async with broker(rabbit_server.url(), amqp_name) as client:
        yield client


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_garbage_from_the_broker_is_parked_and_leaves_nothing_behind(
    tmp_path: Path, rabbit: Broker, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    count, source = size(60, 1_000), random.Random(7)
    names = {name.upper(): value for name, value in rabbit.names.items()}
    async with program(tmp_path, **names) as (server, http):
        await until(lambda: consumed(rabbit))
        await publish_garbage(rabbit, size(30, 1_000), random.Random(3))
        await until(lambda: parked(rabbit, size(30, 1_000)), patience=60)
        await rabbit.parked()
        base = reading(server)
        await publish_garbage(rabbit, count, source)
        await rabbit.publish({"channel": "good", "message_id": "m", "message": "hello"})
        await until(lambda: parked(rabbit, count), patience=120)
        await until(lambda: readable(http, f"{server.url}/api/channels/good/messages/m"))
        after = await settled(server, base)
        async with http.get(f"{server.url}/api/queue") as told:
            threads = (await told.json())["details"]["threads"]
    letters = await rabbit.parked()
    reasons = Counter(str(one.headers["turnkeep-reason"]) for one in letters)
    redelivered = sum(bool(one.headers.get("x-delivery-count")) for one in letters)
    proof(
        "amqp garbage",
        f"deliveries {count} | parked {len(letters)} | {dict(reasons)} | redelivered {redelivered}"
        f" | threads {threads} | {compared(base, after)}",
    )
    assert (len(letters), redelivered, threads) == (count, 0, 1)
    assert set(reasons) <= REASONS
    require_back(base, after)


async def publish_garbage(rabbit: Broker, count: int, source: random.Random) -> None:
    for number in range(count):
        body, properties = GARBAGE[number % len(GARBAGE)]
        if number >= len(GARBAGE) and 0 < len(body) < 10_000:
            place = source.randrange(len(body))
            body = body[:place] + bytes([source.choice(b"\xc0\xf5\xfe\xff")]) + body[place:]  # in no UTF-8 text
        await rabbit.publish(body, **{"message_id": "x" * 200, **properties})


async def parked(rabbit: Broker, count: int) -> bool:
    try:
        return await rabbit.waiting(f"{rabbit.name}_queue_failed") >= count
    except rabbit.absent:
        return False


async def readable(http: aiohttp.ClientSession, url: str) -> bool:
    async with http.get(url) as answer:
        return answer.status == 200


async def consumed(rabbit: Broker) -> bool:
    """The door has taken its place at the queue."""
    try:
        async with rabbit.connection.channel() as channel:
            queue = await channel.get_queue(rabbit.names["queue_name"])
            return bool(queue.declaration_result.consumer_count)
    except rabbit.absent:
        return False
