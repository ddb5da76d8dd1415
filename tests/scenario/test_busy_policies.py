"""What a message does that finds its thread busy: six policies, seven situations, as one table.

A first message brings the thread into the situation; `second` comes with the policy, `third` with the default
(collect). A turn is written with the messages it covers, an outcome other than completed after a slash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE, until
from tests.scenario.house import TestHouse, gate_answers, opened
from tests.services import RedisServer
from turnkeep.errors import ThreadBusy
from turnkeep.messages import BUSY_POLICIES, BusyPolicy
from turnkeep.store.values import Decision
from turnkeep.tools.tool import tool

TABLE = """
situation     | collect            | queue               | steer               | interrupt                    | rollback                     | reject
idle          | second+third       | second+third        | second+third        | second+third                 | second+third                 | second+third
window open   | first+second+third | first+second+third  | first+second+third  | first+second+third           | first+second+third           | first+second+third
running       | first, second+third| first, second, third| first+second, third | first/cancelled, second+third| first/cancelled, second+third| first, third
in a tool     | first, second+third| first, second, third| first+second, third | first/cancelled, second+third| first/cancelled, second+third| first, third
retry waiting | first, second+third| first, second, third| first, second+third | first/cancelled, second+third| first/cancelled, second+third| first, third
held          | first, second+third| first, second, third| first, second+third | first/cancelled, second+third| first/cancelled, second+third| first, third
draining      | first, second+third| first, second, third| first+second, third | first/cancelled, second+third| first/cancelled, second+third| first, third
"""  # noqa: E501

ROWS = [[cell.strip() for cell in line.split("|")] for line in TABLE.strip().splitlines()]
EXPECTED = {(row[0], policy): row[1 + i] for row in ROWS[1:] for i, policy in enumerate(ROWS[0][1:])}

FIRST = {
    "window open": "first",
    "running": "first [[words:3]] [[pace:1]]",
    "in a tool": "first [[call:linger {}]]",
    "retry waiting": "first",
    "held": "first [[call:ask_first {}]]",
    "draining": "first [[words:3]] [[pace:1]]",
}


AT_WORK = ("running", "in a tool", "draining")


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def store(request: pytest.FixtureRequest, memory_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:{memory_path / 'turnkeep.db'}"
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        yield server.url()


@pytest.mark.daily(rows=2)  # each cell of the table on one of the engines
@pytest.mark.parametrize("policy", BUSY_POLICIES)
@pytest.mark.parametrize("situation", [row[0] for row in ROWS[1:]])
async def test_a_message_on_a_busy_thread_does_what_its_policy_says(
    store: str, situation: str, policy: BusyPolicy
) -> None:
    gate = asyncio.Event()  # of the tool, or of the answer

    @tool(effect="pure")
    async def linger() -> str:
        """Take a while."""
        await gate.wait()
        return "done"

    @tool(needs_approval=True)
    def ask_first() -> str:
        """Ask first."""
        return "done"

    settings: dict[str, Any] = {"window": 60.0, "max_wait": 120.0, "drain": 30.0}  # until the third message ends it
    async with AsyncExitStack() as stack:
        house = await stack.enter_async_context(opened(store, tools=[linger, ask_first], **settings))
        gate_answers(house.simulator, gate)
        await bring_about(house, situation)

        refused = await sent(house, policy)
        third = await house.send("c", "third", "third", flush=True)
        if situation in AT_WORK:  # nothing goes on before the worker has heard of it
            await heard(house, policy)
        gate.set()
        if situation == "draining":
            await until(lambda: house.queue._worker is not None and house.queue._worker.active == 0)
            house = await stack.enter_async_context(opened(store, tools=[linger, ask_first], **settings))
        await eventually_answered(house, "third")

        assert await turns(house) == EXPECTED[situation, policy]
        assert refused == (policy == "reject" and situation not in ("idle", "window open"))
        assert third.position >= 1
        assert house.simulator.ledger.overlaps() == []
        assert house.simulator.ledger.twice_within_a_request() == []


async def bring_about(house: TestHouse, situation: str) -> None:
    """Send the first message and wait until its thread is in the situation."""
    if situation == "idle":
        return
    if situation == "retry waiting":
        house.fault(kind="500", match="first", times=1, retry_after=5)  # no jitter; outlasts a machine that stops
    async with house.stream("c") as stream:
        await house.send("c", FIRST[situation], "first", flush=situation != "window open")
        awaited = {"running": "delta", "in a tool": "processing", "retry waiting": "retrying", "held": "held"}
        awaited |= {"draining": "delta", "window open": "accepted"}
        await house.until(stream, lambda event: event.kind == awaited[situation])
    if situation == "draining":
        assert house.queue._worker is not None
        house.queue._worker.stop()


async def sent(house: TestHouse, policy: BusyPolicy) -> bool:
    """Send the second message; whether it was refused."""
    try:
        receipt = await house.send("c", "second", "second", on_busy=policy)
    except ThreadBusy:
        return True
    assert receipt.status == "accepted"
    return False


async def heard(house: TestHouse, policy: BusyPolicy) -> None:
    """The worker knows what the second message wants of the run."""
    if policy in ("interrupt", "rollback"):
        await eventually_answered(house, "first")
    elif policy == "steer":
        assert house.queue._worker is not None
        leases = house.queue._worker.keeper.leases
        await until(lambda: any(lease.wants_steering for lease in leases.values()))


async def approve(house: TestHouse) -> None:
    """Whatever is asked. A rolled back turn leaves its question, so the model may ask again."""
    record = await house.queue.store.thread(house.address("c"))
    for call in record.calls if record is not None and record.state == "held" else ():
        if call.decision is None:
            await house.queue.store.decide(house.address("c"), call.call_id, call.digest, Decision("approved"))


async def eventually_answered(house: TestHouse, message_id: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            record = await house.queue.store.message(house.address("c"), message_id)
            if record is not None and record.status in ("answered", "cancelled", "dead"):
                return
            await approve(house)
            await asyncio.sleep(0.02)


async def turns(house: TestHouse) -> str:
    """The committed turns in the words of the table."""
    told, seen = [], set[str]()
    for message_id in ("first", "second", "third"):
        record = await house.queue.store.message(house.address("c"), message_id)
        if record is None or message_id in seen:
            continue
        seen |= set(record.covers)
        told.append("+".join(record.covers) + ("" if record.status == "answered" else f"/{record.status}"))
    return ", ".join(told)
