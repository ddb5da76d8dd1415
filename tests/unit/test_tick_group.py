"""Acts of one turn of the loop are few scripts, each caller has its own answer, and nobody pays for another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from turnkeep.errors import StoreUnavailable
from turnkeep.messages import Address
from turnkeep.store.redis.key_names import KeyNames, PartitionKeys, ThreadKeys
from turnkeep.store.redis.tick_group import AT_ONCE, MOST_ROWS, ThreadAct, TickGroup

NAMES = KeyNames("p:", 1)
APART = KeyNames("p:")


def keys(channel: str, names: KeyNames = NAMES) -> ThreadKeys:
    return names.thread(Address("t", "q", channel))


class Script:
    """Answers each thread with its rows; some of them only alone, or with an error."""

    def __init__(self) -> None:
        self.runs: list[list[str]] = []
        self.only_alone: set[str] = set()
        self.error: Exception | None = None
        self.hold = asyncio.Event()
        self.silent: set[str] = set()
        """Threads whose script waits for `hold`."""

    async def __call__(self, threads: Sequence[ThreadKeys], arguments: Sequence[Any]) -> list[Any]:
        names = [thread.address.channel for thread in threads]
        self.runs.append(names)
        if self.silent & set(names):
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        rows: list[list[Any]] = []
        for flag, _, word in zip(arguments[::3], arguments[1::3], arguments[2::3], strict=True):
            if flag == b"1":
                rows.append([])
            rows[-1].append(word)
        is_alone = len(threads) == 1
        return [
            [b"alone"] if name in self.only_alone and not is_alone else [b"ok", *words]
            for name, words in zip(names, rows, strict=True)
        ]


def apart(partition: PartitionKeys) -> int:
    return partition.index


def act(channel: str, *words: str, terms: tuple[object, ...] = (), names: KeyNames = NAMES) -> ThreadAct:
    return ThreadAct(keys(channel, names), tuple((word,) for word in words), (b"head",), terms)


async def test_acts_of_one_turn_are_one_script_and_each_has_its_answer() -> None:
    script = Script()
    group = TickGroup(script, apart)

    answers = await asyncio.gather(
        group.do([act("a", "1", "2")]), group.do([act("b", "3"), act("a", "4")]), group.do([act("a", "5", "6")])
    )

    assert script.runs == [["a", "b"]]
    assert list(answers) == [[["1", "2"]], [["3"], ["4"]], [["5", "6"]]]


async def test_who_asks_alone_waits_for_nobody_and_the_next_turn_is_another_script() -> None:
    script = Script()
    group = TickGroup(script, apart)

    assert await group.do([act("a", "1")]) == [["1"]]
    assert await group.do([act("a", "2")]) == [["2"]]
    assert script.runs == [["a"], ["a"]]


async def test_other_terms_are_another_act_on_the_same_thread() -> None:
    script = Script()

    answers = await TickGroup(script, apart).do([act("a", "1", terms=("x",)), act("a", "2", terms=("y",))])

    assert script.runs == [["a", "a"]]
    assert answers == [["1"], ["2"]]


async def test_partitions_on_one_server_share_a_script() -> None:
    script = Script()
    acts = [act(f"c{n}", f"{n}", names=APART) for n in range(AT_ONCE)]

    await TickGroup(script, lambda partition: 0).do(acts)

    assert len(script.runs) == 1


async def test_in_a_cluster_each_partition_has_a_script_of_its_own() -> None:
    script = Script()
    acts = [act(f"c{n}", f"{n}", names=APART) for n in range(40)]

    answers = await TickGroup(script, apart).do(acts)

    assert answers == [[f"{n}"] for n in range(40)]
    assert len(script.runs) == len({one.keys.partition.index for one in acts})


@pytest.mark.parametrize(("threads", "rows"), [(AT_ONCE + 1, 1), (1, MOST_ROWS + 1)])
async def test_a_script_is_bounded(threads: int, rows: int) -> None:
    script = Script()

    answers = await TickGroup(script, apart).do([act(f"c{t}", f"{t}.{r}") for t in range(threads) for r in range(rows)])

    assert answers == [[f"{t}.{r}"] for t in range(threads) for r in range(rows)]
    assert max(map(len, script.runs)) <= AT_ONCE
    assert sum(map(len, script.runs)) == 2 if threads == 1 else AT_ONCE + 1


async def test_one_that_fails_beside_others_is_done_alone() -> None:
    script = Script()
    script.only_alone = {"b"}

    answers = await TickGroup(script, apart).do([act("a", "1"), act("b", "2"), act("c", "3")])

    assert answers == [["1"], ["2"], ["3"]]
    assert script.runs == [["a", "b", "c"], ["b"]]


async def test_an_error_of_the_script_is_the_answer_of_all() -> None:
    script = Script()
    script.error = StoreUnavailable("away")

    one, other = await asyncio.gather(*(group.do([act("a", "1")]) for group in [TickGroup(script, apart)] * 2))

    assert one == other == [script.error]
    assert len(script.runs) == 1


@pytest.mark.parametrize("is_running", [False, True])
async def test_who_acts_for_all_may_be_cancelled(is_running: bool) -> None:
    """The others do it themselves: what may have happened already is the same again."""
    script = Script()
    script.silent = {"a"}
    group = TickGroup(script, apart)
    first, second = (asyncio.create_task(group.do([act(name, "1")])) for name in "ab")
    for _ in range(3 if is_running else 1):
        await asyncio.sleep(0)
    first.cancel()
    script.hold.set()

    assert await second == [["1"]]
    with pytest.raises(asyncio.CancelledError):
        await first
    assert script.runs[-1] == ["b"]


async def test_who_waits_may_be_cancelled() -> None:
    script = Script()
    group = TickGroup(script, apart)
    first, second = (asyncio.create_task(group.do([act(name, "1")])) for name in "ab")
    await asyncio.sleep(0)
    second.cancel()

    assert await first == [["1"]]


async def test_a_shelf_that_does_not_answer_holds_up_nobody_else() -> None:
    script = Script()
    group = TickGroup(script, apart)
    one = act("a", "1", names=APART)
    other = next(
        two for n in range(99) if (two := act(f"b{n}", "2", names=APART)).keys.partition is not one.keys.partition
    )
    script.silent = {"a"}
    stuck = asyncio.create_task(group.do([one]))

    assert await group.do([other]) == [["2"]]
    assert not stuck.done()
    script.hold.set()
    assert await stuck == [["1"]]
