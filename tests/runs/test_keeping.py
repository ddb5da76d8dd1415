"""Leases: prolonged in time, given up in time, and told at once what the store says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.runs.moved_time import BEGIN, passed
from tests.runs.stage import HERE, LostReply, Stage, Stumble, reason_of
from turnkeep.errors import LeaseLost, OutcomeUnknown, StoreUnavailable, ThreadBusy
from turnkeep.messages import Address, Message, text_content
from turnkeep.runs.lease import DrainRequest, Lease, StopRequest
from turnkeep.runs.run import while_held
from turnkeep.runs.worker import Keeper, LeaseRules
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Directive

RULES = LeaseRules(duration=30.0)
"""Renewed every 10 s, given up 25 s after the last renewal that went well was asked for."""

LogLines = Callable[[], list[dict[str, Any]]]


def stage_of() -> Stage:
    return Stage(lease=RULES)


def now() -> float:
    return asyncio.get_running_loop().time()


@contextlib.asynccontextmanager
async def keeping(keeper: Keeper) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(keeper.run())
        await asyncio.sleep(0)
        yield
        task.cancel()


async def ending_of(lease: Lease, patience: float = 3600.0) -> tuple[object, object]:
    """What ends the keeping of a lease, and when."""
    try:
        async with asyncio.timeout(patience):
            await reason_of(lease)
    except TimeoutError:
        return None, passed()
    except (LeaseLost, StopRequest, DrainRequest) as error:
        return type(error), passed()


# ---------------------------------------------------------------- renewing


async def test_a_lease_that_is_renewed_is_kept_for_hours_and_nobody_else_gets_the_thread() -> None:
    stage = stage_of()
    lease = await stage.lease("m1")

    async with keeping(stage.keeper):
        assert await ending_of(lease, 7200.0) == (None, pytest.approx(7200.0))
        assert await stage.store.claim(owner="other", limit=1, lease=30.0) == []
    assert len(stage.store.about("renew")) == pytest.approx(720, abs=2)
    assert set(stage.store.about("renew")) == {1}


async def test_a_lease_that_nobody_renews_ends_before_others_may_take_the_thread() -> None:
    stage = stage_of()
    lease = await stage.lease("m1")

    assert await ending_of(lease) == (LeaseLost, pytest.approx(25.0))
    assert await stage.store.claim(owner="other", limit=1, lease=30.0) == []


AWAY = StoreUnavailable("away")
RENEWALS: dict[str, tuple[list[Stumble], type[Exception] | None, float]] = {
    "one that fails is tried again soon": ([AWAY], None, 600.0),
    "two seconds of failures": ([AWAY] * 2, None, 600.0),
    "a reply that is lost": ([LostReply(OutcomeUnknown("lost"))], None, 600.0),
    "a reply that comes late": ([9.0], None, 600.0),
    "fourteen seconds of failures": ([AWAY] * 14, None, 600.0),
    "sixteen seconds of failures": ([AWAY] * 16, LeaseLost, 25.0),
    "a store that is away": ([AWAY] * 1000, LeaseLost, 25.0),
    "a store that does not answer": ([3600.0], LeaseLost, 25.0),
    "a second renewal that comes to nothing": ([None, *[AWAY] * 1000], LeaseLost, 35.0),
}


@pytest.mark.parametrize(("stumbles", "error", "at"), RENEWALS.values(), ids=RENEWALS)
async def test_a_renewal_may_fail_for_a_while_and_the_lease_is_given_up_in_time(
    stumbles: list[Stumble], error: type[Exception] | None, at: float
) -> None:
    stage = stage_of()
    lease = await stage.lease("m1")
    stage.store.stumbles["renew"] += stumbles

    async with keeping(stage.keeper):
        assert await ending_of(lease, 600.0) == (error, pytest.approx(at, abs=0.01))


async def test_a_renewal_that_fails_is_said_in_the_log_and_tried_again_each_second(log_lines: LogLines) -> None:
    stage = stage_of()
    await stage.lease("m1")
    stage.store.stumbles["renew"] += [AWAY] * 3

    async with keeping(stage.keeper):
        await asyncio.sleep(13.5)

    assert len(stage.store.about("renew")) == 4
    assert [(line["event"], line["error"], line["leases"]) for line in log_lines()] == [
        ("renewal_failed", "away", 1)
    ] * 3


async def test_a_short_lease_is_tried_again_faster() -> None:
    stage = Stage(lease=LeaseRules(duration=1.2))
    await stage.lease("m1")
    stage.store.stumbles["renew"] += [AWAY] * 3

    async with keeping(stage.keeper):
        await asyncio.sleep(0.75)

    assert len(stage.store.about("renew")) == 4


@pytest.mark.parametrize(("seconds", "lines"), [(4.9, 0), (5.1, 1)])
async def test_a_loop_that_is_held_up_is_said_in_the_log(seconds: float, lines: int, log_lines: LogLines) -> None:
    stage = stage_of()
    await stage.lease("m1")
    loop: Any = asyncio.get_running_loop()

    async with keeping(stage.keeper):
        loop.call_later(9.9, loop.move, seconds + 0.1)
        await asyncio.sleep(12.0)

    late = [line for line in log_lines() if line["event"] == "renewal_late"]
    assert len(late) == lines
    assert [line["seconds"] for line in late] == [pytest.approx(5.1, abs=0.15)] * lines


async def test_a_clock_of_the_day_that_is_set_changes_no_lease() -> None:
    stage = stage_of()
    lease = await stage.lease("m1")

    async with keeping(stage.keeper):
        for jump in (86_400.0, -172_800.0):
            stage.clock.jump(jump)
            assert await ending_of(lease, 60.0) == (None, pytest.approx(passed()))


@pytest.mark.parametrize("is_taken", [True, False])
async def test_a_process_that_stood_still_goes_on_only_where_nobody_has_taken_the_thread(is_taken: bool) -> None:
    stage = stage_of()
    lease = await stage.lease("m1")
    loop: Any = asyncio.get_running_loop()
    tasks: list[asyncio.Task[Any]] = []

    async with keeping(stage.keeper):
        loop.call_later(1.0, loop.move, 600.0)
        if is_taken:
            other = stage.store.claim(owner="other", limit=1, lease=3600.0)
            loop.call_later(1.0, lambda: tasks.append(loop.create_task(other)))
        kind, _ = await ending_of(lease, 1200.0)

    assert kind is (LeaseLost if is_taken else None)


async def test_a_run_that_ends_as_its_lease_runs_out_is_told_nothing_any_more() -> None:
    lease = await stage_of().lease("m1")
    with while_held(lease):
        await asyncio.sleep(24.9)
    await asyncio.sleep(60.0)

    assert lease.has_ended


async def test_each_lease_of_an_owner_is_given_up_in_its_own_time() -> None:
    stage = stage_of()
    first = await stage.lease("m1")
    await asyncio.sleep(7.0)
    await stage.say("m2", where=Address("default", "assistant", "d"))
    [second] = await stage.keeper.claim(1, None)

    endings = await asyncio.gather(ending_of(first), ending_of(second))
    assert list(endings) == [(LeaseLost, pytest.approx(25.0)), (LeaseLost, pytest.approx(32.0))]

    stage.keeper.leases.clear()
    await asyncio.sleep(60.0)
    await stage.say("m3", where=Address("default", "assistant", "e"))
    [third] = [lease for lease in await stage.keeper.claim(10, None) if lease.claim.address.channel == "e"]
    began = passed()
    assert await ending_of(third) == (LeaseLost, pytest.approx(began + 25.0))


async def test_one_timer_looks_after_all_leases() -> None:
    stage = stage_of()
    await stage.lease("m1")
    timer = stage.keeper._timer
    await stage.say("m2", where=Address("default", "assistant", "d"))
    await stage.keeper.claim(1, None)
    assert stage.keeper._timer is timer


# ---------------------------------------------------------------- what the store says


async def test_a_lease_that_somebody_else_has_ends_at_the_next_renewal() -> None:
    stage = stage_of()
    lease = await stage.lease("m1")
    await stage.store.release(lease.claim)
    await stage.store.claim(owner="other", limit=1, lease=3600.0)

    async with keeping(stage.keeper):
        assert await ending_of(lease) == (LeaseLost, pytest.approx(10.0))


@pytest.mark.parametrize("stop", ["cancel", "interrupt", "rollback"])
async def test_a_stop_is_found_by_renewal_when_its_hint_is_lost(stop: Any) -> None:
    stage = stage_of()
    lease = await stage.lease("m1")

    lease.take_directive(Directive(held=True, stop=stop), good_until=now() + RULES.give_up)

    with pytest.raises(StopRequest) as caught:
        await reason_of(lease)
    assert caught.value.stop == stop


async def test_a_nudge_brings_the_stop_at_once() -> None:
    stage = stage_of()
    lease = await stage.lease("m1")

    async with keeping(stage.keeper):
        asyncio.get_running_loop().call_later(3.0, asyncio.ensure_future, stage.store.cancel(HERE))
        kind, at = await ending_of(lease)

    assert (kind, at) == (StopRequest, pytest.approx(3.0, abs=0.1))


async def test_a_nudge_about_a_thread_that_is_not_held_asks_nothing() -> None:
    stage = stage_of()
    await stage.lease("m1")
    stage.store.nudges["worker-1"] = {Address("default", "assistant", "elsewhere")}

    async with keeping(stage.keeper):
        await asyncio.sleep(5.0)

    assert stage.store.about("renew") == []


async def test_a_failing_hint_is_asked_for_again_each_second() -> None:
    stage = stage_of()
    lease = await stage.lease("m1")
    stage.store.stumbles["nudged"] += [AWAY] * 3

    async with keeping(stage.keeper):
        await asyncio.sleep(2.5)
        asked = len(stage.store.about("nudged"))
        await stage.store.cancel(HERE)
        kind, at = await ending_of(lease)

    assert (asked, kind) == (3, StopRequest)
    assert at == pytest.approx(3.0, abs=0.1)
    assert set(stage.store.about("nudged")) == {30.0}


@pytest.mark.parametrize("wish", [True, False])
async def test_a_renewal_says_whether_somebody_wants_to_steer(wish: bool) -> None:
    lease = await stage_of().lease("m1")
    assert lease.wants_steering is False

    lease.take_directive(Directive(held=True, steer=wish), good_until=now() + RULES.give_up)

    assert lease.wants_steering is wish


async def test_the_first_reason_to_end_counts() -> None:
    lease = await stage_of().lease("m1")

    lease.stop("rollback")
    lease.end(DrainRequest())
    lease.take_directive(Directive(held=False), good_until=now() + RULES.give_up)

    with pytest.raises(StopRequest) as caught:
        await reason_of(lease)
    assert caught.value.stop == "rollback"


async def test_a_lost_lease_learns_nothing_more() -> None:
    lease = await stage_of().lease("m1")

    lease.take_directive(Directive(held=False, steer=True, stop="cancel"), good_until=now() + RULES.give_up)

    assert lease.wants_steering is False
    with pytest.raises(LeaseLost, match=lease.claim.run_id):
        await reason_of(lease)


async def test_a_lease_is_good_from_the_asking_on() -> None:
    stage = stage_of()
    lease = await stage.lease("m1")
    assert lease.good_until == pytest.approx(now() + 25.0)

    stage.store.stumbles["renew"] += [4.0]
    async with keeping(stage.keeper):
        await asyncio.sleep(14.1)
    assert lease.good_until == pytest.approx(now() + 20.9)


# ---------------------------------------------------------------- one keeper


async def test_a_claim_and_a_renewal_of_one_owner_never_overlap() -> None:
    stage = stage_of()
    first = await stage.lease("m1")
    await stage.say("m2", where=Address("default", "assistant", "d"))
    stage.store.stumbles["claim"] += [6.0]

    async with keeping(stage.keeper):
        await asyncio.sleep(8.0)
        [second] = await stage.keeper.claim(1, None)
        assert [name for name, _ in stage.store.requests if name in ("claim", "renew")] == ["claim", "claim"]
        await asyncio.sleep(0.1)

    assert [name for name, _ in stage.store.requests if name in ("claim", "renew")] == ["claim", "claim", "renew"]
    assert stage.store.about("renew") == [2]
    assert [first.good_until, second.good_until] == pytest.approx([now() + 24.9] * 2)


async def test_a_claim_waits_for_a_renewal_to_end() -> None:
    stage = stage_of()
    await stage.lease("m1")
    stage.store.stumbles["renew"] += [5.0]

    async with keeping(stage.keeper):
        await asyncio.sleep(11.0)
        await stage.keeper.claim(1, None)
        at = passed()

    assert at == pytest.approx(15.0, abs=0.1)
    assert [name for name, _ in stage.store.requests if name in ("claim", "renew")][-2:] == ["renew", "claim"]


async def test_beginning_waits_its_turn_too_and_a_refused_one_holds_nothing() -> None:
    stage = stage_of()
    message = Message(HERE, "m1", text_content("hi"))
    stage.store.stumbles["begin"] += [5.0]

    begun = asyncio.create_task(stage.keeper.begin([message]))
    await asyncio.sleep(0)
    claimed = asyncio.create_task(stage.keeper.claim(1, None))
    lease = await begun

    assert lease.begun_at == pytest.approx(BEGIN)
    assert not await claimed
    assert len(stage.keeper) == 1
    with pytest.raises(ThreadBusy):
        await stage.keeper.begin([Message(HERE, "m2", text_content("hi"))])
    assert len(stage.keeper) == 1


async def test_what_is_taken_out_is_not_renewed() -> None:
    stage = stage_of()
    lease = await stage.lease("m1")
    assert (len(stage.keeper), stage.keeper.oldest) == (1, 0.0)
    await asyncio.sleep(4.0)
    assert stage.keeper.oldest == pytest.approx(4.0)

    del stage.keeper.leases[lease.claim.token]

    assert (len(stage.keeper), stage.keeper.oldest) == (0, 0.0)
    async with keeping(stage.keeper):
        await asyncio.sleep(15.0)
    assert stage.store.about("renew") == [0]


async def test_the_oldest_is_the_one_that_was_claimed_first() -> None:
    stage = stage_of()
    await stage.lease("m1")
    await asyncio.sleep(3.0)
    await stage.say("m2", where=Address("default", "assistant", "d"))
    await stage.keeper.claim(1, None)

    assert stage.keeper.oldest == pytest.approx(3.0)


async def test_a_lease_that_was_taken_out_during_a_renewal_is_told_and_forgotten() -> None:
    stage = stage_of()
    lease = await stage.lease("m1")
    stage.store.stumbles["renew"] += [5.0]

    async with keeping(stage.keeper):
        await asyncio.sleep(11.0)
        del stage.keeper.leases[lease.claim.token]
        await asyncio.sleep(10.0)

    assert len(stage.keeper) == 0


async def test_draining_ends_every_lease_of_an_owner() -> None:
    stage = stage_of()
    await stage.say("m2", where=Address("default", "assistant", "d"))
    await stage.say("m1")
    leases = await stage.keeper.claim(10, None)

    stage.keeper.drain()

    assert [(await ending_of(lease))[0] for lease in leases] == [DrainRequest, DrainRequest]


async def test_owners_have_names_of_their_own() -> None:
    stage = stage_of()
    names = {Keeper(stage.store).owner for _ in range(20)}

    assert len(names) == 20
    assert Keeper(stage.store).rules == LeaseRules()
    assert Keeper(stage.store, owner="mine").owner == "mine"


async def test_queues_and_limits_go_to_the_store() -> None:
    stage = stage_of()

    await stage.keeper.claim(3, ["a"])

    assert stage.store.about("claim") == [(3, ["a"])]


async def test_what_the_store_says_of_leases_that_are_not_held_here_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage = stage_of()
    lease = await stage.lease("m1")
    renew = MemoryStore.renew

    async def renew_more(self: MemoryStore, *args: Any, **options: Any) -> dict[str, Directive]:
        return {"of somebody else": Directive(held=False), **await renew(self, *args, **options)}

    monkeypatch.setattr(MemoryStore, "renew", renew_more)
    async with keeping(stage.keeper):
        assert await ending_of(lease, 60.0) == (None, pytest.approx(60.0))
