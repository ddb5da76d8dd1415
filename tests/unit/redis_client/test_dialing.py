"""Opening connections to Redis: whatever is lost meanwhile is told as a server that cannot be reached."""

from __future__ import annotations

import pytest
import redis.asyncio as redis

from turnkeep.errors import StoreUnavailable
from turnkeep.store.redis.client.dialing import Dialer, ServerAddress, answer
from turnkeep.store.redis.client.subscriptions import SubscriberConnection


class Closed(redis.Connection):
    """What uvloop makes of a connection whose other side went away during the greeting."""

    async def connect(self) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")

    async def send_command(self, *args: object, **options: object) -> None:
        await self.connect()


async def test_a_connection_closed_during_the_greeting_is_a_server_that_cannot_be_reached() -> None:
    dialer = Dialer("redis://127.0.0.1:1/0")
    dialer._class = Closed
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await dialer.dial(ServerAddress("127.0.0.1", 1))


async def test_a_connection_closed_before_a_question_is_a_server_that_did_not_answer() -> None:
    with pytest.raises(StoreUnavailable, match="did not answer"):
        await answer(Closed(), "PING")


async def test_a_subscription_on_a_connection_that_is_lost_is_refused_at_once() -> None:
    connection = SubscriberConnection(
        ServerAddress("127.0.0.1", 1),
        silence=60.0,
        tell=lambda channel, data: None,
        lose=lambda connection, channels: None,
    )
    assert connection.ask("SUBSCRIBE", b"c").result() is False
