"""Operations of one group see each other, and each of them happens or not as if it had been alone."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.comparing import Names, differences
from tests.contract.suite.desk import Desk, answer, at, delta, give_up, said
from tests.unit.sqlite_files import opened, together, traced
from turnkeep.errors import InvalidMessage
from turnkeep.messages import UserItem, text_content
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Claim, Commit, Policies, Policy, Receipt, TranscriptEntry
from turnkeep.testing import FakeClock

POLICIES = Policies(Policy(window=0.0, max_wait=0.0, max_inbox=3, history_items=6, runs_kept=2, log_events=20))
CHANNELS = [at(f"c{n}") for n in range(4)]

Op = Callable[[Desk, list[Claim]], Awaitable[Any]]


def some_operation(chance: random.Random, n: int) -> Op:
    """One that may well be refused: ids come again, inboxes are full, claims are old."""
    where, message_id, place = chance.choice(CHANNELS), f"m{chance.randrange(12)}", chance.randrange(100)
    text = chance.choice(["hello", "hello", "other"])
    entries = [TranscriptEntry(UserItem(text_content(f"q{n}")), 1)]
    operations: list[Op] = [
        lambda desk, _: desk.store.accept([said(message_id, text, where)]),
        lambda desk, _: desk.store.accept([said(message_id, text, where), said(f"n{n}", "x", chance_of(place))]),
        lambda desk, _: desk.store.claim(owner="w", limit=1 + place % 3, lease=30.0),
        lambda desk, claims: desk.store.commit(of(claims, place), answer(of(claims, place))),
        lambda desk, claims: desk.store.commit(of(claims, place), Commit("cancelled", "", ())),
        lambda desk, claims: desk.store.journal(of(claims, place), [{"n": place % 2}]),
        lambda desk, claims: desk.store.publish(of(claims, place), place % 2, [delta("x")]),
        lambda desk, claims: desk.store.fail(of(claims, place), give_up()),
        lambda desk, claims: desk.store.release(of(claims, place)),
        lambda desk, _: desk.store.withdraw(where, message_id),
        lambda desk, _: desk.store.cancel(where, drop_inbox=True),
        lambda desk, _: desk.store.append(where, entries),
        lambda desk, _: desk.store.regenerate(where),
        lambda desk, _: desk.store.compact(where, through_turn=place % 5, summary="s"),
        lambda desk, _: desk.store.update(where, {"metadata": {"n": str(n)}}, once=f"o{place % 5}"),
        lambda desk, _: desk.store.forget(where, force=True),
    ]
    return chance.choices(operations, weights=[6, 3, 6, 6, 1, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1])[0]


def chance_of(place: int) -> Any:
    return CHANNELS[place % len(CHANNELS)]


def of(claims: list[Claim], place: int) -> Claim:
    nobody = Claim(CHANNELS[0], "thread_0", "run_0", "no token", 1, "w", 1, 0.0, (said("m9", "x", CHANNELS[0]),))
    return claims[place % len(claims)] if claims else nobody


def plain(names: Names, value: Any) -> Any:
    """Comparable, with the names of messages that are answered again as well."""

    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {rename(name): rename(item) for name, item in value.items()}
        if isinstance(value, list):
            return [rename(item) for item in value]
        return "minted" if isinstance(value, str) and value.startswith("msg_") else value

    return rename(names.plain(value))


async def outcome(operation: Awaitable[Any]) -> Any:
    try:
        return await operation
    except Exception as error:
        return error


@pytest.mark.slow  # random lives
async def test_a_group_does_what_its_operations_do_one_after_the_other(
    tmp_path: Path, size: Callable[[int, int], int]
) -> None:
    chance = random.Random(11)
    for round_ in range(size(5, 200)):
        clock = FakeClock()
        oracle = Desk(MemoryStore(POLICIES, clock=clock), clock)
        async with opened(tmp_path / f"{round_}.db", POLICIES) as desk:
            here, there, known_here, known_there = Names(), Names(), list[Claim](), list[Claim]()
            for turn in range(4):
                operations = [some_operation(chance, 20 * turn + n) for n in range(12)]
                told = await together(desk, *(operation(desk, known_here[:]) for operation in operations))
                expected = [await outcome(operation(oracle, known_there[:])) for operation in operations]

                assert differences(plain(there, expected), plain(here, told)) == []
                for claims, answers in ((known_here, told), (known_there, expected)):
                    claims += [
                        one for many in answers if isinstance(many, list) for one in many if isinstance(one, Claim)
                    ]
                dumps = [await one.dump(*CHANNELS, ids=[f"m{n}" for n in range(12)]) for one in (oracle, desk)]
                assert differences(plain(there, dumps[0]), plain(here, dumps[1])) == []
                seconds = chance.choice([0.0, 1.0, 31.0])
                for one in (desk, oracle):
                    await one.wait(seconds)


async def test_a_row_that_cannot_be_written_fails_its_own_operation_alone(tmp_path: Path) -> None:
    async with opened(tmp_path / "q.db") as desk:
        ids = ["a", "half of \ud83d", "b"]
        told = await together(desk, *(desk.store.accept([said(message_id)]) for message_id in ids))

        assert [type(outcome) for outcome in told] == [list, InvalidMessage, list]
        assert await desk.waiting_ids() == ["a", "b"]


async def test_an_operation_that_only_adds_needs_no_savepoint(tmp_path: Path) -> None:
    async with opened(tmp_path / "q.db") as desk:
        with traced(desk) as statements:
            told = await together(desk, *(desk.store.accept([said("m1", where=at(f"c{n}"))]) for n in range(9)))

        assert all(isinstance(receipt, Receipt) for [receipt] in told)
        assert not any("SAVEPOINT" in statement for statement in statements)
