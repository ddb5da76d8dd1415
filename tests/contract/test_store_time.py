"""The time of a store on Redis: all processes agree on it, it goes on as seconds pass, and no clock can set it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.contract.leaps import LEAPS
from tests.contract.redis_desk import store_on
from tests.services import RedisServer
from turnkeep.clock import SteadyClock
from turnkeep.store.redis.client.link import Link
from turnkeep.store.redis.timekeeping import StoreTime
from turnkeep.testing import FakeClock

Size = Callable[[int, int], int]
TOLERANCE = 6.0
WALL = b"the clock of the server"
KEY = b"{time}clock"


@dataclass
class ServerWithAClock:
    """A server whose clock is set by hand; seconds pass as the test says."""

    link: Link
    clock: FakeClock
    off: float = 0.0

    async def run_apart(self, name: str, key: bytes, keys: tuple[bytes, ...], *arguments: bytes) -> object:
        text = self.link.scripts[name].text.replace(b"redis.call('TIME')", b"{ARGV[4], 0}")
        wall = repr(self.clock.now() + self.off)
        return await self.link.call(name, key, None, "EVAL", text, len(keys), *keys, *arguments, wall)

    def process(self) -> StoreTime:
        """What another process knows."""
        return StoreTime(SteadyClock(self.clock), KEY, b"layout", tolerance=TOLERANCE, partitions=None)


@pytest_asyncio.fixture
async def server(redis_server: RedisServer) -> AsyncIterator[ServerWithAClock]:
    redis_server.fresh()
    async with store_on(redis_server.url()) as store:
        yield ServerWithAClock(store._link, FakeClock())


async def told(process: StoreTime, server: ServerWithAClock) -> float:
    return await process.look(server)  # type: ignore[arg-type]  # all that it asks of a link


@pytest.mark.parametrize("off", [off for off in LEAPS if off])
async def test_a_clock_that_is_set_moves_nothing(server: ServerWithAClock, off: float) -> None:
    one = server.process()
    begun = await told(one, server)
    server.off = off
    server.clock.advance(2.0)

    assert await told(one, server) == begun + 2.0
    late = server.process()
    assert await told(late, server) == begun + 2.0
    server.off = 0.0
    server.clock.advance(1.0)
    assert await told(late, server) == begun + 3.0
    assert await told(one, server) == begun + 3.0


async def test_a_long_silence_is_no_leap(server: ServerWithAClock) -> None:
    one = server.process()
    begun = await told(one, server)
    server.clock.advance(30 * 86_400.0)

    assert await told(one, server) == begun + 30 * 86_400.0
    assert one.ahead == 0.0


async def test_a_store_that_nobody_used_goes_on_with_the_time_of_its_server(server: ServerWithAClock) -> None:
    begun = await told(server.process(), server)
    server.clock.advance(7_200.0)
    one = server.process()

    assert await told(one, server) == begun + 7_200.0
    server.clock.advance(1.0)
    assert await told(one, server) == begun + 7_201.0


async def test_a_process_that_counted_too_little_is_not_believed_beside_others(server: ServerWithAClock) -> None:
    """A virtual machine that stood still, and its clock with it."""
    awake, asleep = server.process(), server.process()
    begun = await told(awake, server)
    await told(asleep, server)
    for _ in range(3600):
        server.clock.advance(1.0)
    await told(awake, server)
    asleep._base = (asleep._base or 0.0) - 3600.0
    asleep._told_at += 3600.0

    assert await told(asleep, server) == begun + 3600.0
    assert await told(awake, server) == begun + 3600.0


@pytest.mark.parametrize("damage", [("DEL", KEY), ("SET", KEY, "x"), ("HDEL", KEY, "last"), ("HSET", KEY, "last", "y")])
async def test_a_damaged_clock_is_set_by_the_next_who_knows(server: ServerWithAClock, damage: tuple[str, ...]) -> None:
    one = server.process()
    begun = await told(one, server)
    server.off = -86_400.0
    assert await told(one, server) == begun
    await server.link.call("damage", KEY, None, *damage)

    assert await told(one, server) == begun
    assert await told(server.process(), server) == begun


async def test_many_processes_agree_whatever_is_done_to_the_clock(server: ServerWithAClock, size: Size) -> None:
    dice = random.Random(11)
    processes = [server.process() for _ in range(4)]
    begun, start = server.clock.now(), server.clock.elapsed()
    for process in processes:
        assert await told(process, server) == begun
    for _ in range(size(150, 3_000)):
        server.clock.advance(dice.choice([0.0, 0.25, 1.0, 30.0]))
        passed = server.clock.elapsed() - start
        if dice.random() < 0.3:
            server.off = dice.choice(LEAPS)
            assert await told(dice.choice(processes), server) == begun + passed
        if dice.random() < 0.1:
            processes[dice.randrange(4)] = fresh = server.process()
            await told(fresh, server)
            server.clock.advance(1.0)
            assert await told(fresh, server) == begun + server.clock.elapsed() - start
        for process in processes:
            assert process.now() == begun + server.clock.elapsed() - start


async def test_scripts_are_told_the_time_of_the_server_it_was_opened_on(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url()) as store:
        seconds, micros = redis_server.cli("TIME")

        assert abs(await store.now() - (int(seconds) + int(micros) / 1e6)) < 5.0
