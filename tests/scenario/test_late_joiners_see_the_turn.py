"""Whoever joins a turn in the middle sees all of it, calls and thoughts in their places, on every engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.scenario.house import TestHouse, opened
from turnkeep.events import BESIDE_TEXT, Event
from turnkeep.tools.tool import tool
from turnkeep.turn_growth import TurnGrowth

GOLDEN = (
    '[[reason:hm]] [[comment:Let me see.]] [[call:look {"amount": 5}]] [[call:look {"amount": 6}]] '
    "[[words:60]] [[pace:5]]"
)
FIELDS: dict[str, Any] = {"show_reasoning": True, "parameters": {"reasoning": {"effort": "low", "summary": "auto"}}}


@tool(effect="pure", show="all")
async def look(amount: int) -> str:
    """Look."""
    await asyncio.sleep(0.05)
    return f"saw {amount}"


@pytest.fixture(params=["memory", "sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_server").url())
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'turnkeep.db'}"


async def told(house: TestHouse, growth: TurnGrowth, wait: float) -> list[tuple[str, Any]]:
    """What somebody is told who joins after so many seconds: kinds and contents, neighbouring texts as one."""
    await asyncio.sleep(wait)
    shown: list[Event] = []
    async with house.stream("c") as stream:
        top = stream.subscription_start.top
        async for event in stream:
            growth.fold(event)
            if event.offset >= top:
                shown += growth.advance()
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
    async with opened(place, tools=[look]) as house:
        made = await house.queue.assistants.create("default", FIELDS, now=house.queue.clock.now())
        await house.queue.assistants.use("default", made.assistant_id)
        joining = [asyncio.ensure_future(told(house, TurnGrowth(), number * 0.05)) for number in range(10)]
        await house.send("c", GOLDEN, "m1")
        first, *others = await asyncio.gather(*joining)

        assert {kind for kind, _ in first} == {"delta", *BESIDE_TEXT - {"source", "file"}}
        # who comes when the turn is over is told nothing of it: the transcript has it
        assert [one for one in others if one not in ([], first)] == []
        assert others.count(first) >= 3
