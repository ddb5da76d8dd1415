"""Whoever joins a turn in the middle sees all of it, calls and thoughts in their places, on every engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.patience import until
from tests.scenario.house import TestHouse, opened
from turnkeep.events import BESIDE_TEXT, Event
from turnkeep.tools.tool import tool
from turnkeep.turn_growth import TurnGrowth

GOLDEN = (
    '[[reason:hm]] [[comment:Let me see.]] [[call:look {"amount": 5}]] [[call:look {"amount": 6}]] '
    "[[words:60]] [[pace:5]]"
)
FIELDS: dict[str, Any] = {"show_reasoning": True, "parameters": {"reasoning": {"effort": "low", "summary": "auto"}}}


class Joiners:
    """Those who join, and where the turn is: each joins at a state of the turn, whatever the machine is busy with."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.subscribed = 0
        self.letters = 0

    def is_time(self, number: int) -> bool:
        """The first half joins while the tool waits for them, the others at a letter of the answer each."""
        return self.letters >= (1 if number < self.number // 2 else number * 20)

    @property
    def is_half_there(self) -> bool:
        return self.subscribed >= self.number // 2

    @property
    def are_all_there(self) -> bool:
        return self.subscribed == self.number


@pytest.fixture(
    params=[
        pytest.param("memory", marks=pytest.mark.only_in_prove),  # daily in the contract
        "sqlite",
        pytest.param("redis", marks=pytest.mark.redis),
    ]
)
def place(request: pytest.FixtureRequest, memory_path: Path) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_server").url())
    return "memory:" if request.param == "memory" else f"sqlite:{memory_path / 'turnkeep.db'}"


async def told(house: TestHouse, joiners: Joiners, *, is_first: bool = False) -> list[tuple[str, Any]]:
    """What somebody who joins now is told of one turn: kinds and contents, neighbouring texts as one."""
    growth = TurnGrowth()
    shown: list[Event] = []
    async with house.stream("c") as stream:
        joiners.subscribed += 1
        top = stream.subscription_start.top
        async for event in stream:
            growth.fold(event)
            if event.offset >= top:
                shown += growth.advance()
            if is_first and event.kind == "delta":
                joiners.letters += len(event.text)
            if event.is_final:
                break
    joined: list[tuple[str, Any]] = []
    for event in shown:
        is_text = event.kind in ("delta", "reasoning")
        if is_text and joined and joined[-1][0] == event.kind:
            joined[-1] = (event.kind, joined[-1][1] + event.text)
        else:
            joined.append((event.kind, event.text if is_text else event.detail))
    return joined


async def test_all_who_join_are_told_the_same_turn_in_the_same_order(place: str) -> None:
    joiners = Joiners(10)

    @tool(effect="pure", show="all")
    async def look(amount: int) -> str:
        """Look."""
        await until(lambda: joiners.is_half_there)
        return f"saw {amount}"

    async def join(house: TestHouse, number: int) -> list[tuple[str, Any]]:
        await until(lambda: joiners.is_time(number))
        return await told(house, joiners)

    async with opened(place, tools=[look]) as house, asyncio.TaskGroup() as group:
        made = await house.queue.assistants.create("default", FIELDS, now=house.queue.clock.now())
        await house.queue.assistants.use("default", made.assistant_id)
        witness = group.create_task(told(house, joiners, is_first=True))
        others = [group.create_task(join(house, number)) for number in range(1, joiners.number)]
        await until(lambda: joiners.subscribed == 1)
        await house.send("c", GOLDEN, "m1")
        first = await witness
        # who comes when the turn is over is told nothing of it (the transcript has it), and all of the next
        await until(lambda: joiners.are_all_there)
        await house.send("c", "[[words:3]]", "m2")
        all_told = [await other for other in others]

        assert {kind for kind, _ in first} == {"delta", *BESIDE_TEXT - {"source", "file"}}
        assert all_told.count(first) >= joiners.number // 2 - 1
        late = [one for one in all_told if one != first]
        assert [one for one in late if [kind for kind, _ in one] != ["delta"] or len(one[0][1].split()) != 3] == []
