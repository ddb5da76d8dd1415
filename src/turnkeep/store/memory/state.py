"""What the memory engine keeps, and the one way in which it changes: a copy of a thread, a rule,
the copy in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import field, replace
from typing import Any, TypeVar

from turnkeep.clock import Clock, SteadyClock, SystemClock
from turnkeep.errors import LeaseLost, StoreUnavailable, ThreadNotFound
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.store.ids import Ids, new_dead_id, new_epoch, new_thread_id, random_ids
from turnkeep.store.memory.outbox import Log, Outbox
from turnkeep.store.record_cache import RevisionCount
from turnkeep.store.records import is_over
from turnkeep.store.thread import AcceptedId, Thread, merge_known
from turnkeep.store.transcript import entry_size, trimmed_through
from turnkeep.store.values import (
    Claim,
    DeadLetter,
    HeldCall,
    MessageRecord,
    Policies,
    Policy,
    Receipt,
    RunRecord,
    ThreadRecord,
    TranscriptEntry,
)
from turnkeep.store.wakeups import Bell

T = TypeVar("T")

DEFAULTS = Policies()


@dataclass(slots=True)
class StoredThread:
    """A thread and what is kept beside it."""

    thread: Thread
    policy: Policy
    transcript: list[TranscriptEntry] = field(default_factory=list)
    log: Log = field(default_factory=Log)
    accepted_ids: dict[str, AcceptedId] = field(default_factory=dict)
    runs: list[RunRecord] = field(default_factory=list)

    def known_id(self, message_id: str, now: float) -> AcceptedId | None:
        accepted_id = self.accepted_ids.get(message_id)
        is_forgotten = accepted_id is not None and accepted_id.forget_at is not None and accepted_id.forget_at <= now
        return None if is_forgotten else accepted_id

    def keep_transcript(self, entries: Sequence[TranscriptEntry]) -> None:
        """These and no others, within the bounds."""
        self.transcript = []
        self.thread.items = self.thread.bytes = 0
        self.add_turn(entries)

    def add_turn(self, entries: Sequence[TranscriptEntry]) -> None:
        """These behind the others; the oldest turns beyond the bounds go."""
        size = self.thread.bytes + sum(map(entry_size, entries))
        transcript = [*self.transcript, *entries]
        through = trimmed_through(transcript, self.policy, size)
        count = next((place for place, entry in enumerate(transcript) if entry.turn > through), len(transcript))
        self.thread.bytes = size - sum(map(entry_size, transcript[:count]))
        self.thread.items = len(transcript) - count
        self.transcript = transcript[count:]


@dataclass(slots=True)
class OperationResult:
    """What a named operation gave. What was said goes with its thread; that the operation was done
    stays known.
    """

    until: float
    result: Any
    where: Address | None
    is_forgotten: bool = False

    def forget(self) -> None:
        if isinstance(self.result, HeldCall | MessageRecord | ThreadRecord):
            self.result, self.is_forgotten = None, True


class MemoryState(RevisionCount):
    """Threads by address, and whoever waits for them. Nothing is awaited within an operation, so
    each is atomic.
    """

    def __init__(self, policies: Policies = DEFAULTS, *, clock: Clock | None = None, ids: Ids = random_ids) -> None:
        self.policies = policies
        self.clock = SteadyClock(clock or SystemClock())
        self.ids = ids
        self.threads: dict[Address, StoredThread] = {}
        self.wakes: dict[Address, float] = {}
        self.by_activity: dict[tuple[str, str], dict[Address, None]] = {}
        """The threads of each tenant and queue, those that were active last at the end."""
        self.past: dict[Address, dict[str, AcceptedId]] = {}
        """Ids of messages of threads that were deleted, by channel."""
        self.letters: dict[str, DeadLetter] = {}
        self.totals: dict[tuple[str, str], tuple[int, int]] = {}
        self.nudges: dict[str, set[Address]] = {}
        self.outbox = Outbox()
        self.bell = Bell()
        self.served_by_tenant: dict[str, float] = {}
        self.served_floor = 0.0
        self.redriven: dict[str, tuple[Receipt, float]] = {}
        self.operations: dict[str, OperationResult] = {}
        self.is_closed = False
        self._by_thread_id: dict[Address, Address] = {}

    def moment(self) -> float:
        """The time that counts; every operation begins by asking for it."""
        if self.is_closed:
            raise StoreUnavailable("the store is closed")
        return self.clock.now()

    def resolve(self, address: Address) -> Address:
        """The address of the thread that this one means, which may be by thread id."""
        return self._by_thread_id.get(address, address)

    def find(self, address: Address, now: float) -> StoredThread | None:
        """The thread of this address, if there is one; one that has expired is deleted when met."""
        slot = self.threads.get(self.resolve(address))
        # Deleted when met, not by a timer: a thread that is over is absent at once, for everybody.
        if slot is not None and is_over(slot.thread, slot.policy, now):
            self.delete(slot, now)
            return None
        return slot

    def get_thread(self, address: Address, now: float) -> StoredThread:
        slot = self.find(address, now)
        if slot is None:
            raise ThreadNotFound(f"there is no thread on channel {address.channel!r}")
        return slot

    def claimed_thread(self, claim: Claim) -> StoredThread:
        """The thread of a claim; whether the claim is still valid is for the rule to say."""
        slot = self.threads.get(claim.address)
        if slot is None:
            raise LeaseLost(f"the thread of run {claim.run_id} was deleted")
        return slot

    def find_or_new(self, address: Address, now: float) -> StoredThread:
        """A new thread is not kept before something of it is stored."""
        if (slot := self.find(address, now)) is not None:
            return slot
        thread = Thread(address, new_thread_id(self.ids, address), now, now, new_epoch(self.ids))
        return StoredThread(thread, self.policies.of(address.queue))

    def apply(self, slot: StoredThread, rule: Callable[[Thread], T], now: float) -> T:
        """One act: the rule works on a copy, and what it leaves is put in place together."""
        draft = draft_of(slot.thread)
        result = rule(draft)
        self.keep(slot, draft, now)
        return result

    def keep(self, slot: StoredThread, thread: Thread, now: float) -> None:
        """Put a changed copy in the place of its thread, with all that the rule left in `out`."""
        # Taken off before the thread is put in place: what
        # one operation added must not be added again.
        out = thread.take_out()
        address = thread.address
        if thread.active_at != slot.thread.active_at or address not in self.threads:
            addresses = self.by_activity.setdefault((address.tenant, address.queue), {})
            addresses.pop(address, None)
            addresses[address] = None
        slot.thread = thread
        self.threads[address] = slot
        self._by_thread_id[Address(address.tenant, address.queue, thread.thread_id)] = address
        for message_id, accepted_id in out.accepted_ids.items():
            slot.accepted_ids[message_id] = merge_known(slot.accepted_ids.get(message_id), accepted_id)
        for place, letter in enumerate(out.dead):
            dead_id = new_dead_id(self.ids, address, now, place)
            self.letters[dead_id] = replace(letter, dead_id=dead_id)
        if out.run is not None:
            slot.runs = [out.run, *slot.runs][: slot.policy.runs_kept]
        if out.entries:
            slot.add_turn(out.entries)
        self._count(address, out.completed_count, out.failed_count)
        slot.log.append(out.events, thread.live_from, slot.policy, now)
        self.outbox.tell(address, thread.thread_id, out.events, now)
        self._hint(thread, out.nudge)

    def _count(self, address: Address, completed_count: int, failed_count: int) -> None:
        before = self.totals.get((address.tenant, address.queue), (0, 0))
        self.totals[address.tenant, address.queue] = (before[0] + completed_count, before[1] + failed_count)

    def _hint(self, thread: Thread, nudge: str | None) -> None:
        if thread.wake is None:
            self.wakes.pop(thread.address, None)
        else:
            self.wakes[thread.address] = thread.wake
        if nudge is not None:
            self.nudges.setdefault(nudge, set()).add(thread.address)
        # At every change: whoever waits looks himself whether
        # it concerns him, and a false alarm costs a look.
        self.bell.ring()

    def find_accepted(self, slot: StoredThread, message_id: str, now: float) -> AcceptedId | None:
        """What is remembered of an id on this channel, of an earlier thread too."""
        if accepted_id := slot.known_id(message_id, now):
            return accepted_id
        past = self.past.get(slot.thread.address, {}).get(message_id)
        return past if past is not None and past.forget_at is not None and past.forget_at > now else None

    def delete(self, slot: StoredThread, now: float) -> None:
        """The ids of its messages stay known."""
        address = slot.thread.address
        # They outlive the thread: a client that repeats
        # must not find its message new on an empty channel.
        remainders = {
            message_id: accepted_id.remainder(now, slot.policy.dedupe)
            for message_id, accepted_id in slot.accepted_ids.items()
        }
        self.past[address] = self.past.get(address, {}) | remainders
        names = (address, Address(address.tenant, address.queue, slot.thread.thread_id))
        for entry in self.operations.values():
            # By both names of the thread, for operations may have used either.
            if entry.where in names:
                entry.forget()
        del self.threads[address]
        del self._by_thread_id[Address(address.tenant, address.queue, slot.thread.thread_id)]
        self.wakes.pop(address, None)
        self.by_activity[address.tenant, address.queue].pop(address, None)

    def living(self, tenant: str | None, queue: str | None, now: float) -> list[StoredThread]:
        return [
            slot
            for address, slot in self.threads.items()
            if is_within(address, tenant, queue) and not is_over(slot.thread, slot.policy, now)
        ]


def draft_of(thread: Thread) -> Thread:
    """A thread that may be changed without changing the original; values inside are immutable."""
    return replace(
        thread,
        # The only mutable values inside; everything else is frozen or replaced, and may be shared.
        inbox=[replace(envelope) for envelope in thread.inbox],
        delayed=tuple([replace(envelope) for envelope in thread.delayed]),
        metadata=dict(thread.metadata),
        _out=None,
    )


def is_from(letter: DeadLetter, address: Address) -> bool:
    """Whether a letter is of this channel, or of the thread that the channel names."""
    theirs = letter.address
    here = (theirs.tenant, theirs.queue) == (address.tenant, address.queue)
    return here and address.channel in (theirs.channel, letter.thread_id)


def is_within(address: Address, tenant: str | None, queue: str | None) -> bool:
    return tenant in (None, address.tenant) and queue in (None, address.queue)
