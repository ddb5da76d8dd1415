"""Two engines that live through the same, and the books beside them: answers are compared, promises checked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.contract.bookkeeping import Books
from tests.contract.comparing import Names, differences
from tests.patience import PATIENCE
from turnkeep.errors import LeaseLost, MessageConflict, Rejection, TurnkeepError
from turnkeep.events import Event
from turnkeep.messages import Address, Message
from turnkeep.store.contract import Store
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Claim, Policies, Policy, Receipt
from turnkeep.testing.fake_clock import FakeClock, counting_ids

T = TypeVar("T")

Make = Callable[[Policies, FakeClock], Awaitable[Store]]
"""Gives an empty, open store whose time is this clock's."""


@dataclass(slots=True)
class Held:
    """A claim that some worker believes to have, as each engine gave it, and what it has written."""

    here: Claim
    there: Claim
    journalled: int
    published: int = 0

    @property
    def where(self) -> Address:
        return self.here.address

    def on(self, side: int) -> Claim:
        return (self.here, self.there)[side]


class Twins:
    """The memory engine here, another one there."""

    def __init__(self, make: Make, policy: Policy, places: Sequence[Address], loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.places = places
        self.clock = FakeClock()
        self.here: Store = MemoryStore(Policies(policy), clock=self.clock, ids=counting_ids())
        self.there = self.wait(make(Policies(policy), self.clock))
        self.books = Books(policy)
        self.held: list[Held] = []
        self.letters: list[tuple[str, str]] = []
        self._names = (Names(), Names())
        self._minted = 0
        self._seen: dict[Address, int] = {}
        self._sunk = [self.wait(store.open_sink("sink")) for store in (self.here, self.there)]

    @property
    def now(self) -> float:
        return self.clock.now()

    def new_id(self) -> str:
        self._minted += 1
        return f"n{self._minted}"

    def wait(self, operation: Awaitable[T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(PATIENCE):
                return await operation

        return self.loop.run_until_complete(bounded())

    # ---------------------------------------------------------------- any operation

    def both(self, operation: Callable[[Store, int], Awaitable[T]], *, twice: bool = False) -> T | Exception:
        """Make an operation on both engines and compare what they say. `twice`: its reply was lost, so it is made
        again, and has to say the same.
        """
        here = self._both(operation)
        if twice:
            again = self._both(operation)
            assert self._names[0].plain(again) == self._names[0].plain(here), f"{here!r}, and when repeated {again!r}"
        return here

    def _both(self, operation: Callable[[Store, int], Awaitable[T]]) -> T | Exception:
        here = self.outcome(operation(self.here, 0))
        there = self.outcome(operation(self.there, 1))
        self.compare(here, there)
        return here

    def outcome(self, operation: Awaitable[T]) -> T | Exception:
        try:
            return self.wait(operation)
        except (TurnkeepError, ValueError) as error:
            return error

    def compare(self, here: Any, there: Any, what: str = "") -> None:
        found = differences(self._names[0].plain(here), self._names[1].plain(there), what)
        assert not found, "the engines differ:\n" + "\n".join(found[:20])

    # ---------------------------------------------------------------- looking

    def look(self, *touched: Address) -> None:
        """Compare all that both engines tell of these channels and of the whole store, and check it by the books."""
        for where in touched:
            here, there = self._told(self.here, where), self._told(self.there, where)
            self.compare(here, there, f"{where}")
            self.books.check(where, here["thread"], here["open"])
            self._seen[where] = here["log"].top
        counts = self.both(lambda store, _: store.counts())
        assert not isinstance(counts, Exception)
        assert counts.open_messages == self.books.open_total()
        assert (counts.completed, counts.failed) == (self.books.completed, self.books.failed)
        letters, others = (self.wait(store.dead(limit=1000)) for store in (self.here, self.there))
        self.compare(letters, others, "dead letters")
        self.letters = [(one.dead_id, other.dead_id) for one, other in zip(letters, others, strict=True)]

    def _told(self, store: Store, where: Address) -> dict[str, Any]:
        """All that the read operations tell of a channel, without the events that were compared before."""
        return self.wait(told_of(store, where, self.books.recent_ids(where), self._seen.get(where, 0)))

    def look_at_everything(self) -> None:
        self._seen.clear()
        self.look(*self.places)
        pairs = zip((self.here, self.there), self._sunk, strict=True)
        here, there = (self.wait(delivered(store, partitions)) for store, partitions in pairs)
        self.compare(here, there, "outbox")

    # ---------------------------------------------------------------- accepting and claiming

    def accept(self, messages: Sequence[Message], max_inbox: int | None = None) -> None:
        outcomes = self.both(lambda store, _: store.accept(messages, max_inbox=max_inbox))
        assert not isinstance(outcomes, Exception)
        for message, outcome in zip(messages, outcomes, strict=True):
            expected = self.books.expected(message, self.now)
            if expected == "repeated":
                assert isinstance(outcome, Receipt)
                assert outcome.repeated
            elif expected == "conflict":
                assert isinstance(outcome, MessageConflict)
            elif not isinstance(outcome, Rejection):
                assert not outcome.repeated
                self.books.accepted(message, self.now)

    def flush(self, where: Address, *, twice: bool = False) -> None:
        self.books.of(where).is_hurried |= self.both(lambda store, _: store.flush(where), twice=twice) is True

    def claim(self, owner: str, lease: float, *, keep: bool = True) -> None:
        """Let a worker take all that is ready; without `keep` the reply is lost."""
        self.books.before_claims(self.now)
        ours, theirs = (
            sorted(self.wait(store.claim(owner=owner, limit=100, lease=lease)), key=lambda claim: claim.address)
            for store in (self.here, self.there)
        )
        self.compare(ours, theirs, "claims")
        for here, there in zip(ours, theirs, strict=True):
            self.books.claimed(here, self.now)
            if keep:
                self.held.append(Held(here, there, len(here.journal)))
        for where in self.places:
            record = self.wait(self.here.thread(where))
            can_wait = record is None or record.paused or record.due is None or record.due > self.now
            assert can_wait, f"{where} is ready and was left"

    def begin(self, message: Message, owner: str, lease: float) -> None:
        here, there = (
            self.outcome(store.begin([message], owner=owner, lease=lease)) for store in (self.here, self.there)
        )
        self.compare(here, there, "begun")
        if isinstance(here, Claim) and isinstance(there, Claim):
            assert self.books.expected(message, self.now) is None
            self.books.accepted(message.but(flush=True), self.now)
            self.books.claimed(here, self.now)
            self.held.append(Held(here, there, len(here.journal)))

    def pick(self, pick: int) -> Held:
        """A claim, the newest first; old ones are forgotten."""
        del self.held[:-6]
        return self.held[-1 - pick % len(self.held)]

    def fenced(
        self, held: Held, operation: Callable[[Store, Claim], Awaitable[T]], *, twice: bool
    ) -> tuple[T | Exception, bool]:
        """One write of a run: its answer, and whether it counts now. A stale one changes nothing."""
        is_current = self.books.is_current(held.here)
        before = None if is_current else self._told(self.here, held.where)
        outcome = self.both(lambda store, side: operation(store, held.on(side)), twice=twice)
        if is_current:
            assert not isinstance(outcome, LeaseLost), f"the lease of {held.where} was lost too early"
        else:
            assert self._told(self.here, held.where) == before, "a stale claim changed something"
        return outcome, is_current and not isinstance(outcome, Exception)

    def close(self) -> None:
        self.wait(self.here.close())
        self.wait(self.there.close())


async def told_of(store: Store, where: Address, known: Iterable[str], after: int) -> dict[str, Any]:
    reads: dict[str, Awaitable[Any]] = {
        "thread": store.thread(where),
        "open": store.open_messages(where),
        "runs": store.runs(where),
        "history": store.history(where),
        "log": store.read(where, after=after, limit=100_000),
        "messages": asyncio.gather(*(store.message(where, message_id) for message_id in known)),
    }
    return dict(zip(reads, await asyncio.gather(*reads.values()), strict=True))


async def delivered(store: Store, partitions: Sequence[int]) -> dict[str, list[Event]]:
    """What a sink was to deliver, by channel."""
    found: dict[str, list[Event]] = {}
    for partition in partitions:
        for delivery in await store.deliveries("sink", partition, after="", limit=1_000_000):
            found.setdefault(str(delivery.address), []).append(delivery.event)
    return dict(sorted(found.items()))
