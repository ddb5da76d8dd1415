"""A run ends: after so many steps, and after so much time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scenario.house import opened
from turnkeep.tools.tool import tool


@tool(effect="pure")
def look() -> str:
    """Look once more."""
    return "nothing yet"


@pytest.mark.parametrize(("steps", "kind"), [(2, "completed"), (1, "dead")])
async def test_a_run_has_so_many_steps_and_no_more(steps: int, kind: str) -> None:
    async with opened(tools=[look], max_steps=steps, max_attempts=1) as house, house.stream("c") as stream:
        await house.send("c", "[[call:look {}]]", "m1", flush=True)
        ended = (await house.settled(stream, "m1"))[-1]
        assert ended.kind == kind
        assert kind == "completed" or (ended.error is not None and ended.error.code == "too_many_steps")


@pytest.mark.parametrize(("deadline", "kind"), [(60.0, "completed"), (0.3, "dead")])
async def test_a_run_has_so_much_time_and_no_more(deadline: float, kind: str) -> None:
    values: dict[str, Any] = {"run_deadline": deadline, "max_attempts": 1}
    async with opened(**values) as house, house.stream("c") as stream:
        house.fault(kind="stall", seconds=1.5)
        await house.send("c", "hello", "m1", flush=True)
        ended = (await house.settled(stream, "m1"))[-1]
        assert ended.kind == kind
        assert kind == "completed" or (ended.error is not None and ended.error.code == "run_timed_out")
