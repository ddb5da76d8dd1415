"""What OpenAI works out in the background is asked for and paid once, whatever breaks in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.patience import until
from tests.scenario.house import TestHouse, gate_answers, opened
from turnkeep.simulator import Simulator, StreamPace, serve
from turnkeep.tools.tool import tool

TEXT = " ".join(f"word{number}" for number in range(60))
SIMULATED = "sk-simulator"
"""The key by which a server is known to be one that takes what OpenAI takes."""


@tool(effect="pure")
def double(number: int) -> int:
    """Twice a number."""
    return 2 * number


@contextlib.asynccontextmanager
async def in_background(store: str = "memory:", *, pace: float = 0.0, **settings: Any) -> AsyncIterator[TestHouse]:
    async with opened(store, openai_api_key=SIMULATED, **settings) as house:
        house.simulator.pace = StreamPace(token=pace)
        profile = await house.queue.assistants.default("default")
        assert profile is not None
        await house.queue.assistants.change("default", profile.assistant_id, {"background": True})
        yield house


async def test_an_answer_is_asked_for_in_the_background_and_kept_there(store: str) -> None:
    async with in_background(store, tools=[double]) as house, house.stream("c") as stream:
        house.simulator.options = house.simulator.options.but({"keep_bodies": True})
        await house.send("c", '[[reason]] [[call:double {"number": 21}]]', "m0")
        events = await house.settled(stream, "m0")
        assert "42" in events[-1].text
        assert [exchange.background for exchange in house.simulator.ledger] == [True, True]
        assert all(exchange.body["store"] is True for exchange in house.simulator.ledger)


async def test_a_stream_that_breaks_is_gone_on_with_and_nothing_is_shown_twice(store: str) -> None:
    async with in_background(store, max_attempts=1) as house, house.stream("c") as stream:
        house.fault(kind="cut", after=20)
        await house.send("c", f"[[say:{TEXT}]]", "m0")
        events = await house.settled(stream, "m0")
        assert events[-1].text == TEXT
        assert "".join(event.text for event in events if event.kind == "delta") == TEXT
        assert not [event for event in events if event.kind in ("snapshot", "retrying")]
        assert len(house.simulator.ledger) == 1


async def test_a_stream_that_breaks_in_a_later_step_is_gone_on_with_too() -> None:
    async with in_background(max_attempts=1, tools=[double]) as house, house.stream("c") as stream:
        house.fault(kind="cut", after=20, step=1)
        await house.send("c", f'[[comment:I look.]] [[call:double {{"number": 2}}]] [[say:{TEXT}]]', "m0")
        events = await house.settled(stream, "m0")
        assert events[-1].text == f"I look.\n\n{TEXT}"
        assert "".join(event.text for event in events if event.kind == "delta") == events[-1].text
        assert len(house.simulator.ledger) == 2


async def test_a_response_that_is_too_old_for_its_stream_is_waited_for() -> None:
    async with in_background(max_attempts=1, pace=0.01) as house, house.stream("c") as stream:
        house.simulator.options = house.simulator.options.but({"stream_expiry": 0.0})
        house.fault(kind="cut", after=3)
        await house.send("c", f"[[say:{TEXT}]]", "m0")
        events = await house.settled(stream, "m0")
        assert events[-1].text == TEXT
        assert len(house.simulator.ledger) == 1


async def test_a_response_that_has_failed_is_asked_for_again_in_the_next_attempt() -> None:
    async with in_background(max_attempts=2) as house, house.stream("c") as stream:
        house.fault(kind="failed", after=3)
        await house.send("c", f"[[say:{TEXT}]]", "m0")
        events = await house.settled(stream, "m0")
        assert events[-1].text == TEXT
        assert [event.kind for event in events].count("retrying") == 1
        assert [exchange.outcome for exchange in house.simulator.ledger] == ["failed", "completed"]


async def test_a_response_that_is_gone_is_asked_for_again() -> None:
    async with in_background(max_attempts=2, pace=0.005) as house, house.stream("c") as stream:
        house.simulator.options = house.simulator.options.but({"response_ttl": 0.0})
        house.fault(kind="cut", after=3)
        await house.send("c", f"[[say:{TEXT}]]", "m0")
        events = await house.settled(stream, "m0")
        assert events[-1].text == TEXT
        assert len(house.simulator.ledger) == 2


async def test_a_stop_stops_it_there_and_what_it_has_cost_is_counted(store: str) -> None:
    async with in_background(store, pace=0.1) as house, house.stream("c") as stream:
        await house.send("c", f"[[say:{TEXT}]]", "m0")
        await house.until(stream, lambda event: event.kind == "delta")
        await house.queue.cancel_run("c")
        events = await house.settled(stream, "m0")
        assert events[-1].outcome == "cancelled"
        (exchange,) = house.simulator.ledger
        assert exchange.outcome == "cancelled"
        assert exchange.sent < 60
        usage = events[-1].usage
        assert usage is not None
        assert (usage.requests, usage.estimated) == (1, 0)
        assert usage.output_tokens > 0


async def test_a_worker_that_lost_its_lease_leaves_the_answer_to_the_next() -> None:
    async with in_background(pace=0.02, lease=4.0) as house, house.stream("c") as stream:
        gate = gate_answers(house.simulator)
        await house.send("c", f"[[say:{TEXT}]]", "m0")
        await house.until(stream, lambda event: event.kind == "delta")
        [lease] = house.queue._worker.keeper.leases.values()  # type: ignore[union-attr]
        await house.queue.store.renew(lease.claim.owner, [], lease=4.0)
        gate.set()
        events = await house.settled(stream, "m0")
        assert events[-1].text == TEXT
        assert [event.attempt for event in events if event.kind == "started"] == [2]
        assert len(house.simulator.ledger) == 1


async def test_an_answer_that_is_given_up_is_stopped() -> None:
    async with in_background(pace=0.02, run_deadline=0.5, max_attempts=1) as house, house.stream("c") as stream:
        await house.send("c", f"[[say:{TEXT} {TEXT}]]", "m0")
        events = await house.settled(stream, "m0")
        assert events[-1].kind == "dead"
        await until(lambda: not house.simulator.ledger.open())
        assert [exchange.outcome for exchange in house.simulator.ledger] == ["cancelled"]


async def test_a_server_that_cannot_is_asked_as_ever() -> None:
    async with in_background(model_api="chat") as house, house.stream("c") as stream:
        await house.send("c", "hello", "m0")
        await house.settled(stream, "m0")
        assert [exchange.background for exchange in house.simulator.ledger] == [False]


async def test_many_answers_that_break_at_every_place_are_asked_for_once() -> None:
    async with in_background(max_attempts=1) as house:
        places = range(0, 60, 3)
        async with contextlib.AsyncExitStack() as stack:
            streams = {place: await stack.enter_async_context(house.stream(f"c{place}")) for place in places}
            for place in places:
                house.fault(kind="cut", after=place, match=f"number {place}.", how="reset" if place % 2 else "close")
                await house.send(f"c{place}", f"number {place}. [[say:{TEXT}]]", f"m{place}")
            settled = await asyncio.gather(*(house.settled(streams[place], f"m{place}") for place in places))
        assert [events[-1].text for events in settled] == [TEXT] * len(places)
        assert len(house.simulator.ledger) == len(places)


async def test_a_worker_that_leaves_gives_the_answer_to_the_next(tmp_path: Path) -> None:
    """A drain that is shorter than the answer: what was begun goes on there, and is read to its end by the next."""
    store = tmp_path / "store.db"
    simulator = Simulator(pace=StreamPace(token=0.03))
    async with serve(simulator) as url:
        settings: dict[str, Any] = {"openai_base_url": url, "drain": 0.1}
        async with in_background(str(store), **settings) as house, house.stream("c") as stream:
            await house.send("c", f"[[say:{TEXT}]]", "m0")
            await house.until(stream, lambda event: event.kind == "delta")
        async with in_background(str(store), **settings) as house, house.stream("c", after=0) as stream:
            events = await house.settled(stream, "m0")
        assert events[-1].text == TEXT
        assert len(simulator.ledger) == 1
