"""A run that cannot be settled costs nobody else anything: the worker goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.scenario.house import TestHouse, opened
from turnkeep.errors import ThreadQuarantined
from turnkeep.messages import OutputItem
from turnkeep.store.values import Claim, Commit, Page, Record, Remainder
from turnkeep.tools import tool


@pytest.mark.daily(rows=2)  # each error on one of two engines
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


@pytest.mark.daily(rows=2)  # each error on one of two engines
@pytest.mark.parametrize("error", [ValueError("a bug"), ThreadQuarantined("damaged")])
async def test_a_verdict_that_cannot_be_found_leaves_the_others_answered(
    store: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store) as house:
        inner = house.queue.store.slow_down
        broke: list[str] = []

        async def slow_down(endpoint: str, delay: float, **named: Any) -> None:
            if not broke:
                broke.append(endpoint)
                raise error
            await inner(endpoint, delay, **named)

        monkeypatch.setattr(house.queue.store, "slow_down", slow_down)
        house.fault(kind="429", times=1, retry_after_ms=10.0)
        async with house.stream("bad") as stream:
            bad = await house.send("bad", "hello")
            seen = await house.settled(stream, bad.message_id)
        assert broke
        assert seen[-1].outcome == "completed"
        assert await house.queue.ask("good", "hello")


LEASE = 6.0
"""Seconds, which one attempt does not outlive on a busy machine before it is written down; the next waits as long."""


@tool
async def ring() -> str:
    """Ring the bell."""
    return "it rang"


def hold_the_reply(house: TestHouse, kind: str, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """The store takes records of this kind, and its first reply about one does not come."""
    inner, taken = house.queue.store.journal, asyncio.Event()

    async def journal(claim: Claim, records: Sequence[Record]) -> None:
        await inner(claim, records)
        if records[0]["type"] == kind and not taken.is_set():
            taken.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(house.queue.store, "journal", journal)
    return taken


async def test_messages_that_were_just_taken_in_stay_when_the_run_is_stopped(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    @tool
    async def ring_later() -> str:
        """Ring the bell when it is time."""
        await gate.wait()
        return "it rang"

    async with opened(store, tools=[ring_later]) as house, house.stream("c") as stream:
        taken = hold_the_reply(house, "steered", monkeypatch)
        await house.send("c", "ring it [[call:ring_later]]")
        await house.until(stream, lambda event: event.kind == "started")
        await house.send("c", "and be quick", on_busy="steer")
        gate.set()
        await asyncio.wait_for(taken.wait(), PATIENCE)

        await house.queue.cancel_run("c")
        await house.settled(stream, "m1")

        assert await house.said_by_user("c") == ["ring it [[call:ring_later]]", "and be quick"]


async def test_an_output_that_was_just_kept_stays_when_the_run_is_stopped(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store, tools=[ring]) as house, house.stream("c") as stream:
        taken = hold_the_reply(house, "output", monkeypatch)
        await house.send("c", "ring it [[call:ring]]")
        await asyncio.wait_for(taken.wait(), PATIENCE)

        await house.queue.cancel_run("c")
        await house.settled(stream, "m0")

        [output] = [item for item in await house.transcript("c") if isinstance(item, OutputItem)]
        assert (output.status, output.output) == ("ok", "it rang")


async def test_a_call_whose_start_was_just_kept_is_not_unknown_when_the_run_is_stopped(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(store, tools=[ring]) as house, house.stream("c") as stream:
        taken = hold_the_reply(house, "started", monkeypatch)
        await house.send("c", "ring it [[call:ring]]")
        await asyncio.wait_for(taken.wait(), PATIENCE)

        await house.queue.cancel_run("c")
        await house.settled(stream, "m0")

        [output] = [item for item in await house.transcript("c") if isinstance(item, OutputItem)]
        assert output.status == "cancelled"


async def test_a_stop_while_the_store_is_away_uses_no_attempt(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(store, max_attempts=1, lease=LEASE) as house, house.stream("c") as stream:
        write, look, away = house.queue.store.commit, house.queue.store.read, asyncio.Event()
        left_alone: list[str] = []

        async def commit(claim: Claim, end: Commit) -> Remainder:
            if claim.attempt == 1:
                away.set()
                await asyncio.Event().wait()
            return await write(claim, end)

        async def read(*asked: Any, **options: Any) -> Page:
            if away.is_set() and not left_alone and options.get("limit") == 1:  # what an earlier attempt has shown
                left_alone.append("the second attempt")
                await asyncio.Event().wait()
            return await look(*asked, **options)

        monkeypatch.setattr(house.queue.store, "commit", commit)
        monkeypatch.setattr(house.queue.store, "read", read)
        await house.send("c", "hello")
        await asyncio.wait_for(away.wait(), PATIENCE)

        await house.queue.cancel_run("c")
        events = await house.settled(stream, "m0")

        assert (events[-1].kind, events[-1].outcome) == ("completed", "cancelled")
        assert left_alone
