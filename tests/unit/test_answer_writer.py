"""An answer that says its length goes out as one piece, and is the answer that any server would give."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
import uvicorn
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from tests.patience import PATIENCE
from turnkeep.doors.backlog import Valve
from turnkeep.doors.http_transport import AnswerWriter, transports
from turnkeep.doors.peers import peers_of
from turnkeep.settings import Settings
from turnkeep.telemetry import SILENT

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
GO_ON = b"HTTP/1.1 100 \r\n\r\n"
LIKE_A_HEAD = HEAD + b"more"


class Line:
    """What is written, call by call."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.calls.append(data)

    def close(self) -> None:
        self.calls.append(b"closed")

    def is_closing(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("writes", "calls"),
    [
        ([HEAD, b"body"], [HEAD + b"body"]),
        ([HEAD, b""], [HEAD]),
        ([HEAD, b"bo", b"dy"], [HEAD + b"bo", b"dy"]),
        ([GO_ON, HEAD, b"body"], [GO_ON, HEAD + b"body"]),
        ([CHUNKED, b"4\r\nbody\r\n"], [CHUNKED, b"4\r\nbody\r\n"]),
        ([CHUNKED, LIKE_A_HEAD, b"end"], [CHUNKED, LIKE_A_HEAD, b"end"]),
        ([HEAD, LIKE_A_HEAD, LIKE_A_HEAD], [HEAD + LIKE_A_HEAD, LIKE_A_HEAD]),
    ],
    ids=["at once", "of HEAD", "in pieces", "after 100", "chunks", "a chunk like a head", "a body like a head"],
)
async def test_a_head_with_a_length_waits_for_what_comes_next_and_nothing_else_does(
    writes: list[bytes], calls: list[bytes]
) -> None:
    line = Line()
    writer = AnswerWriter(cast(Valve, line), line.close)
    for data in writes:
        writer.write(data)
    assert line.calls == calls
    assert not writer.is_closing()


async def test_a_head_whose_body_never_comes_goes_out_before_the_end() -> None:
    line = Line()
    writer = AnswerWriter(cast(Valve, line), line.close)
    writer.write(HEAD)
    writer.close()
    await asyncio.sleep(0)
    assert line.calls == [HEAD, b"closed"]


async def test_a_head_whose_body_takes_its_time_goes_out_at_the_next_turn_of_the_loop() -> None:
    line = Line()
    writer = AnswerWriter(cast(Valve, line), line.close)
    writer.write(HEAD)
    await asyncio.sleep(0)
    assert line.calls == [HEAD]
    writer.write(b"body")
    assert line.calls == [HEAD, b"body"]


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers of every kind, by the path."""
    body = b""
    while (event := await receive())["type"] == "http.request":
        body += event["body"]
        if not event["more_body"]:
            break
    answers: dict[str, Response] = {
        "/json": JSONResponse({"sent": body.decode()}, 202),
        "/empty": Response(status_code=204),
        "/large": PlainTextResponse(b"x" * 300_000),
        "/stream": StreamingResponse(iter([b"one", b"two"])),
    }
    if scope["path"] == "/broken":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        raise RuntimeError
    await answers[scope["path"]](scope, receive, send)


@asynccontextmanager
async def listening(*, ours: bool) -> AsyncIterator[int]:
    """A server of ours, or uvicorn's own; its port."""
    config = uvicorn.Config(application, lifespan="off", log_config=None)
    config.load()
    protocol = transports(peers_of(Settings(_env_file=None), SILENT))[0] if ours else H11Protocol

    def connection() -> asyncio.Protocol:
        made: asyncio.Protocol = protocol(config=config, server_state=ServerState(), app_state={})
        return made

    server = await asyncio.get_running_loop().create_server(connection, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def answer(port: int, requests: bytes) -> bytes:
    """All that comes on one connection to these requests, the last of which ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(requests)
    async with asyncio.timeout(PATIENCE):
        data = await reader.read()
    writer.close()
    return b"\r\n".join(line for line in data.split(b"\r\n") if not line.startswith((b"date:", b"server:")))


def request(method: str, path: str, *headers: str, body: str = "") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", body]).encode()


LAST = request("GET", "/json", "Connection: close")


@pytest.mark.parametrize(
    "requests",
    [
        request("POST", "/json", body="hello") + request("POST", "/json", "Connection: close", body="again"),
        request("HEAD", "/json") + LAST,
        request("GET", "/empty") + LAST,
        request("GET", "/large") + LAST,
        request("GET", "/stream") + LAST,
        request("POST", "/json", "Expect: 100-continue", "Connection: close", body="hello"),
        request("GET", "/broken"),
    ],
    ids=["two on a connection", "HEAD", "204", "large", "chunks", "100", "broken"],
)
async def test_what_is_written_together_is_what_uvicorn_writes(requests: bytes) -> None:
    async with listening(ours=True) as ours, listening(ours=False) as theirs:
        assert await answer(ours, requests) == await answer(theirs, requests) != b""
