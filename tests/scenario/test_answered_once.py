"""P3, P9, P10: every message ends in exactly one committed batch or as a dead letter with a reason."""

from __future__ import annotations

import asyncio

import pytest

from tests.scenario.house import opened
from tests.services import free_port
from turnkeep.errors import MessageConflict
from turnkeep.models.waits import BRIEF_WAIT, LONGEST_WAIT
from turnkeep.simulator import serve


@pytest.mark.daily(rows=2)  # each failure on one of two engines
@pytest.mark.parametrize("kind", ["500", "503", "cut", "truncate", "garbage", "html", "error", "failed", "early-error"])
async def test_a_failure_that_passes_is_retried_and_answered_once(store: str, kind: str) -> None:
    async with opened(store) as house, house.stream("c") as stream:
        house.fault(kind=kind, times=2)
        await house.send("c", "try hard [[say:done]]")

        events = await house.settled(stream, "m0")

        assert events[-1].kind == "completed"
        assert events[-1].text == "done"
        assert events[-1].attempt == 3
        assert await house.said_by_user("c") == ["try hard [[say:done]]"]


async def test_a_rate_limit_costs_no_attempt(store: str) -> None:
    async with opened(store, max_attempts=1) as house, house.stream("c") as stream:
        house.fault(kind="429", times=3, retry_after=0.05)
        await house.send("c", "patience [[say:done]]")

        events = await house.settled(stream, "m0")

        assert events[-1].kind == "completed"
        assert [event.kind for event in events].count("waiting") == 3


async def test_attempts_used_up_make_a_dead_letter_with_its_reason(store: str) -> None:
    async with opened(store, max_attempts=2) as house, house.stream("c") as stream:
        house.fault(kind="500", times=None)
        await house.send("c", "never")

        events = await house.settled(stream, "m0")
        letters = await house.queue.store.dead()

        assert events[-1].kind == "dead"
        assert [letter.message.message_id for letter in letters] == ["m0"]
        assert letters[0].fault.code == "model_unavailable"
        assert letters[0].attempts == 2


async def test_a_poison_message_does_not_take_its_neighbours_along(store: str) -> None:
    async with opened(store) as house, house.stream("c") as stream:
        house.fault(kind="poison", match="poison")
        await house.send_all("c", ["good one", "poison", "good two"])

        await house.settled(stream, "m2")

        assert await house.said_by_user("c") == ["good one", "good two"]
        assert [letter.message.text for letter in await house.queue.store.dead()] == ["poison"]


async def test_a_duplicate_is_answered_once_and_gets_its_first_receipt(store: str) -> None:
    async with opened(store) as house, house.stream("c") as stream:
        first = await house.send("c", "only once", "same")
        again = await house.send("c", "only once", "same")
        await house.settled(stream, "same")
        late = await house.send("c", "only once", "same")

        assert again.repeated
        assert late.repeated
        assert (again.message_id, again.position, again.due_in) == (first.message_id, first.position, first.due_in)
        assert len(house.simulator.ledger) == 1


async def test_the_same_id_with_another_text_is_a_conflict(store: str) -> None:
    async with opened(store) as house:
        await house.send("c", "one text", "same")
        with pytest.raises(MessageConflict):
            await house.send("c", "another text", "same")


async def test_quota_exhausted_opens_the_circuit_and_nothing_dies(store: str) -> None:
    async with opened(store, max_attempts=1) as house, house.stream("c") as stream:
        house.fault(kind="429", code="insufficient_quota", times=None)
        await house.send("c", "wait for money [[say:paid]]")
        await house.until(stream, lambda event: event.kind == "waiting")

        circuits = await house.queue.store.circuits()
        assert [circuit.fault.code for circuit in circuits] == ["quota_exhausted"]
        assert (await house.queue.store.counts()).dead_letters == 0


async def test_a_provider_that_names_a_year_stops_nobody_for_longer_than_ten_minutes(store: str) -> None:
    async with opened(store, max_attempts=1) as house, house.stream("c") as stream:
        house.fault(kind="429", code="rate_limit_exceeded", retry_after=31_536_000.0, times=1)
        await house.send("c", "not for a year [[say:here I am]]")
        waits = await house.until(stream, lambda event: event.kind == "waiting")

        assert waits[-1].error is not None
        assert waits[-1].error.code == "model_rate_limited"
        thread = await house.queue.store.thread(house.queue.address("c"))
        assert thread is not None
        assert thread.due is not None
        # `now` is asked for on its own, and may lie some milliseconds behind the clock that the store went by
        assert thread.due - await house.queue.store.now() <= BRIEF_WAIT + 1
        [circuit] = await house.queue.store.circuits()
        assert circuit.fault.code == "model_rate_limited"
        assert LONGEST_WAIT - 60 < circuit.probe_at - await house.queue.store.now() <= LONGEST_WAIT + 1

        assert await house.queue.store.mend(circuit.endpoint)
        async with house.stream("d") as other:
            await house.send("d", "nobody waits for it [[say:at once]]", "d0")
            assert (await house.settled(other, "d0"))[-1].text == "at once"


async def test_a_provider_that_is_away_uses_no_attempts(store: str) -> None:
    port = free_port()
    async with (
        opened(store, max_attempts=1, openai_base_url=f"http://127.0.0.1:{port}/v1") as house,
        house.stream("c") as stream,
    ):
        await house.send("c", "is anybody there? [[say:now I am]]")
        waits = await house.until(stream, lambda event: event.kind == "waiting")
        assert waits[-1].error is not None
        assert waits[-1].error.code == "model_unreachable"
        assert [circuit.fault.code for circuit in await house.queue.store.circuits()] == ["model_unreachable"]

        async with serve(house.simulator, port=port):
            events = await house.settled(stream, "m0", timeout=60.0)

        assert events[-1].text == "now I am"
        assert await house.queue.store.circuits() == []


async def test_a_lost_answer_is_asked_again_and_told_once(store: str) -> None:
    async with opened(store) as house, house.stream("c") as stream:
        house.fault(kind="lost", times=1)
        await house.send("c", "lost once [[say:found]]")

        events = await house.settled(stream, "m0")

        assert events[-1].text == "found"
        assert await house.said_by_user("c") == ["lost once [[say:found]]"]
        assert house.simulator.ledger.twice_within_a_request() == []


async def test_order_is_the_order_of_acceptance(store: str) -> None:
    async with opened(store, window=0.0, max_wait=0.0) as house, house.stream("c") as stream:
        texts = [f"number {n}" for n in range(30)]
        for text in texts:
            await house.send("c", text)
            await asyncio.sleep(0)

        await house.settled(stream, "m29")

        assert await house.said_by_user("c") == texts
