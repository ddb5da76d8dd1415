"""A run that cannot be settled costs nobody else anything: the worker goes on."""

from __future__ import annotations

import pytest

from tests.scenario.house import opened
from turnkeep.errors import ThreadQuarantined
from turnkeep.store.base import Claim, Commit


@pytest.mark.parametrize("error", [ValueError("a bug"), ThreadQuarantined("damaged")])
async def test_a_commit_that_breaks_on_one_thread_leaves_the_others_answered(
    store: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store) as house:
        inner = house.queue.store.commit
        broke: list[str] = []

        async def commit(claim: Claim, verdict: Commit) -> object:
            if claim.address.channel == "bad" and not broke:
                broke.append(claim.run_id)
                raise error
            return await inner(claim, verdict)

        monkeypatch.setattr(house.queue.store, "commit", commit)
        async with house.stream("bad") as stream:
            bad = await house.send("bad", "hello")
            assert await house.queue.ask("good", "hello")
            seen = await house.settled(stream, bad.message_id)
        assert broke
        assert seen[-1].outcome == "completed"


@pytest.mark.parametrize("error", [ValueError("a bug"), ThreadQuarantined("damaged")])
async def test_a_verdict_that_cannot_be_found_leaves_the_others_answered(
    store: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store) as house:
        inner = house.queue.store.slow_down
        broke: list[str] = []

        async def slow_down(endpoint: str, delay: float) -> None:
            if not broke:
                broke.append(endpoint)
                raise error
            await inner(endpoint, delay)

        monkeypatch.setattr(house.queue.store, "slow_down", slow_down)
        house.fault(kind="429", times=1, retry_after_ms=10.0)
        async with house.stream("bad") as stream:
            bad = await house.send("bad", "hello")
            seen = await house.settled(stream, bad.message_id)
        assert broke
        assert seen[-1].outcome == "completed"
        assert await house.queue.ask("good", "hello")
