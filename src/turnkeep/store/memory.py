"""The memory engine: the whole contract in dictionaries, gone with the process.

It is the oracle of the other engines, so it is written to be obviously right: every operation loads a copy of one
thread, applies one rule of `turns`, and puts the copy in place; nothing is awaited in between. A rule that raises
leaves the original.
"""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from turnkeep.clock import Clock, SystemClock
from turnkeep.errors import InvalidMessage, LeaseLost, NotFound, Rejected, StoreUnavailable, ThreadBusy, ThreadNotFound
from turnkeep.events import Event, Fault
from turnkeep.messages import Address, Content, Message
from turnkeep.store import turns
from turnkeep.store.base import (
    LAYOUT,
    Call,
    Claim,
    Commit,
    Counts,
    DeadLetter,
    Decision,
    Directive,
    Entry,
    FailOutcome,
    Failure,
    Follower,
    History,
    Left,
    MessageRecord,
    Page,
    Policies,
    Policy,
    Receipt,
    Record,
    RunRecord,
    Stats,
    ThreadRecord,
)
from turnkeep.store.following import Bell
from turnkeep.store.ids import Ids, new_dead_id, new_epoch, new_run_id, new_thread_id, new_token, random_ids
from turnkeep.store.memory_events import Log, MemoryOutbox
from turnkeep.store.memory_registry import MemoryLedger, MemoryRegistry
from turnkeep.store.records import ages, current_run, is_over, message_record, slides, thread_record
from turnkeep.store.sharing import charge, next_tenant
from turnkeep.store.thread import Known, Out, Thread
from turnkeep.store.transcript import entry_size, last_asked, newest, trimmed_through
from turnkeep.usage import Usage

T = TypeVar("T")

_DEFAULTS = Policies()


@dataclass(slots=True)
class _Kept:
    """A thread and what is kept beside it."""

    thread: Thread
    policy: Policy
    transcript: list[Entry] = field(default_factory=list)
    log: Log = field(default_factory=Log)
    known: dict[str, Known] = field(default_factory=dict)
    runs: list[RunRecord] = field(default_factory=list)

    def known_id(self, message_id: str, now: float) -> Known | None:
        known = self.known.get(message_id)
        is_forgotten = known is not None and known.forget_at is not None and known.forget_at <= now
        return None if is_forgotten else known

    def keep_transcript(self, entries: Sequence[Entry]) -> None:
        through = trimmed_through(entries, self.policy)
        self.transcript = [e for e in entries if e.turn > through]
        self.thread.items = len(self.transcript)
        self.thread.bytes = sum(map(entry_size, self.transcript))


class MemoryStore(MemoryOutbox, MemoryRegistry, MemoryLedger):
    """A `Store` in memory: nothing survives the process, and nobody else can see it."""

    engine = "memory"

    def __init__(self, policies: Policies = _DEFAULTS, *, clock: Clock | None = None, ids: Ids = random_ids) -> None:
        MemoryOutbox.__init__(self)
        MemoryRegistry.__init__(self)
        MemoryLedger.__init__(self)
        self._policies = policies
        self._clock = clock or SystemClock()
        self._ids = ids
        self._threads: dict[Address, _Kept] = {}
        self._named: dict[Address, Address] = {}
        self._wakes: dict[Address, float] = {}
        self._dead: dict[str, DeadLetter] = {}
        self._redriven: dict[str, tuple[Receipt, float]] = {}
        self._totals: dict[tuple[str, str], tuple[int, int]] = {}
        self._served: dict[str, float] = {}
        self._floor = 0.0
        self._nudges: dict[str, set[Address]] = {}
        self._bell = Bell()
        self._closed = False

    # ---------------------------------------------------------------- the engine

    async def open(self) -> None:
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        self._bell.ring()
        for feed in self._feeds:
            feed.close()

    async def check(self) -> Mapping[str, Any]:
        self.moment()
        return {"engine": self.engine, "version": None, "durability": "none", "layout": LAYOUT}

    async def now(self) -> float:
        return self.moment()

    def moment(self) -> float:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        return self._clock.now()

    def resolve(self, address: Address) -> Address:
        return self._named.get(address, address)

    def _find(self, address: Address, now: float) -> _Kept | None:
        """The thread of this address, if there is one; one that has expired is deleted when met."""
        kept = self._threads.get(self.resolve(address))
        if kept is not None and is_over(kept.thread, kept.policy, now):
            self._delete(kept)
            return None
        return kept

    def _get(self, address: Address, now: float) -> _Kept:
        kept = self._find(address, now)
        if kept is None:
            raise ThreadNotFound(f"there is no thread on channel {address.channel!r}")
        return kept

    def _owned(self, claim: Claim) -> _Kept:
        kept = self._threads.get(claim.address)
        if kept is None or kept.thread.thread_id != claim.thread_id:
            raise LeaseLost(f"the thread of run {claim.run_id} was deleted")
        return kept

    def _find_or_new(self, address: Address, now: float) -> _Kept:
        """A new thread is not kept before something of it is stored."""
        if (kept := self._find(address, now)) is not None:
            return kept
        thread = Thread(address, new_thread_id(self._ids, address), now, now, new_epoch(self._ids))
        return _Kept(thread, self._policies.of(address.queue))

    def _apply(self, kept: _Kept, rule: Callable[[Thread], T], now: float) -> T:
        """One act: the rule works on a copy, and what it leaves is put in place together."""
        draft = _copy(kept.thread)
        result = rule(draft)
        self._put(kept, draft, now)
        return result

    def _put(self, kept: _Kept, thread: Thread, now: float) -> None:
        out, thread.out = thread.out, Out()
        address = thread.address
        kept.thread = thread
        self._threads[address] = kept
        self._named[Address(address.tenant, address.queue, thread.thread_id)] = address
        for message_id, known in out.known.items():
            kept.known[message_id] = turns.merge_known(kept.known.get(message_id), known)
        for place, letter in enumerate(out.dead):
            dead_id = new_dead_id(self._ids, address, now, place)
            self._dead[dead_id] = replace(letter, dead_id=dead_id)
        if out.run is not None:
            kept.runs = [out.run, *kept.runs][: kept.policy.runs_kept]
        if out.entries:
            kept.keep_transcript(kept.transcript + out.entries)
        self._count(address, out.completed, out.failed)
        kept.log.append(out.events, thread.live_from, kept.policy, now)
        self._tell(address, thread.thread_id, out.events)
        self._hint(thread, out.nudge)

    def _count(self, address: Address, completed: int, failed: int) -> None:
        before = self._totals.get((address.tenant, address.queue), (0, 0))
        self._totals[address.tenant, address.queue] = (before[0] + completed, before[1] + failed)

    def _hint(self, thread: Thread, nudge: str | None) -> None:
        if thread.wake is None:
            self._wakes.pop(thread.address, None)
        else:
            self._wakes[thread.address] = thread.wake
        if nudge is not None:
            self._nudges.setdefault(nudge, set()).add(thread.address)
        self._bell.ring()

    def _delete(self, kept: _Kept) -> None:
        address = kept.thread.address
        del self._threads[address]
        del self._named[Address(address.tenant, address.queue, kept.thread.thread_id)]
        self._wakes.pop(address, None)

    def _living(self, tenant: str | None, queue: str | None, now: float) -> list[_Kept]:
        return [
            kept
            for address, kept in self._threads.items()
            if _is_within(address, tenant, queue) and not is_over(kept.thread, kept.policy, now)
        ]

    # ---------------------------------------------------------------- inbox

    async def accept(
        self, messages: Sequence[Message], *, create: bool = True, max_inbox: int | None = None
    ) -> list[Receipt | Rejected]:
        now = self.moment()
        outcomes: dict[int, Receipt | Rejected] = {}
        places: dict[Address, list[int]] = {}
        for place, message in enumerate(messages):
            places.setdefault(self.resolve(message.address), []).append(place)
        for address, here in places.items():
            if not create and self._find(address, now) is None:
                error = ThreadNotFound(f"there is no thread on channel {address.channel!r}")
                outcomes |= dict.fromkeys(here, error)
                continue
            group = [messages[place] for place in here]
            outcomes |= zip(here, self._accept_on(address, group, max_inbox, now), strict=True)
        return [outcomes[place] for place in range(len(messages))]

    def _accept_on(
        self, address: Address, messages: Iterable[Message], max_inbox: int | None, now: float
    ) -> list[Receipt | Rejected]:
        """The messages of one thread, in one act; it is stored if any was taken."""
        kept = self._find_or_new(address, now)
        draft = _copy(kept.thread)
        outcomes: list[Receipt | Rejected] = []
        for message in messages:
            known = draft.out.known.get(message.message_id) or kept.known_id(message.message_id, now)
            try:
                outcomes.append(turns.accept(draft, message, known, kept.policy, now, max_inbox))
            except Rejected as refused:
                outcomes.append(refused)
        if draft.out.known:
            self._put(kept, draft, now)
        return outcomes

    async def claim(self, *, owner: str, limit: int, lease: float, queues: Sequence[str] | None = None) -> list[Claim]:
        now = self.moment()
        ready: dict[str, list[tuple[float, Address]]] = {}
        for address, wake in sorted(self._wakes.items(), key=lambda pair: (pair[1], pair[0])):
            if wake <= now and (queues is None or address.queue in queues):
                ready.setdefault(address.tenant, []).append((wake, address))
        claims: list[Claim] = []
        while ready and len(claims) < limit:
            tenant = next_tenant({t: waiting[0][0] for t, waiting in ready.items()}, self._served, self._floor)
            _, address = ready[tenant].pop(0)
            if not ready[tenant]:
                del ready[tenant]
            if (claim := self._claim_one(self._threads[address], owner, lease, now)) is not None:
                weight = self._policies.weight(tenant)
                self._served[tenant], self._floor = charge(tenant, weight, self._served, self._floor)
                claims.append(claim)
        return claims

    def _claim_one(self, kept: _Kept, owner: str, lease: float, now: float) -> Claim | None:
        token, run_id = new_token(self._ids), kept.thread.run_id or new_run_id(self._ids)
        claim = self._apply(
            kept,
            lambda t: turns.claim(t, kept.policy, now, owner=owner, lease=lease, token=token, run_id=run_id),
            now,
        )
        return None if claim is None else _given(claim)

    async def begin(self, messages: Sequence[Message], *, owner: str, lease: float) -> Claim:
        now = self.moment()
        if not messages:
            raise InvalidMessage("there is no message to begin with, give at least one")
        kept = self._find_or_new(messages[0].address, now)
        known = [kept.known_id(m.message_id, now) for m in messages]
        token, run_id = new_token(self._ids), new_run_id(self._ids)
        claim = self._apply(
            kept,
            lambda t: turns.begin(
                t, messages, known, kept.policy, now, owner=owner, lease=lease, token=token, run_id=run_id
            ),
            now,
        )
        return _given(claim)

    async def renew(self, owner: str, claims: Sequence[Claim], *, lease: float) -> dict[str, Directive]:
        now = self.moment()
        directives: dict[str, Directive] = {}
        for claim in claims:
            kept = self._threads.get(claim.address)
            directives[claim.token] = (
                self._apply(kept, lambda t, c=claim, k=kept: turns.renew(t, c, now, lease, k.policy), now)  # type: ignore[misc]
                if kept
                else Directive(held=False)
            )
        for kept in [*self._threads.values()]:
            if kept.thread.owner == owner and kept.thread.token not in directives:
                self._apply(kept, lambda t: turns.orphan(t, now), now)
        return directives

    async def offered(self, claim: Claim) -> list[Message]:
        now = self.moment()
        return self._apply(self._owned(claim), lambda t: turns.offered(t, claim), now)

    async def journal(self, claim: Claim, records: Sequence[Record]) -> None:
        now = self.moment()
        kept_records = copy.deepcopy([dict(record) for record in records])
        self._apply(self._owned(claim), lambda t: turns.journal(t, claim, kept_records, now), now)

    async def commit(self, claim: Claim, commit: Commit) -> Left:
        now = self.moment()
        kept = self._owned(claim)
        return self._apply(kept, lambda t: turns.commit(t, claim, commit, kept.policy, now), now)

    async def fail(self, claim: Claim, failure: Failure) -> FailOutcome:
        now = self.moment()
        kept = self._owned(claim)
        return self._apply(kept, lambda t: turns.fail(t, claim, failure, kept.policy, now), now)

    async def release(self, claim: Claim, *, delay: float = 0.0, reason: Fault | None = None) -> None:
        now = self.moment()
        self._apply(self._owned(claim), lambda t: turns.release(t, claim, delay, reason, now), now)

    async def hold(self, claim: Claim, calls: Sequence[Call], *, expires_in: float) -> None:
        now = self.moment()
        self._apply(self._owned(claim), lambda t: turns.hold(t, claim, calls, expires_in, now), now)

    async def decide(self, address: Address, call_id: str, digest: str, decision: Decision) -> Call:
        now = self.moment()
        return self._apply(self._get(address, now), lambda t: turns.decide(t, call_id, digest, decision, now), now)

    async def cancel(self, address: Address, *, drop_inbox: bool = False) -> bool:
        now = self.moment()
        if (kept := self._find(address, now)) is None:
            return False
        return self._apply(kept, lambda t: turns.cancel(t, kept.policy, now, drop_inbox=drop_inbox), now)

    async def withdraw(self, address: Address, message_id: str) -> MessageRecord:
        now = self.moment()
        kept = self._get(address, now)
        if turns.status_of(kept.thread, message_id) is None:
            turns.late(kept.known_id(message_id, now), message_id, withdrawing=True)
        else:
            self._apply(kept, lambda t: turns.withdraw(t, message_id, kept.policy, now), now)
        return message_record(kept.thread, message_id, kept.known[message_id])

    async def edit(self, address: Address, message_id: str, content: Content) -> MessageRecord:
        now = self.moment()
        kept = self._get(address, now)
        if turns.status_of(kept.thread, message_id) is None:
            turns.late(kept.known_id(message_id, now), message_id, withdrawing=False)
        self._apply(kept, lambda t: turns.edit(t, message_id, content, kept.policy, now), now)
        return message_record(kept.thread, message_id, kept.known[message_id])

    async def flush(self, address: Address) -> bool:
        now = self.moment()
        kept = self._find(address, now)
        return kept is not None and self._apply(kept, lambda t: turns.flush(t, kept.policy, now), now)

    async def typing(self, address: Address) -> float | None:
        now = self.moment()
        if (kept := self._find(address, now)) is None:
            return None
        return self._apply(kept, lambda t: turns.typing(t, kept.policy, now), now)

    async def pause(self, address: Address) -> None:
        now = self.moment()
        self._apply(self._find_or_new(address, now), lambda t: turns.pause(t, now), now)

    async def resume(self, address: Address) -> None:
        now = self.moment()
        if (kept := self._find(address, now)) is not None:
            self._apply(kept, lambda t: turns.resume(t, kept.policy, now), now)

    async def message(self, address: Address, message_id: str) -> MessageRecord | None:
        now = self.moment()
        kept = self._find(address, now)
        known = kept.known_id(message_id, now) if kept else None
        return message_record(kept.thread, message_id, known) if kept and known else None

    async def counts(self, *, tenant: str | None = None, queue: str | None = None) -> Counts:
        now = self.moment()
        living = self._living(tenant, queue, now)
        places = [_place(kept.thread, now) for kept in living]
        totals = [pair for (t, q), pair in self._totals.items() if _is_within(Address(t, q, ""), tenant, queue)]
        return Counts(
            active=places.count("active"),
            waiting=places.count("waiting"),
            delayed=places.count("delayed"),
            completed=sum(completed for completed, _ in totals),
            failed=sum(failed for _, failed in totals),
            held=places.count("held"),
            paused=places.count("paused"),
            open_messages=sum(len(k.thread.inbox) + len(k.thread.delayed) for k in living),
            dead_letters=sum(_is_within(letter.address, tenant, queue) for letter in self._dead.values()),
            threads=len(living),
        )

    async def dead(
        self, *, tenant: str | None = None, queue: str | None = None, after: str = "", limit: int = 100
    ) -> list[DeadLetter]:
        self.moment()
        letters = [self._dead[dead_id] for dead_id in sorted(self._dead) if dead_id > after]
        return [letter for letter in letters if _is_within(letter.address, tenant, queue)][:limit]

    async def dead_letter(self, dead_id: str) -> DeadLetter | None:
        self.moment()
        return self._dead.get(dead_id)

    async def redrive(self, dead_id: str) -> Receipt:
        now = self.moment()
        receipt, until = self._redriven.get(dead_id, (None, 0.0))
        if receipt is not None and until > now:
            return receipt
        letter = self._dead.get(dead_id)
        if letter is None:
            raise NotFound(f"there is no dead letter {dead_id!r}")
        kept = self._find_or_new(letter.address, now)
        known = kept.known_id(letter.message.message_id, now)
        receipt = self._apply(kept, lambda t: turns.redrive(t, letter, kept.policy, now, known), now)
        del self._dead[dead_id]
        self._redriven[dead_id] = (receipt, now + kept.policy.dedupe)
        return receipt

    async def discard(self, dead_id: str) -> bool:
        self.moment()
        return self._dead.pop(dead_id, None) is not None

    async def ready(self, *, queues: Sequence[str] | None, timeout: float) -> None:
        until = self.moment() + timeout
        while (now := self.moment()) < until:
            wakes = [wake for address, wake in self._wakes.items() if queues is None or address.queue in queues]
            wake = min(wakes, default=until)
            if wake <= now:
                return
            await self._bell.wait(self._clock, min(wake, until) - now)

    async def nudged(self, owner: str, *, timeout: float) -> set[Address]:
        until = self.moment() + timeout
        while (now := self.moment()) < until and owner not in self._nudges:
            await self._bell.wait(self._clock, until - now)
        return self._nudges.pop(owner, set())

    # ---------------------------------------------------------------- events

    async def publish(self, claim: Claim, n: int, events: Sequence[Event]) -> int:
        now = self.moment()
        return self._apply(self._owned(claim), lambda t: turns.publish(t, claim, n, events, now), now)

    async def read(self, address: Address, *, after: int = 0, limit: int = 1000) -> Page:
        kept = self._find(address, self.moment())
        if kept is None:
            return Page("", 0, 0, None, ())
        thread, log = kept.thread, kept.log
        return Page(thread.epoch, thread.top, log.floor, thread.live_from, log.after(after, limit))

    def follow(self) -> AbstractAsyncContextManager[Follower]:
        return self._following()

    # ---------------------------------------------------------------- threads

    async def thread(self, address: Address, *, create: bool = False) -> ThreadRecord | None:
        now = self.moment()
        kept = self._find_or_new(address, now) if create else self._find(address, now)
        if kept is None:
            return None
        self._slide(kept, now)
        return thread_record(kept.thread, kept.policy)

    def _slide(self, kept: _Kept, now: float) -> None:
        is_new = kept.thread.address not in self._threads
        if is_new or slides(kept.thread, kept.policy, now):
            self._put(kept, replace(_copy(kept.thread), active_at=now), now)

    async def open_messages(self, address: Address) -> list[MessageRecord]:
        if (kept := self._find(address, self.moment())) is None:
            return []
        ids = [o.message.message_id for o in [*kept.thread.inbox, *kept.thread.delayed]]
        return [message_record(kept.thread, message_id, kept.known[message_id]) for message_id in ids]

    async def runs(self, address: Address) -> list[RunRecord]:
        if (kept := self._find(address, self.moment())) is None:
            return []
        current = current_run(kept.thread)
        return [current, *kept.runs] if current else list(kept.runs)

    async def history(
        self, address: Address, *, tokens: int | None = None, items: int | None = None, before_turn: int | None = None
    ) -> History:
        now = self.moment()
        if (kept := self._find(address, now)) is None:
            return History((), None, complete=True)
        self._slide(kept, now)
        return newest(kept.transcript, kept.thread.summary, tokens=tokens, items=items, before_turn=before_turn)

    async def append(
        self, address: Address, entries: Sequence[Entry], *, author: str | None = None, key: str | None = None
    ) -> None:
        now = self.moment()
        self._apply(self._find_or_new(address, now), lambda t: turns.append(t, entries, author, now, key), now)

    async def rewind(self, address: Address, *, key: str | None = None) -> list[Message]:
        now = self.moment()
        kept = self._get(address, now)
        is_repeat = turns.is_rewound(kept.thread, key)
        asked = last_asked(kept.transcript)
        messages = self._apply(kept, lambda t: turns.rewind(t, asked, now, key), now)
        if not is_repeat:
            kept.keep_transcript([e for e in kept.transcript if e.turn < asked[0].turn])
        return messages

    async def compact(self, address: Address, *, through_turn: int, summary: str) -> None:
        now = self.moment()
        kept = self._get(address, now)
        self._put(kept, replace(_copy(kept.thread), summary=summary, active_at=now), now)
        kept.keep_transcript([e for e in kept.transcript if e.turn > through_turn])

    async def update(self, address: Address, changes: Mapping[str, Any]) -> ThreadRecord:
        now = self.moment()
        kept = self._get(address, now)
        self._apply(kept, lambda t: turns.update(t, changes, now), now)
        return thread_record(kept.thread, kept.policy)

    async def scan(
        self, *, tenant: str | None = None, queue: str | None = None, idle_for: float = 0.0
    ) -> AsyncIterator[ThreadRecord]:
        now = self.moment()
        for kept in self._living(tenant, queue, now):
            if kept.thread.active_at <= now - idle_for:
                yield thread_record(kept.thread, kept.policy)

    async def stats(self, *, tenant: str | None = None, queue: str | None = None) -> Stats:
        now = self.moment()
        threads = [kept.thread for kept in self._living(tenant, queue, now)]
        active = [thread.active_at for thread in threads]
        return Stats(
            threads=len(threads),
            messages=sum(thread.messages for thread in threads),
            turns=sum(thread.turns for thread in threads),
            ages=ages(active, now),
            oldest=min(active, default=None),
            newest=max(active, default=None),
            storage=sum(thread.bytes for thread in threads),
            usage=sum((thread.usage for thread in threads), Usage()),
        )

    async def forget(self, address: Address, *, force: bool = False) -> bool:
        kept = self._find(address, self.moment())
        if kept is None:
            return False
        if (kept.thread.inbox or kept.thread.delayed) and not force:
            raise ThreadBusy("messages are open on this channel, wait for their answer or force it")
        self._delete(kept)
        gone = kept.thread.thread_id
        self._dead = {dead_id: letter for dead_id, letter in self._dead.items() if letter.thread_id != gone}
        return True

    async def expire(self, *, limit: int = 100) -> int:
        now = self.moment()
        over = [kept for kept in self._threads.values() if is_over(kept.thread, kept.policy, now)][:limit]
        for kept in over:
            self._delete(kept)
        for kept in self._threads.values():
            kept.known = {i: k for i, k in kept.known.items() if kept.known_id(i, now)}
            kept.log.trim(kept.thread.live_from, kept.policy, now)
        self._redriven = {dead_id: left for dead_id, left in self._redriven.items() if left[1] > now}
        owners = {kept.thread.owner for kept in self._threads.values()}
        self._nudges = {owner: told for owner, told in self._nudges.items() if owner in owners}
        self._forget_documents(now)
        self._forget_accounts(now)
        return len(over)


def _copy(thread: Thread) -> Thread:
    """A thread that may be changed without changing the original; values inside are immutable."""
    return replace(
        thread,
        calls=list(thread.calls),
        journal=list(thread.journal),
        inbox=[replace(opened) for opened in thread.inbox],
        delayed=[replace(opened) for opened in thread.delayed],
        metadata=dict(thread.metadata),
        out=Out(),
    )


def _given(claim: Claim) -> Claim:
    """A claim whose journal the caller may keep and change."""
    return replace(claim, journal=copy.deepcopy(claim.journal))


def _place(thread: Thread, now: float) -> str:
    """Under which count a thread goes."""
    if thread.state == "leased":
        return "active"
    if thread.paused:
        return "paused"
    if thread.state == "held":
        return "held"
    if thread.wake is None:
        return "idle"
    return "waiting" if thread.wake <= now else "delayed"


def _is_within(address: Address, tenant: str | None, queue: str | None) -> bool:
    return tenant in (None, address.tenant) and queue in (None, address.queue)
