"""A clock that is set back delays nothing for as long as it was set back."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest

from tests.patience import PATIENCE
from turnkeep.auth.limits import Rate
from turnkeep.clock import SystemClock
from turnkeep.store import Policies, Policy, open_store


class Watch:
    """The machine's clock, set to another time; sleeping takes as long as ever."""

    ahead = 0.0


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setattr("turnkeep.clock.time", SimpleNamespace(time=lambda: time.time() + watch.ahead))
    return watch


@pytest.mark.parametrize("waiting", ["ready", "nudged"])
async def test_waiting_ends_in_its_time(store: str, waiting: str, watch: Watch) -> None:
    opened = open_store(store, Policies(Policy()))
    await opened.open()
    wait = opened.ready(queues=None, timeout=0.4) if waiting == "ready" else opened.wait_nudge("me", timeout=0.4)
    try:
        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(wait)
            await asyncio.sleep(0.1)
            watch.ahead = -3600.0
    finally:
        await opened.close()


def test_a_rate_is_refilled_from_the_new_time_on(watch: Watch) -> None:
    rate = Rate(1, 0.5, SystemClock())
    assert rate.take("k") == 0
    watch.ahead = -3600.0
    assert 0 < rate.take("k") <= 0.5
    watch.ahead += 0.5
    assert rate.take("k") == 0
