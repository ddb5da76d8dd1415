"""The link to Redis: what is sent again, how often, and what is never sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.unit.redis_client.server import HANG_UP, TalkingServer, talking_server
from turnkeep.errors import OutcomeUnknown, StoreError
from turnkeep.store.redis.client.link import ATTEMPTS, Link
from turnkeep.store.redis.client.scripts import Script


def script(name: str, *keys: str) -> Script:
    return Script(name, keys, (), b"return 1", name.encode().ljust(40, b"0"))


class OnePartition:
    """A partition that an engine of one key might have."""

    index = 0
    tag = b"{0}"

    def of(self, script: Script) -> tuple[bytes, ...]:
        return (b"{0}key",) * len(script.keys)


PARTITION = OnePartition()


async def look_nowhere(endpoint: object, pipe: object) -> None:
    """An engine that asks nothing of its servers."""


@asynccontextmanager
async def linked() -> AsyncIterator[tuple[TalkingServer, Link]]:
    scripts = {name: script(name, "key") for name in ("greet", "accept")}
    async with talking_server() as server:
        link = Link(server.topology, server.dialer, scripts, timeout=5.0, look=look_nowhere)
        try:
            yield server, link
        finally:
            link.close()


async def accept(link: Link) -> Any:
    return await link.run("accept", PARTITION, [b"{0}key"], b"m1")


async def test_an_order_whose_reply_is_lost_is_given_again_until_it_is_answered() -> None:
    async with linked() as (server, link):
        answers = iter([HANG_UP, HANG_UP, b":7\r\n"])
        server.answers["EVALSHA"] = lambda command: next(answers)

        assert await accept(link) == 7
        assert server.count(b"EVALSHA") == 3


async def test_an_order_is_given_a_bounded_number_of_times_and_then_its_outcome_is_unknown() -> None:
    async with linked() as (server, link):
        server.answers["EVALSHA"] = lambda command: HANG_UP

        with pytest.raises(OutcomeUnknown):
            await accept(link)
        assert server.count(b"EVALSHA") == ATTEMPTS


async def test_each_repeat_names_the_same_act() -> None:
    async with linked() as (server, link):
        server.answers["EVALSHA"] = lambda command: HANG_UP

        with pytest.raises(OutcomeUnknown):
            await accept(link)
        orders = [command for command in server.commands if command[0] == b"EVALSHA"]
        assert orders == [orders[0]] * ATTEMPTS


async def test_what_nobody_waits_for_is_never_sent_twice() -> None:
    async with linked() as (server, link):
        server.answers["EVALSHA"] = lambda command: b":1\r\n"
        await accept(link)
        greetings = server.count(b"EVAL")
        server.answers["EVAL"] = lambda command: HANG_UP
        link.tell("accept", PARTITION.tag, [b"{0}key"], b"m1")
        asked = link.ask("accept", PARTITION.tag, [b"{0}key"], b"m1")

        assert asked is not None
        with pytest.raises(OutcomeUnknown):
            await asked
        server.answers["EVAL"] = lambda command: b":0\r\n"
        await accept(link)  # opens a connection again, and greets on it
        assert server.count(b"EVAL") == greetings + 2


async def test_a_script_that_the_server_forgot_is_loaded_and_run() -> None:
    async with linked() as (server, link):
        answers = iter([b"-NOSCRIPT No matching script.\r\n", b":7\r\n"])
        server.answers["EVALSHA"] = lambda command: next(answers)

        assert await accept(link) == 7
        assert [b"SCRIPT", b"LOAD", b"return 1"] in server.commands


async def test_a_refusal_that_stays_is_raised_and_not_sent_again() -> None:
    async with linked() as (server, link):
        server.answers["EVALSHA"] = lambda command: b"-ERR it is forbidden on Sundays\r\n"

        with pytest.raises(StoreError, match="Sundays"):
            await accept(link)
        assert server.count(b"EVALSHA") <= 2


async def test_a_connection_greets_a_partition_once_before_the_first_order() -> None:
    async with linked() as (server, link):
        server.answers["EVALSHA"] = lambda command: b":1\r\n"
        for _ in range(3):
            await accept(link)

        names = [command[0] for command in server.commands if command[0] in (b"EVAL", b"EVALSHA")]
        assert names == [b"EVAL", b"EVALSHA", b"EVALSHA", b"EVALSHA"]
        assert link.incarnations == {0: 0}


async def test_orders_of_one_tick_share_one_connection() -> None:
    async with linked() as (server, link):
        server.answers["EVALSHA"] = lambda command: b":1\r\n"

        assert await asyncio.gather(*[accept(link) for _ in range(50)]) == [1] * 50
        assert len(server.writers) == 1


async def test_a_closed_link_says_so() -> None:
    async with linked() as (_, link):
        link.close()

        with pytest.raises(StoreError, match="closed"):
            await accept(link)


async def test_a_script_is_loaded_just_before_its_first_order_and_no_other_one() -> None:
    """The server keeps in memory what is loaded, and orders of one tick are taken in their order."""
    async with linked() as (server, link):
        server.answers["SCRIPT"] = lambda command: b"*2\r\n:0\r\n:0\r\n" if command[1] == b"EXISTS" else b"+OK\r\n"
        server.answers["EVALSHA"] = lambda command: b":7\r\n"

        assert list(await asyncio.gather(accept(link), accept(link))) == [7, 7]
        assert await accept(link) == 7

        orders = [command[:2] for command in server.commands if command[0] in (b"SCRIPT", b"EVALSHA")]
        digest = script("accept").sha
        assert orders == [[b"SCRIPT", b"EXISTS"], [b"SCRIPT", b"LOAD"], *[[b"EVALSHA", digest]] * 3]
