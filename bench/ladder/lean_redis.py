"""The floor of a queue on Redis: three small scripts that keep a message, hand it out and end it, over a bare pipe.

Durable as Redis is, deduplicated, leased, with an event for whoever listens; without everything else that is promised.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Self, cast

import hiredis

SCRIPTS = {
    "accept": """
        if redis.call('SET', KEYS[1], '1', 'NX', 'EX', 604800) then
            redis.call('RPUSH', KEYS[2], ARGV[2])
            redis.call('ZADD', KEYS[3], ARGV[3], ARGV[1])
        end
        return 1""",
    "claim": """
        local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[2])
        local out = {}
        for _, thread in ipairs(due) do
            redis.call('ZADD', KEYS[1], ARGV[3], thread)
            out[#out + 1] = {thread, redis.call('LRANGE', KEYS[2] .. thread, 0, 63)}
        end
        return out""",
    "commit": """
        redis.call('DEL', KEYS[1])
        redis.call('ZREM', KEYS[2], ARGV[1])
        redis.call('RPUSH', KEYS[3], ARGV[2])
        redis.call('XADD', KEYS[4], '*', 'e', ARGV[2])
        redis.call('PUBLISH', KEYS[4], ARGV[2])
        return 1""",
}


class Pipe(asyncio.Protocol):
    """One connection; what is sent within a turn of the loop leaves together."""

    def __init__(self) -> None:
        self._reader, self._waiting = hiredis.Reader(), deque[asyncio.Future[Any]]()
        self._out: list[bytes] = []
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            future = self._waiting.popleft()
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    def call(self, *arguments: str | bytes | int | float) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(future)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(hiredis.pack_command(arguments))  # type: ignore[arg-type]  # of any length
        return future

    def _flush(self) -> None:
        self.transport.write(b"".join(self._out))
        self._out.clear()


class LeanQueue:
    def __init__(self, pipe: Pipe, shas: dict[str, bytes]) -> None:
        self._pipe = pipe
        self._shas = shas

    @classmethod
    async def open(cls, port: int) -> Self:
        _, pipe = await asyncio.get_running_loop().create_connection(Pipe, "127.0.0.1", port)
        await pipe.call("FLUSHALL")
        return cls(pipe, {name: await pipe.call("SCRIPT", "LOAD", text) for name, text in SCRIPTS.items()})

    async def accept(self, thread: str, message_id: str, body: bytes) -> None:
        keys = (f"k:{thread}:{message_id}", f"in:{thread}", "due")
        await self._pipe.call("EVALSHA", self._shas["accept"], 3, *keys, thread, body, 0)

    async def claim(self, limit: int) -> list[tuple[bytes, list[bytes]]]:
        claims: list[tuple[bytes, list[bytes]]] = await self._pipe.call(
            "EVALSHA", self._shas["claim"], 2, "due", "in:", 1, limit, 2_000_000_000
        )
        return claims

    async def commit(self, thread: str, answer: bytes) -> None:
        keys = (f"in:{thread}", "due", f"t:{thread}", f"e:{thread}")
        await self._pipe.call("EVALSHA", self._shas["commit"], 4, *keys, thread, answer)

    def close(self) -> None:
        self._pipe.transport.close()
