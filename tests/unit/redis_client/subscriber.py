"""A subscriber of a server that speaks as Redis does, and what it heard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.patience import PATIENCE
from tests.unit.redis_client.server import TalkingServer, talking_server
from turnkeep.store.redis.client.subscriptions import Subscriptions


class Notes:
    """A listener that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.gaps = 0
        self.has_news = asyncio.Event()

    def on_message(self, channel: bytes, data: bytes) -> None:
        self.heard.append(data)
        self.has_news.set()

    def on_gap(self, channel: bytes) -> None:
        self.gaps += 1
        self.has_news.set()

    async def wait(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.has_news.wait()
        self.has_news.clear()


def acknowledge(command: list[bytes]) -> bytes:
    return b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(command[1]), command[1])


@asynccontextmanager
async def subscribed() -> AsyncIterator[tuple[TalkingServer, Subscriptions]]:
    async with talking_server() as server:
        server.answers["SUBSCRIBE"] = acknowledge
        subscriptions = Subscriptions(server.topology, server.dialer, timeout=5.0)
        try:
            yield server, subscriptions
        finally:
            subscriptions.close()
