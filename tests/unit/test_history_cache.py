"""What a process remembers of histories is what a reading would give, whoever changes them."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.chaos.standby import Standby
from turnkeep.conversation import recall
from turnkeep.conversation.history_cache import HistoryCache
from turnkeep.errors import LeaseLost
from turnkeep.messages import Address, AssistantItem, Item, Message, UserItem, text_content
from turnkeep.models.past import Past
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Claim, Commit, History, Policies, Policy, TranscriptEntry

HERE = Address("t", "q", "c")
TOKENS = 60


class CountingStore(MemoryStore):
    """Counts how often a history is read."""

    reads = 0

    async def history(self, *args: Any, **options: Any) -> History:
        self.reads += 1
        return await super().history(*args, **options)


class Desk:
    """A store with two processes that answer, each with what it remembers."""

    def __init__(self, policy: Policy = Policy(window=0.0)) -> None:
        self.store = CountingStore(Policies(policy))
        self.processes = [HistoryCache(self.store), HistoryCache(self.store)]
        self.count = 0

    def spoken(self, *, size: int = 2, tokens: int = 5) -> list[TranscriptEntry]:
        self.count += 1
        question: list[Item] = [UserItem(text_content(f"q{self.count}"), f"m{self.count}")]
        items = [*question, *(AssistantItem(f"a{self.count}.{n}") for n in range(size - 1))]
        return [TranscriptEntry(item, tokens) for item in items]

    async def claim(self) -> Claim:
        self.count += 1
        await self.store.accept([Message(HERE, f"m{self.count}", text_content("hello"), flush=True)])
        [claim] = await self.store.claim(owner="w", limit=1, lease=30.0)
        return claim

    async def answer(
        self, process: HistoryCache, *, tokens: int = TOKENS, meanwhile: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """One run, which is told the right past."""
        claim = await self.claim()
        await self.told(process, claim, tokens)
        if meanwhile is not None:
            await meanwhile()
        entries = self.spoken()
        left = await self.store.commit(claim, Commit("completed", "a", entries))
        process.extend(claim, entries, left.transcript)

    async def told(self, process: HistoryCache, claim: Claim, tokens: int = TOKENS) -> Past:
        recollection = await process.recall(claim, tokens=tokens)
        reads = self.store.reads
        history = await recall(self.store, HERE, tokens=tokens)
        self.store.reads = reads

        assert [*recollection.past.items] == [entry.item for entry in history.entries]
        assert recollection.past.tokens == sum(entry.tokens for entry in history.entries)
        assert recollection.summary == history.summary
        return recollection.past


async def test_a_thread_that_is_answered_here_again_is_read_once() -> None:
    desk = Desk()
    await desk.answer(desk.processes[1])
    for _ in range(20):
        await desk.answer(desk.processes[0])

    assert desk.store.reads == 1


async def test_what_a_lost_claim_would_read_is_neither_told_nor_kept() -> None:
    """A replica took over that had not heard of the claim, and by another its batch is in the history already. Whoever
    answers when that answer is lost as well stands where the first one stood.
    """
    desk = Desk()
    await desk.answer(desk.processes[1])
    await desk.store.accept([Message(HERE, "asked", text_content("hello"), flush=True)])
    unheard_claim = Standby(desk.store)
    [lost] = await desk.store.claim(owner="w", limit=1, lease=30.0)
    unheard_claim.take_over(1)
    unheard_answer = Standby(desk.store)
    [claim] = await desk.store.claim(owner="v", limit=1, lease=30.0)
    await desk.store.commit(claim, Commit("completed", "a", desk.spoken()))

    with pytest.raises(LeaseLost):
        await desk.processes[0].recall(lost, tokens=TOKENS)
    unheard_answer.take_over(2)
    [claim] = await desk.store.claim(owner="w", limit=1, lease=30.0)

    assert claim.transcript == lost.transcript
    assert len((await desk.told(desk.processes[0], claim)).items) == 2


async def test_a_thread_that_begins_here_is_never_read() -> None:
    desk = Desk()
    for _ in range(20):
        await desk.answer(desk.processes[0])

    assert desk.store.reads == 0


async def test_what_another_process_has_answered_is_read() -> None:
    desk = Desk()
    for process in (0, 1, 0, 1):
        await desk.answer(desk.processes[process])

    assert desk.store.reads == 3


CHANGES: dict[str, Callable[[Desk], Awaitable[object]]] = {
    "append": lambda desk: desk.store.append(HERE, desk.spoken()),
    "append an answer alone": lambda desk: desk.store.append(HERE, desk.spoken()[1:]),
    "compact": lambda desk: desk.store.compact(HERE, through_turn=desk.count // 4, summary=f"s{desk.count}"),
    "another summary": lambda desk: desk.store.compact(HERE, through_turn=0, summary=f"s{desk.count}"),
    "forget": lambda desk: desk.store.forget(HERE),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_history_that_was_changed_between_runs_is_told_as_it_is(change: str) -> None:
    desk = Desk()
    for _ in range(4):
        await desk.answer(desk.processes[0])
        await CHANGES[change](desk)
    await desk.answer(desk.processes[0])


async def test_a_turn_that_is_taken_back_is_not_told() -> None:
    desk = Desk()
    await desk.answer(desk.processes[0])
    await desk.store.regenerate(HERE)
    [claim] = await desk.store.claim(owner="w", limit=1, lease=30.0)

    assert not (await desk.told(desk.processes[0], claim)).items


async def test_a_summary_that_is_made_during_a_run_is_told_to_the_next() -> None:
    desk = Desk()
    await desk.answer(desk.processes[0])
    compact = lambda: desk.store.compact(HERE, through_turn=1, summary="they talked")  # noqa: E731
    await desk.answer(desk.processes[0], meanwhile=compact)
    await desk.answer(desk.processes[0])


async def test_turns_that_went_at_the_bounds_are_not_told() -> None:
    desk = Desk(Policy(window=0.0, history_items=5))
    for _ in range(8):
        await desk.answer(desk.processes[0])

    assert desk.store.reads == 0


async def test_any_order_of_runs_and_changes_is_told_as_a_reading_would() -> None:
    chance = random.Random(7)
    for _ in range(30):
        desk = Desk(Policy(window=0.0, history_items=chance.choice([5, 2000])))
        for _ in range(30):
            if chance.random() < 0.25:
                change = chance.choice(list(CHANGES))
                if await desk.store.thread(HERE) is not None:
                    await CHANGES[change](desk)
            await desk.answer(chance.choice(desk.processes), tokens=chance.choice([7, 30, 60, 1000]))


async def test_memory_is_bounded_and_the_thread_told_longest_ago_goes_first() -> None:
    store = CountingStore(Policies(Policy(window=0.0)))
    cache = HistoryCache(store, capacity=6_000)
    claims = []
    for n in range(4):
        where = Address("t", "q", f"c{n}")
        await store.append(where, [TranscriptEntry(UserItem(text_content("x" * 500)), 1)])
        await store.accept([Message(where, f"m{n}", text_content("hello"), flush=True)])
    claims = sorted(await store.claim(owner="w", limit=4, lease=30.0), key=lambda claim: claim.address)
    for claim in [*claims, *reversed(claims)]:
        await cache.recall(claim, tokens=10)

    assert store.reads == 4 + 2
