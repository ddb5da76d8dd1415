"""Subscriptions: nobody hears nothing without being told that something may have been missed."""

from __future__ import annotations

import asyncio

from tests.patience import PATIENCE
from tests.unit.redis_client.server import HANG_UP
from tests.unit.redis_client.subscriber import Notes, acknowledge, subscribed


async def test_what_is_published_after_listen_returned_is_heard() -> None:
    async with subscribed() as (server, subscriptions):
        notes = Notes()
        await subscriptions.listen(b"c", notes)
        for writer in server.writers:
            writer.write(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n")
        await notes.wait()

        assert (notes.heard, notes.gaps) == ([b"hi"], 0)


async def test_a_lost_connection_is_a_gap_at_once_and_another_when_it_is_heard_again() -> None:
    async with subscribed() as (server, subscriptions):
        notes = Notes()
        await subscriptions.listen(b"c", notes)
        server.cut()
        await notes.wait()
        assert notes.gaps == 1
        assert not subscriptions.is_whole

        assert await subscriptions.tend()
        assert notes.gaps == 2


async def test_who_listens_while_nothing_can_be_heard_is_told_of_the_gap_later() -> None:
    async with subscribed() as (server, subscriptions):
        server.answers["SUBSCRIBE"] = lambda command: HANG_UP
        notes = Notes()
        await subscriptions.listen(b"c", notes)
        assert not subscriptions.is_whole
        assert notes.gaps == 0

        server.answers["SUBSCRIBE"] = acknowledge
        async with asyncio.timeout(PATIENCE):
            while not await subscriptions.tend():
                await asyncio.sleep(0.01)
        assert notes.gaps == 1


async def test_many_listeners_of_a_channel_are_one_subscription() -> None:
    async with subscribed() as (server, subscriptions):
        first, second = Notes(), Notes()
        await subscriptions.listen(b"c", first)
        await subscriptions.listen(b"c", second)
        subscriptions.leave(b"c", first)
        assert server.count(b"UNSUBSCRIBE") == 0

        assert server.count(b"SUBSCRIBE") == 1


async def test_who_comes_while_another_is_made_heard_is_heard_at_once_too() -> None:
    async with subscribed() as (_, subscriptions):
        first, second = Notes(), Notes()
        async with asyncio.TaskGroup() as group:
            for channel, notes in ((b"a", first), (b"b", second)):
                group.create_task(subscriptions.listen(channel, notes))

        assert subscriptions.is_whole
        assert (first.gaps, second.gaps) == (0, 0)


async def test_who_is_heard_does_not_wait_for_all_who_come_after_him() -> None:
    """A thousand sockets that come back one after the other must not keep the first from its start."""
    async with subscribed() as (server, subscriptions), asyncio.TaskGroup() as group:
        newcomers = iter(range(200))

        def acknowledge_as_another_comes(command: list[bytes]) -> bytes:
            if (number := next(newcomers, None)) is not None:
                group.create_task(subscriptions.listen(b"%d" % number, Notes()))
            return acknowledge(command)

        server.answers["SUBSCRIBE"] = acknowledge_as_another_comes
        await subscriptions.listen(b"first", Notes())

        assert server.count(b"SUBSCRIBE") < 10
    assert subscriptions.is_whole
