"""What is no request, or none that is read here, is answered alike at both doors, inside and in the lobby: with one
typed error, which comes through also to a peer who is still sending.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from tests.patience import PATIENCE
from tests.process.served import Served, served
from tests.services import HOST
from turnkeep.doors.backlog import SLICE
from turnkeep.doors.request_refusals import LONGEST_UPGRADE_LINE

UPGRADE = (
    "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)  # fmt: skip
EVENTS = b"GET /api/channels/c/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"
ASKING = "Expect: 100-continue"


@dataclass(frozen=True, slots=True)
class Row:
    """A request, and the one right answer. `@PATH@` is that of the door."""

    name: str
    status: int
    code: str
    line: str = "GET @PATH@ HTTP/1.1"
    headers: Sequence[str] = ()
    host: Sequence[str] = ("Host: localhost",)
    end: bytes = b"\r\n\r\n"

    def data(self, door: str) -> bytes:
        line = self.line.replace("@PATH@", {"http": "/healthz", "socket": "/ws"}[door])
        lines = [line, *self.host, *(UPGRADE if door == "socket" else ()), *self.headers]
        return "\r\n".join(lines).encode() + self.end


ROWS = (
    Row("headers of 40 kB", 431, "head_too_large", headers=[f"X-Filler: {'x' * 40_000}"]),
    Row("headers of 4 MB", 431, "head_too_large", headers=[f"X-Filler: {'x' * 4_000_000}"]),
    Row("headers without an end", 431, "head_too_large", headers=[f"X-Filler: {'x' * 40_000}"], end=b""),
    Row("129 headers", 431, "head_too_large", headers=[f"X-{number}: 1" for number in range(129)]),
    Row("an address of 40 kB", 414, "address_too_long", line=f"GET @PATH@?{'a' * 40_000} HTTP/1.1"),
    Row("an address without an end", 414, "address_too_long", line=f"GET @PATH@?{'a' * 40_000}", host=(), end=b""),
    Row("no version", 400, "malformed_request", line="GET @PATH@"),
    Row("a line of garbage", 400, "malformed_request", line="\x01\x02\x03 @PATH@"),
    Row("HTTP/9.9", 505, "http_version_not_taken", line="GET @PATH@ HTTP/9.9"),
    Row("HTTP/2.0", 505, "http_version_not_taken", line="GET @PATH@ HTTP/2.0"),
    Row("no host", 400, "malformed_request", host=()),
    Row("two hosts", 400, "malformed_request", host=("Host: localhost", "Host: localhost")),
    Row("no colon", 400, "malformed_request", headers=["X-A"]),
    Row("a blank before the colon", 400, "malformed_request", headers=["X-A : b"]),
    Row("a null", 400, "malformed_request", headers=["X-A: a\0b"]),
    Row("half an end of a line", 400, "malformed_request", headers=["X-A: b\nX-B: c"]),
    Row("a header that goes on", 400, "malformed_request", headers=["X-A: b\r\n c"]),
    Row("two lengths", 400, "malformed_request", headers=["Content-Length: 1", "Content-Length: 2"]),
    Row("a coding that is none", 501, "coding_not_taken", headers=["Transfer-Encoding: xchunked"]),
)  # fmt: skip

BODIES = (
    Row("a length and a coding", 400, "ambiguous_length", headers=[CHUNKED, "Content-Length: 1"]),
    Row("a chunk of no size", 400, "malformed_request", headers=[CHUNKED], end=b"\r\n\r\nx\r\n"),
    Row("a chunk that is longer than it says", 400, "malformed_request", headers=[CHUNKED], end=b"\r\n\r\n1\r\nxx\r\n"),
    Row("no chunk, of who asks leave", 400, "malformed_request", headers=[CHUNKED, ASKING], end=b"\r\n\r\nx\r\n"),
    Row("more than is read", 413, "message_too_large", headers=["Content-Length: 600000"]),
)  # fmt: skip
POSTING = "POST /api/channels/c/messages HTTP/1.1"


class Caller:
    """A connection on which something was sent, and what came back."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sending: asyncio.Task[None]) -> None:
        self._reader = reader
        self._writer = writer
        self._sending = sending

    async def send(self, data: bytes) -> None:
        """Some more, as far as it is taken."""
        await self._sending
        with contextlib.suppress(OSError):
            self._writer.write(data)
            await self._writer.drain()

    async def answer(self) -> tuple[bytes, bytes]:
        """The head of the one answer, in small letters, and its body."""
        heard = await self._reader.read(-1)
        self._writer.close()
        await asyncio.wait([self._sending])
        self._sending.exception()
        head, _, body = heard.partition(b"\r\n\r\n")
        return head.lower(), body

    async def answers(self) -> list[tuple[int, str]]:
        """Status and code of each answer, up to the end."""
        heard = await self._reader.read(-1)
        self._writer.close()
        await asyncio.wait([self._sending])
        self._sending.exception()
        answers = []
        while heard:
            head, _, rest = heard.partition(b"\r\n\r\n")
            size = next(int(line.split()[1]) for line in head.lower().split(b"\r\n") if b"content-length" in line)
            body, heard = rest[:size], rest[size:]
            answers.append((int(head.split()[1]), json.loads(body)["error"]["code"] if body[:1] == b"{" else ""))
        return answers


async def call(server: Served, data: bytes) -> Caller:
    reader, writer = await asyncio.open_connection(HOST, urlsplit(server.url).port)
    writer.write(data)
    return Caller(reader, writer, asyncio.create_task(writer.drain()))


async def answers_from(place: str, data: bytes) -> list[tuple[int, str]]:
    """Inside, or in the lobby until somebody else has gone."""
    async with (
        served(role="gateway", max_connections=2) as server,
        asyncio.timeout(PATIENCE),
        contextlib.AsyncExitStack() as stack,
    ):
        streams = []
        for _ in range(2 if place == "lobby" else 0):
            reader, writer = await asyncio.open_connection(HOST, urlsplit(server.url).port)
            stack.callback(writer.close)
            writer.write(EVENTS)
            await reader.readuntil(b"retry")
            streams.append(writer)
        caller = await call(server, data)
        for writer in streams[:1]:
            writer.close()
        return await caller.answers()


@pytest.mark.daily(rows=3)  # each request at one of the doors
@pytest.mark.parametrize("place", ["inside", "lobby"])
@pytest.mark.parametrize("door", ["http", "socket"])
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
async def test_what_is_no_request_is_refused_alike_at_every_door(
    row: Row, door: str, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await answers_from(place, row.data(door)) == [(row.status, row.code)]
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


@pytest.mark.parametrize("place", ["inside", "lobby"])
@pytest.mark.parametrize("row", BODIES, ids=[row.name for row in BODIES])
async def test_a_body_that_is_none_is_refused_alike(row: Row, place: str, caplog: pytest.LogCaptureFixture) -> None:
    data = row.data("http").replace(b"GET /healthz HTTP/1.1", POSTING.encode())
    assert await answers_from(place, data) == [(row.status, row.code)]
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


@pytest.mark.parametrize("place", ["inside", "lobby"])
async def test_who_is_gone_before_he_is_refused_leaves_no_trace_and_keeps_nobody_from_his_turn(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    most = 1 if place == "lobby" else 100
    async with served(role="gateway", max_connections=most) as server, asyncio.timeout(PATIENCE):
        holder, holding = await asyncio.open_connection(HOST, urlsplit(server.url).port)
        holding.write(EVENTS)
        await holder.readuntil(b"retry")
        for size in (SLICE + 1, 0):  # parsed in its turn, and at once
            with socket.create_connection((HOST, urlsplit(server.url).port or 0)) as hasty:
                hasty.sendall(b"no request".ljust(size) + b"\r\n\r\n")
        reader, writer = await asyncio.open_connection(HOST, urlsplit(server.url).port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await asyncio.sleep(0.1)
        holding.close()
        assert b" 200 " in await reader.readline()
        writer.close()
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


LONG_LINES = [
    (lambda size: upgrade("GET /ws?".ljust(size - len(" HTTP/1.1"), "a") + " HTTP/1.1"), 414, "address_too_long"),
    (lambda size: upgrade("GET /ws HTTP/1.1", "X-Filler: ".ljust(size, "a")), 431, "head_too_large"),
]


def upgrade(line: str, *headers: str) -> bytes:
    return "\r\n".join([line, "Host: localhost", *UPGRADE, *headers]).encode() + b"\r\n\r\n"


@pytest.mark.parametrize(("of_size", "status", "code"), LONG_LINES, ids=["address", "header"])
async def test_each_line_of_an_upgrade_is_taken_up_to_its_limit_and_refused_for_its_size_above(
    of_size: Callable[[int], bytes], status: int, code: str
) -> None:
    async with served(role="gateway") as server, asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(HOST, urlsplit(server.url).port)
        writer.write(of_size(LONGEST_UPGRADE_LINE))
        assert b" 101 " in await reader.readline()
        writer.close()
        for more in range(1, 20):
            caller = await call(server, of_size(LONGEST_UPGRADE_LINE + more))
            assert await caller.answers() == [(status, code)], more


HANDSHAKES = [
    Row("another method", 405, "method_not_allowed", line="POST @PATH@ HTTP/1.1"),
    Row("a method that is none", 405, "method_not_allowed", line="BREW @PATH@ HTTP/1.1"),
    Row("another path", 404, "not_found", line="GET /api/channels HTTP/1.1"),
    Row("a file", 404, "not_found", line="GET /static/chat/connection.js HTTP/1.1"),
    Row("a page", 404, "not_found", line="GET / HTTP/1.1"),
    Row("no path", 404, "not_found", line="GET * HTTP/1.1"),
    Row("a whole address", 404, "not_found", line="GET http://localhost/ws HTTP/1.1"),
    Row("a path with a line break", 404, "not_found", line="GET /w%0As HTTP/1.1"),
    Row("another version", 400, "malformed_request", headers=["Sec-WebSocket-Version: 8"]),
    Row("two keys", 400, "malformed_request", headers=["Sec-WebSocket-Key: BBBBBBBBBBBBBBBBBBBBBB=="]),
    Row("two upgrades", 426, "malformed_request", headers=["Upgrade: websocket"]),
    Row("two origins", 400, "malformed_request", headers=["Origin: http://localhost", "Origin: http://localhost"]),
]  # fmt: skip


@pytest.mark.parametrize("row", HANDSHAKES, ids=[row.name for row in HANDSHAKES])
async def test_an_upgrade_that_comes_to_nothing_is_refused_as_all_else(
    row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    await refused_alike(row.data("socket"), row, caplog)


@pytest.mark.parametrize("key", [b"short", b"?" * 24, b"\xff" * 24, b""], ids=ascii)
async def test_a_key_of_a_socket_that_is_none_is_refused_as_all_else(
    key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    row = Row("a key that is none", 400, "malformed_request")
    await refused_alike(upgrade("GET /ws HTTP/1.1").replace(b"A" * 22 + b"==", key), row, caplog)


async def refused_alike(data: bytes, row: Row, caplog: pytest.LogCaptureFixture) -> None:
    async with served(role="gateway") as server, asyncio.timeout(PATIENCE):
        head, body = await (await call(server, data)).answer()
    assert int(head.split()[1]) == row.status
    assert json.loads(body)["error"]["code"] == row.code
    assert b"connection: close" in head
    assert (b"allow: get" in head) == (row.status == 405)
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


@pytest.mark.parametrize("body", ["Content-Length: 4000000", CHUNKED])
async def test_an_upgrade_that_brings_a_body_is_answered_while_that_comes(body: str) -> None:
    async with served(role="gateway") as server, asyncio.timeout(PATIENCE):
        caller = await call(server, upgrade("GET /ws HTTP/1.1", body) + b"3d0900\r\n" + b"x" * 4_000_000)
        assert await caller.answers() == [(400, "malformed_request")]


async def test_what_is_wrong_with_a_body_behind_its_answer_ends_the_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was answered without it: there is no second answer, and no line of a log."""
    async with served(role="gateway") as server, asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(HOST, urlsplit(server.url).port)
        writer.write(f"POST /nowhere HTTP/1.1\r\nHost: localhost\r\n{CHUNKED}\r\n\r\n".encode())
        assert b" 404 " in await reader.readuntil(b"}}")
        writer.write(b"no size\r\n")
        assert await reader.read() == b""
        writer.close()
    assert not [record for record in caplog.records if record.levelname in ("ERROR", "CRITICAL")]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
async def test_a_request_behind_a_body_that_nobody_waited_for_is_looked_at_as_any_other(row: Row) -> None:
    async with served(role="gateway") as server, asyncio.timeout(PATIENCE):
        first = b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"
        reader, writer = await asyncio.open_connection(HOST, urlsplit(server.url).port)
        writer.write(first)
        assert b" 404 " in await reader.readuntil(b"}}")
        writer.write(b"body" + row.data("http"))
        line = await reader.readline()
        writer.close()
        assert int(line.split()[1]) == row.status


async def test_who_asks_leave_to_send_a_body_is_told_in_the_lobby_too() -> None:
    data = f"{POSTING}\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 18\r\nConnection: close\r\n\r\n"
    async with served(role="gateway", max_connections=1) as server, asyncio.timeout(PATIENCE):
        holder, holding = await asyncio.open_connection(HOST, urlsplit(server.url).port)
        holding.write(EVENTS)
        await holder.readuntil(b"retry")
        reader, writer = await asyncio.open_connection(HOST, urlsplit(server.url).port)
        writer.write(data.encode())
        holding.close()
        assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
        writer.write(b'{"message": "hi!"}')
        assert b" 202 " in await reader.readline()
        writer.close()


IN_PLACE_OF_LEAVE = [
    Row("more than is read", 413, "message_too_large", line=POSTING, headers=["Content-Length: 600000"]),
    Row("no such route", 404, "not_found", line="POST /nowhere HTTP/1.1", headers=["Content-Length: 18"]),
    Row("another method", 405, "method_not_allowed", line="PUT /healthz HTTP/1.1", headers=["Content-Length: 18"]),
    Row("a host that is not ours", 400, "invalid_message", line=POSTING, host=("Host: evil.example.com",),
        headers=["Content-Length: 18"]),
    Row("a length and a coding", 400, "ambiguous_length", line=POSTING, headers=["Content-Length: 18", CHUNKED]),
]  # fmt: skip


@pytest.mark.parametrize("sends", [False, True], ids=["who waits", "who sends all the same"])
@pytest.mark.parametrize("row", IN_PLACE_OF_LEAVE, ids=[row.name for row in IN_PLACE_OF_LEAVE])
async def test_an_answer_in_place_of_leave_to_send_a_body_is_the_last_of_its_connection(row: Row, sends: bool) -> None:
    """Whether the body comes after it, or the next request, nobody can tell: it says so, and nothing more is read."""
    data = Row(row.name, row.status, row.code, row.line, [*row.headers, ASKING], row.host).data("http")
    async with served(role="gateway") as server, asyncio.timeout(PATIENCE):
        caller = await call(server, data)
        if sends:
            await caller.send(b"x" * 600_000)
        head, body = await caller.answer()
    assert (int(head.split()[1]), json.loads(body)["error"]["code"]) == (row.status, row.code)
    assert head.count(b"connection: close") == 1


async def test_who_was_given_leave_may_go_on_with_the_connection() -> None:
    head = f"{POSTING}\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 18\r\n\r\n".encode()
    async with served(role="gateway") as server, asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection(HOST, urlsplit(server.url).port)
        for _ in range(2):
            writer.write(head)
            assert b" 100 " in await reader.readuntil(b"\r\n\r\n")
            writer.write(b'{"message": "hi!"}')
            answer = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert b" 202 " in answer
            assert b"connection: close" not in answer
            await reader.readuntil(b"}")
        writer.close()
