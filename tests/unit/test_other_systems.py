"""What is open beside the doors ends with them, whatever comes at that moment."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from tests.patience import PATIENCE
from turnkeep.doors import other_systems
from turnkeep.doors.other_systems import run_until_cancelled


class Stubborn:
    """Tries again after every failure; while it is cancelled its connection fails, so many times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.is_open = asyncio.Event()
        self.has_ended = False

    async def run(self) -> None:
        try:
            while True:
                with contextlib.suppress(ExceptionGroup):
                    async with asyncio.TaskGroup() as group:
                        group.create_task(self._connection())
                        self.is_open.set()
        finally:
            self.has_ended = True

    async def _connection(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if self.failures:
                self.failures -= 1
                raise ConnectionError("lost") from None
            raise


@pytest.mark.parametrize("failures", [0, 1, 3])
async def test_what_fails_while_it_is_cancelled_ends_all_the_same(
    failures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(other_systems, "HANGING_UP", 0.01)
    stubborn = Stubborn(failures)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        running = group.create_task(run_until_cancelled(stubborn.run))
        await stubborn.is_open.wait()
        running.cancel()

    assert running.cancelled()
    assert (stubborn.has_ended, stubborn.failures) == (True, 0)


async def test_what_fails_for_good_is_told() -> None:
    async def break_down() -> None:
        raise ValueError("no such setting")

    with pytest.raises(ExceptionGroup) as broken:
        await run_until_cancelled(break_down)

    assert repr(broken.value.exceptions) == "(ValueError('no such setting'),)"
