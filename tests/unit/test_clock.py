"""When a process looks around by itself."""

from __future__ import annotations

import asyncio

import pytest

from turnkeep.clock import until_tick


@pytest.mark.parametrize("every", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("part", [0.0, 0.001, 0.5, 0.899, 0.9, 0.999, 1.0])
async def test_all_who_wait_for_a_tick_are_woken_together_and_nobody_twice(
    monkeypatch: pytest.MonkeyPatch, every: float, part: float
) -> None:
    now = (100_000 + part) * every
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    wait = until_tick(every)
    monkeypatch.undo()

    assert every / 10 < wait < every * 1.11
    ticks = (now + wait) / every
    assert ticks == pytest.approx(round(ticks), abs=1e-6)
