"""A server on a real socket that speaks as Redis does, and loses or refuses what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import hiredis

from turnkeep.store.redis.client.dialing import Dialer, ServerAddress
from turnkeep.store.redis.client.topology import Single

INFO = b"run_id:1234\r\nrole:master\r\n"
HANG_UP = object()
"""The answer that never comes: the connection is cut instead."""


class TalkingServer:
    """`answers`: by command, what is said to it; HANG_UP cuts the connection after the command was taken in."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[list[bytes]], Any]] = {}
        self.commands: list[list[bytes]] = []
        self.writers: set[asyncio.StreamWriter] = set()
        self.address = ServerAddress("127.0.0.1", 0)

    @property
    def topology(self) -> Single:
        return Single(self.address)

    @property
    def dialer(self) -> Dialer:
        return Dialer(f"redis://{self.address}/0")

    def count(self, name: bytes) -> int:
        return sum(command[0] == name for command in self.commands)

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        parser = hiredis.Reader()
        while data := await reader.read(65_536):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                self.commands.append(command)
                answer = self._answer(command)
                if answer is HANG_UP:
                    writer.transport.abort()
                    return
                writer.write(answer)
        self.writers.discard(writer)
        writer.close()

    def _answer(self, command: list[bytes]) -> Any:
        name = command[0].decode()
        if name in self.answers:
            return self.answers[name](command)
        if name == "INFO":
            return b"$%d\r\n%b\r\n" % (len(INFO), INFO)
        if command[:2] == [b"SCRIPT", b"EXISTS"]:
            return b"*%d\r\n" % (len(command) - 2) + b":1\r\n" * (len(command) - 2)
        if name == "EVAL":
            return b":0\r\n"
        return b"+OK\r\n"


@asynccontextmanager
async def talking_server() -> AsyncIterator[TalkingServer]:
    server = TalkingServer()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.address = ServerAddress("127.0.0.1", listening.sockets[0].getsockname()[1])
    try:
        yield server
    finally:
        listening.close()
        server.cut()
