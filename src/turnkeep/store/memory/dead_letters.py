"""Dead letters and counts of the memory engine."""

from __future__ import annotations

from turnkeep.errors import NotFound
from turnkeep.messages import Address
from turnkeep.store import rules_change
from turnkeep.store.memory.once import once_only
from turnkeep.store.memory.state import MemoryState, is_within
from turnkeep.store.thread import Thread
from turnkeep.store.values import Counts, DeadLetter, Receipt


class MemoryDeadLetters(MemoryState):
    """How much is where, and what could not be answered."""

    async def counts(self, *, tenant: str | None = None, queue: str | None = None) -> Counts:
        now = self.moment()
        living = self.living(tenant, queue, now)
        places = [_place(slot.thread, now) for slot in living]
        waiting = [slot.thread.wake or now for slot in living if _place(slot.thread, now) == "waiting"]
        totals = [pair for (t, q), pair in self.totals.items() if is_within(Address(t, q, ""), tenant, queue)]
        return Counts(
            active=places.count("active"),
            waiting=places.count("waiting"),
            delayed=places.count("delayed"),
            completed=sum(completed_count for completed_count, _ in totals),
            failed=sum(failed_count for _, failed_count in totals),
            held=places.count("held"),
            paused=places.count("paused"),
            open_messages=sum(len(k.thread.inbox) + len(k.thread.delayed) for k in living),
            dead_letters=sum(is_within(letter.address, tenant, queue) for letter in self.letters.values()),
            threads=len(living),
            oldest_wait=int(max((now - wake for wake in waiting), default=0.0)),
        )

    async def dead(
        self,
        *,
        tenant: str | None = None,
        queue: str | None = None,
        channel: str | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[DeadLetter]:
        self.moment()
        letters = [self.letters[dead_id] for dead_id in sorted(self.letters) if dead_id > after]
        return [
            letter
            for letter in letters
            if is_within(letter.address, tenant, queue) and channel in (None, letter.address.channel, letter.thread_id)
        ][:limit]

    async def dead_letter(self, dead_id: str) -> DeadLetter | None:
        self.moment()
        return self.letters.get(dead_id)

    async def redrive(self, dead_id: str) -> Receipt:
        now = self.moment()
        receipt, until = self.redriven.get(dead_id, (None, 0.0))
        # A redrive is named by its letter: the second one
        # gives the first receipt, and no second message.
        if receipt is not None and until > now:
            return receipt
        letter = self.letters.get(dead_id)
        if letter is None:
            raise NotFound(f"there is no dead letter {dead_id!r}")
        slot = self.find_or_new(letter.address, now)
        prior = self.find_accepted(slot, letter.message.message_id, now)
        # Accepted before the letter goes: a refusal leaves it where it is.
        receipt = self.apply(slot, lambda t: rules_change.redrive(t, letter, slot.policy, now, prior), now)
        del self.letters[dead_id]
        self.redriven[dead_id] = (receipt, now + slot.policy.dedupe)
        return receipt

    @once_only
    async def discard(self, dead_id: str, *, once: str | None = None) -> bool:
        self.moment()
        return self.letters.pop(dead_id, None) is not None

    def expire_receipts(self, now: float) -> None:
        """Forget redrives that nobody will repeat any more."""
        self.redriven = {dead_id: entry for dead_id, entry in self.redriven.items() if entry[1] > now}


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
