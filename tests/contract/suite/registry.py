"""Small shared records, money, pace and circuits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.contract.suite.desk import FAULT, Start
from turnkeep.errors import Conflict
from turnkeep.events import TurnFault
from turnkeep.store.shared_ledger import Limit, Spend

BUDGET = Limit("month:tenant", 100, 10_000.0)
SMALL = Limit("day:user", 50, 1_000.0)


class RegistryPromises:
    async def test_versions_rise_by_one_with_each_change(self, start: Start) -> None:
        desk = await start()
        first = await desk.store.put("assistant", "t", "asst_1", {"model": "a"})
        await desk.wait(1)
        second = await desk.store.put("assistant", "t", "asst_1", {"model": "b"})

        assert (first.version, second.version) == (1, 2)
        assert (second.name, dict(second.body), second.updated_at) == ("asst_1", {"model": "b"}, desk.now)
        assert await desk.store.get("assistant", "t", "asst_1") == second

    async def test_an_unknown_record_is_none(self, start: Start) -> None:
        desk = await start()

        assert await desk.store.get("key", "t", "unknown") is None
        assert await desk.store.take("key", "t", "unknown") is None
        assert await desk.store.list("key", "t") == []

    async def test_a_write_over_another_version_is_a_conflict(self, start: Start) -> None:
        desk = await start()
        await desk.store.put("key", "t", "k", {"v": 1}, version=0)
        current = await desk.store.put("key", "t", "k", {"v": 2}, version=1)

        for version in (0, 1, 3):
            with pytest.raises(Conflict):
                await desk.store.put("key", "t", "k", {"v": 3}, version=version)

        assert await desk.store.get("key", "t", "k") == current
        with pytest.raises(Conflict):
            await desk.store.put("key", "t", "absent", {"v": 1}, version=1)

    async def test_the_same_write_again_is_the_same_record(self, start: Start) -> None:
        desk = await start()
        first = await desk.store.put("key", "t", "k", {"v": 1}, version=0)
        await desk.wait(1)

        assert await desk.store.put("key", "t", "k", {"v": 1}, version=0) == first
        assert await desk.store.put("key", "t", "k", {"v": 1}) == first
        assert await desk.store.put("key", "t", "k", {"v": 1}, version=1) == first

    async def test_of_two_writers_of_one_version_one_wins(self, start: Start) -> None:
        desk = await start()
        await desk.store.put("key", "t", "k", {"v": 0})

        results = await asyncio.gather(
            *(desk.store.put("key", "t", "k", {"v": n}, version=1) for n in range(1, 9)), return_exceptions=True
        )

        assert sum(isinstance(result, Conflict) for result in results) == 7

    async def test_of_two_takers_one_gets_it(self, start: Start) -> None:
        desk = await start()
        written = await desk.store.put("ticket", "t", "k", {"v": 1})

        results = await asyncio.gather(*(desk.store.take("ticket", "t", "k") for _ in range(8)))

        assert [result for result in results if result is not None] == [written]
        assert await desk.store.get("ticket", "t", "k") is None
        assert (await desk.store.put("ticket", "t", "k", {"v": 2}, version=0)).version == 1

    async def test_a_record_with_a_time_to_live_is_gone_after_it(self, start: Start) -> None:
        desk = await start()
        await desk.store.put("ticket", "t", "k", {"v": 1}, ttl=10.0)
        await desk.wait(9.75)
        assert await desk.store.get("ticket", "t", "k") is not None
        await desk.wait(0.25)

        assert await desk.store.get("ticket", "t", "k") is None
        assert await desk.store.list("ticket", "t") == []
        assert await desk.store.take("ticket", "t", "k") is None
        assert (await desk.store.put("ticket", "t", "k", {"v": 1}, version=0)).version == 1

    async def test_the_last_write_says_how_long_a_record_lives(self, start: Start) -> None:
        desk = await start()
        await desk.store.put("ticket", "t", "k", {"v": 1}, ttl=10.0)
        await desk.wait(5)
        await desk.store.put("ticket", "t", "k", {"v": 1}, ttl=10.0)
        await desk.wait(9)
        assert await desk.store.get("ticket", "t", "k") is not None
        await desk.store.put("ticket", "t", "k", {"v": 2})
        await desk.wait(1000)

        assert await desk.store.get("ticket", "t", "k") is not None

    async def test_records_are_listed_by_name(self, start: Start) -> None:
        desk = await start()
        for name in ("b", "a", "c", "A", "é"):
            await desk.store.put("assistant", "t", name, {"n": name})

        assert [document.name for document in await desk.store.list("assistant", "t")] == ["A", "a", "b", "c", "é"]

    async def test_kinds_and_tenants_do_not_mix(self, start: Start) -> None:
        desk = await start()
        await desk.store.put("assistant", "t", "k", {"is": "assistant of t"})
        await desk.store.put("key", "t", "k", {"is": "key of t"})
        await desk.store.put("assistant", "t2", "k", {"is": "assistant of t2"})
        await desk.store.put("assistant", "t:k", "", {"is": "assistant of t:k"})

        assert [dict(d.body) for d in await desk.store.list("assistant", "t")] == [{"is": "assistant of t"}]
        assert [dict(d.body) for d in await desk.store.list("key", "t")] == [{"is": "key of t"}]
        assert [dict(d.body) for d in await desk.store.list("assistant", "t2")] == [{"is": "assistant of t2"}]
        await desk.store.take("assistant", "t", "k")
        assert len(await desk.store.list("assistant", "t2")) == 1
        assert len(await desk.store.list("key", "t")) == 1

    async def test_a_body_is_kept_as_it_was_written(self, start: Start) -> None:
        desk = await start()
        body: dict[str, Any] = {"text": "ü😀\n", "n": [1, 2.5, None, True, {"deep": []}]}
        written = await desk.store.put("setting", "t", "name: {x}*", body)
        body["text"] = "changed by the caller"

        document = await desk.store.get("setting", "t", "name: {x}*")

        assert document == written
        assert document is not None
        assert dict(document.body) == {"text": "ü😀\n", "n": [1, 2.5, None, True, {"deep": []}]}

    # ---------------------------------------------------------------- money

    async def test_a_budget_is_reserved_and_settled(self, start: Start) -> None:
        desk = await start()
        granted = await desk.store.reserve("run_1", 40, [BUDGET], tenant="t")
        assert granted.outcome == "granted"
        assert await desk.store.spend(BUDGET.account, tenant="t") == Spend(0, 40)

        await desk.store.settle("run_1", 25, tenant="t")

        assert await desk.store.spend(BUDGET.account, tenant="t") == Spend(25, 0)
        assert await desk.store.spend("unknown", tenant="t") == Spend(0, 0)

    async def test_the_same_reservation_again_changes_nothing(self, start: Start) -> None:
        desk = await start()
        for _ in range(3):
            assert (await desk.store.reserve("run_1", 60, [BUDGET], tenant="t")).outcome == "granted"

        assert await desk.store.spend(BUDGET.account, tenant="t") == Spend(0, 60)

    async def test_a_run_waits_while_only_reservations_are_in_the_way(self, start: Start) -> None:
        desk = await start()
        await desk.store.reserve("run_1", 60, [BUDGET], tenant="t")

        reservation = await desk.store.reserve("run_2", 60, [BUDGET], tenant="t")

        assert (reservation.outcome, reservation.account) == ("waits", BUDGET.account)
        await desk.store.settle("run_1", 10, tenant="t")
        assert (await desk.store.reserve("run_2", 60, [BUDGET], tenant="t")).outcome == "granted"

    async def test_a_run_is_refused_when_the_money_is_spent(self, start: Start) -> None:
        desk = await start()
        await desk.store.reserve("run_1", 60, [BUDGET], tenant="t")
        await desk.store.settle("run_1", 70, tenant="t")

        refused = await desk.store.reserve("run_2", 31, [BUDGET], tenant="t")

        assert (refused.outcome, refused.account) == ("refused", BUDGET.account)
        assert (await desk.store.reserve("run_3", 30, [BUDGET], tenant="t")).outcome == "granted"

    async def test_a_reservation_is_made_in_all_accounts_or_in_none(self, start: Start) -> None:
        desk = await start()

        refused = await desk.store.reserve("run_1", 60, [BUDGET, SMALL], tenant="t")

        assert (refused.outcome, refused.account) == ("refused", SMALL.account)
        assert await desk.store.spend(BUDGET.account, tenant="t") == Spend(0, 0)
        assert (await desk.store.reserve("run_1", 50, [BUDGET, SMALL], tenant="t")).outcome == "granted"
        assert await desk.store.spend(BUDGET.account, tenant="t") == Spend(0, 50)
        assert await desk.store.spend(SMALL.account, tenant="t") == Spend(0, 50)
        await desk.store.settle("run_1", 5, tenant="t")
        assert await desk.store.spend(SMALL.account, tenant="t") == Spend(5, 0)

    async def test_what_refuses_is_told_before_what_waits(self, start: Start) -> None:
        desk = await start()
        await desk.store.reserve("run_1", 90, [BUDGET], tenant="t")

        reservation = await desk.store.reserve("run_2", 60, [BUDGET, SMALL], tenant="t")

        assert (reservation.outcome, reservation.account) == ("refused", SMALL.account)

    async def test_a_run_settles_once(self, start: Start) -> None:
        desk = await start()
        await desk.store.reserve("run_1", 60, [BUDGET], tenant="t")
        for amount in (20, 20, 90):
            await desk.store.settle("run_1", amount, tenant="t")
        await desk.store.settle("run_without_reservation", 50, tenant="t")

        assert await desk.store.spend(BUDGET.account, tenant="t") == Spend(20, 0)

    async def test_a_run_without_limits_is_granted(self, start: Start) -> None:
        desk = await start()

        assert (await desk.store.reserve("run_1", 1_000_000, [], tenant="t")).outcome == "granted"
        await desk.store.settle("run_1", 5, tenant="t")

    async def test_of_many_runs_at_once_only_as_many_as_fit_are_granted(self, start: Start) -> None:
        desk = await start()

        outcomes = await asyncio.gather(*(desk.store.reserve(f"run_{n}", 30, [BUDGET], tenant="t") for n in range(10)))

        assert sum(reservation.outcome == "granted" for reservation in outcomes) == 3

    async def test_tenants_have_budgets_of_their_own(self, start: Start) -> None:
        desk = await start()
        await desk.store.reserve("run_1", 90, [BUDGET], tenant="t1")

        assert (await desk.store.reserve("run_1", 90, [BUDGET], tenant="t2")).outcome == "granted"
        await desk.store.settle("run_1", 10, tenant="t2")
        assert await desk.store.spend(BUDGET.account, tenant="t1") == Spend(0, 90)

    async def test_an_account_is_kept_as_long_as_it_says(self, start: Start) -> None:
        desk = await start()
        await desk.store.reserve("run_1", 50, [SMALL], tenant="t")
        await desk.store.settle("run_1", 50, tenant="t")
        await desk.wait(SMALL.keep - 1)
        assert await desk.store.spend(SMALL.account, tenant="t") == Spend(50, 0)
        await desk.wait(1)

        assert await desk.store.spend(SMALL.account, tenant="t") == Spend(0, 0)

    async def test_old_reservations_are_found(self, start: Start) -> None:
        desk = await start()
        await desk.store.reserve("run_1", 10, [BUDGET], tenant="t")
        await desk.store.reserve("run_x", 10, [BUDGET], tenant="t2")
        await desk.wait(60)
        await desk.store.reserve("run_2", 10, [BUDGET], tenant="t")
        await desk.wait(40)

        assert await desk.store.sweep(older_than=100.0, tenant="t") == ["run_1"]
        assert set(await desk.store.sweep(older_than=40.0, tenant="t")) == {"run_1", "run_2"}
        await desk.store.settle("run_1", 0, tenant="t")
        assert await desk.store.sweep(older_than=100.0, tenant="t") == []
        assert await desk.store.ledgers() == ["t", "t2"]

    async def test_what_was_reserved_may_count_as_spent(self, start: Start) -> None:
        desk = await start()
        await desk.store.reserve("run_1", 10, [BUDGET], tenant="t")

        await desk.store.settle("run_1", None, tenant="t")
        await desk.store.settle("run_1", None, tenant="t")

        assert await desk.store.spend(BUDGET.account, tenant="t") == Spend(10, 0)

    # ---------------------------------------------------------------- pace

    async def test_requests_are_paced_by_the_minute(self, start: Start) -> None:
        desk = await start()

        async def ask() -> float:
            return await desk.store.pace("key", requests=4.0, tokens=0.0, tokens_wanted=1_000_000)

        assert [await ask() for _ in range(4)] == [0.0] * 4
        assert await ask() == pytest.approx(15.0)
        assert await ask() == pytest.approx(15.0)
        await desk.wait(5)
        assert await ask() == pytest.approx(10.0)
        await desk.wait(10.25)
        assert await ask() == 0.0
        assert await ask() > 0.0

    async def test_tokens_are_paced_by_the_minute(self, start: Start) -> None:
        desk = await start()

        async def ask(wanted: int) -> float:
            return await desk.store.pace("key", requests=0.0, tokens=6000.0, tokens_wanted=wanted)

        assert await ask(4000) == 0.0
        assert await ask(3000) == pytest.approx(10.0)
        assert await ask(2000) == 0.0
        await desk.wait(30)
        assert await ask(3000) == pytest.approx(0.0, abs=0.01)

    async def test_nothing_is_taken_when_one_of_two_buckets_is_empty(self, start: Start) -> None:
        desk = await start()
        await desk.store.pace("key", requests=2.0, tokens=1000.0, tokens_wanted=1000)

        assert await desk.store.pace("key", requests=2.0, tokens=1000.0, tokens_wanted=500) == pytest.approx(30.0)

        assert await desk.store.pace("key", requests=2.0, tokens=1000.0, tokens_wanted=0) == 0.0
        assert await desk.store.pace("key", requests=2.0, tokens=1000.0, tokens_wanted=0) == pytest.approx(30.0)

    async def test_buckets_hold_no_more_than_a_minute(self, start: Start) -> None:
        desk = await start()
        await desk.wait(100_000)

        granted = [await desk.store.pace("key", requests=3.0, tokens=0.0, tokens_wanted=0) for _ in range(4)]

        assert [wait == 0.0 for wait in granted] == [True, True, True, False]

    async def test_a_request_larger_than_the_bucket_waits_for_a_full_one(self, start: Start) -> None:
        desk = await start()

        assert await desk.store.pace("key", requests=0.0, tokens=1000.0, tokens_wanted=50_000) == 0.0
        assert await desk.store.pace("key", requests=0.0, tokens=1000.0, tokens_wanted=50_000) == pytest.approx(60.0)

    async def test_without_limits_nobody_waits(self, start: Start) -> None:
        desk = await start()

        for _ in range(100):
            assert await desk.store.pace("key", requests=0.0, tokens=0.0, tokens_wanted=10**9) == 0.0

    async def test_keys_are_paced_apart(self, start: Start) -> None:
        desk = await start()
        await desk.store.pace("one", requests=1.0, tokens=0.0, tokens_wanted=0)

        assert await desk.store.pace("two", requests=1.0, tokens=0.0, tokens_wanted=0) == 0.0

    async def test_a_key_that_was_slowed_down_waits_and_is_never_shortened(self, start: Start) -> None:
        desk = await start()
        await desk.store.slow_down("key", 20.0)
        await desk.store.slow_down("key", 5.0)

        assert await desk.store.pace("key", requests=0.0, tokens=0.0, tokens_wanted=0) == pytest.approx(20.0)
        await desk.wait(19.75)
        assert await desk.store.pace("key", requests=0.0, tokens=0.0, tokens_wanted=0) == pytest.approx(0.25)
        assert await desk.store.pace("other", requests=0.0, tokens=0.0, tokens_wanted=0) == 0.0
        await desk.wait(0.25)
        assert await desk.store.pace("key", requests=0.0, tokens=0.0, tokens_wanted=0) == 0.0

    # ---------------------------------------------------------------- circuits

    async def test_the_first_to_open_a_circuit_is_remembered(self, start: Start) -> None:
        desk = await start()
        first = await desk.store.trip("api#1", FAULT, probe_in=30.0)
        await desk.wait(1)

        again = await desk.store.trip("api#1", TurnFault("other", "other"), probe_in=60.0)

        assert (first.endpoint, first.fault, first.opened_at, first.probe_at) == (
            "api#1", FAULT, desk.now - 1, desk.now + 29,
        )  # fmt: skip
        assert again == first
        assert await desk.store.circuits() == [first]

    async def test_one_caller_may_probe_an_open_circuit(self, start: Start) -> None:
        desk = await start()
        await desk.store.trip("api", FAULT, probe_in=30.0)
        assert not await desk.store.probe("api", every=30.0)
        await desk.wait(30)

        allowed = await asyncio.gather(*(desk.store.probe("api", every=30.0) for _ in range(5)))

        assert sum(allowed) == 1
        await desk.wait(29)
        assert not await desk.store.probe("api", every=30.0)
        await desk.wait(1)
        assert await desk.store.probe("api", every=30.0)

    async def test_everybody_may_ask_a_closed_circuit(self, start: Start) -> None:
        desk = await start()
        await desk.store.trip("other", FAULT, probe_in=30.0)

        assert [await desk.store.probe("api", every=30.0) for _ in range(3)] == [True] * 3

    async def test_a_mended_circuit_is_closed(self, start: Start) -> None:
        desk = await start()
        await desk.store.trip("a", FAULT, probe_in=30.0)
        await desk.store.trip("b", FAULT, probe_in=30.0)

        assert await desk.store.mend("a")
        assert not await desk.store.mend("a")

        assert await desk.store.probe("a", every=30.0)
        assert [circuit.endpoint for circuit in await desk.store.circuits()] == ["b"]

    async def test_who_remembers_what_runs_ask_is_told_of_each_change(self, start: Start) -> None:
        desk = await start()
        store = desk.store
        changes: dict[str, Callable[[], Awaitable[object]]] = {
            "make an assistant": lambda: store.put("assistant", "t", "a", {"model": "m"}),
            "change it": lambda: store.put("assistant", "t", "a", {"model": "n"}),
            "make it the default": lambda: store.put("default", "t", "assistant", {"id": "a"}),
            "delete it": lambda: store.take("assistant", "t", "a"),
            "open a circuit": lambda: store.trip("api", FAULT, probe_in=30.0),
            "close it": lambda: store.mend("api"),
            "ask to wait": lambda: store.slow_down("api", 5.0),
        }
        for name, change in changes.items():
            before = store.revision()
            await change()
            assert store.revision() > before, name
