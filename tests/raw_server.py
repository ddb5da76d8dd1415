"""A server that speaks HTTP for itself, byte for byte, and the client of models that asks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

from tests.patience import PATIENCE
from turnkeep.models.http_client import Client, Reply
from turnkeep.models.provider import Provider

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[str]:
    """The address of a server that speaks for itself."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            await serve(reader, writer)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=4 * 1024 * 1024)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


@asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncIterator[Client]:
    client = Client(Provider(url, **options))
    try:
        async with asyncio.timeout(PATIENCE):
            yield client
    finally:
        await client.close()


async def text_of(reply: Reply) -> bytes:
    with closing(reply):
        return await reply.body()
