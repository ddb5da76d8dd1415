"""The inbox of the memory engine."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import replace

from turnkeep.errors import InvalidMessage, Rejection, ThreadNotFound
from turnkeep.events import TurnFault
from turnkeep.messages import Address, Content, Message
from turnkeep.store import rules_accept, rules_change, rules_claim, rules_settle
from turnkeep.store.fair_share import charge, next_tenant
from turnkeep.store.ids import new_run_id, new_token
from turnkeep.store.memory.once import once_only
from turnkeep.store.memory.state import MemoryState, StoredThread, draft_of
from turnkeep.store.records import message_record
from turnkeep.store.values import (
    Claim,
    Commit,
    Decision,
    Directive,
    FailOutcome,
    Failure,
    HeldCall,
    MessageRecord,
    Receipt,
    Record,
    Remainder,
)


class MemoryInbox(MemoryState):
    """Messages on their way to a committed answer."""

    async def accept(
        self, messages: Sequence[Message], *, create: bool = True, max_inbox: int | None = None
    ) -> list[Receipt | Rejection]:
        now = self.moment()
        outcomes: dict[int, Receipt | Rejection] = {}
        places: dict[Address, list[int]] = {}
        for place, message in enumerate(messages):
            # By the thread that is meant: a channel and the
            # id of its thread are one, and share one act.
            places.setdefault(self.resolve(message.address), []).append(place)
        for address, here in places.items():
            may_begin = create or self.find(address, now) is not None
            group = [messages[place] for place in here]
            outcomes |= zip(here, self._accept_on(address, group, max_inbox, now, may_begin=may_begin), strict=True)
        return [outcomes[place] for place in range(len(messages))]

    def _accept_on(
        self, address: Address, messages: Iterable[Message], max_inbox: int | None, now: float, *, may_begin: bool
    ) -> list[Receipt | Rejection]:
        """The messages of one thread, in one act; it is stored if any was taken."""
        slot = self.find_or_new(address, now)
        # One draft for all messages of the thread: the second sees what the first has taken.
        draft = draft_of(slot.thread)
        outcomes: list[Receipt | Rejection] = []
        for message in messages:
            # In the draft first: one id twice in one call is a repeat as well.
            prior = draft.out.accepted_ids.get(message.message_id) or self.find_accepted(slot, message.message_id, now)
            try:
                if prior is None and not may_begin:
                    raise ThreadNotFound(f"there is no thread on channel {address.channel!r}")
                on_store_clock = rules_accept.by_store_time(message, self.clock.of_day)
                outcomes.append(rules_accept.accept(draft, on_store_clock, prior, slot.policy, now, max_inbox))
            except Rejection as refusal:
                outcomes.append(refusal)
        # Nothing was taken: then nothing is kept either, and a refused message creates no thread.
        if draft.out.accepted_ids:
            self.keep(slot, draft, now)
        return outcomes

    async def claim(self, *, owner: str, limit: int, lease: float, queues: Sequence[str] | None = None) -> list[Claim]:
        now = self.moment()
        ready: dict[str, list[tuple[float, Address]]] = {}
        # Sorted anew at each claim: slow, and obviously right, which is what an oracle is for.
        for address, wake in sorted(self.wakes.items(), key=lambda pair: (pair[1], pair[0])):
            if wake <= now and (queues is None or address.queue in queues):
                ready.setdefault(address.tenant, []).append((wake, address))
        claims: list[Claim] = []
        while ready and len(claims) < limit:
            tenant = next_tenant(
                {t: waiting[0][0] for t, waiting in ready.items()}, self.served_by_tenant, self.served_floor
            )
            _, address = ready[tenant].pop(0)
            if not ready[tenant]:
                del ready[tenant]
            if (claim := self._claim_one(self.threads[address], owner, lease, now)) is not None:
                weight = self.policies.weight(tenant)
                # Charged only for a claim that was taken; a paused
                # thread that is met costs its tenant nothing.
                self.served_by_tenant[tenant], self.served_floor = charge(
                    tenant, weight, self.served_by_tenant, self.served_floor
                )
                claims.append(claim)
        return claims

    def _claim_one(self, slot: StoredThread, owner: str, lease: float, now: float) -> Claim | None:
        token, run_id = new_token(self.ids), slot.thread.run_id or new_run_id(self.ids)
        claim = self.apply(
            slot,
            lambda t: rules_claim.claim(t, slot.policy, now, owner=owner, lease=lease, token=token, run_id=run_id),
            now,
        )
        return None if claim is None else _copy_journal(claim)

    async def begin(self, messages: Sequence[Message], *, owner: str, lease: float) -> Claim:
        now = self.moment()
        if not messages:
            raise InvalidMessage("there is no message to begin with, give at least one")
        slot = self.find_or_new(messages[0].address, now)
        priors = [self.find_accepted(slot, m.message_id, now) for m in messages]
        token, run_id = new_token(self.ids), new_run_id(self.ids)
        claim = self.apply(
            slot,
            lambda t: rules_claim.begin(
                t, messages, priors, slot.policy, now, owner=owner, lease=lease, token=token, run_id=run_id
            ),
            now,
        )
        return _copy_journal(claim)

    @once_only
    async def renew(
        self, owner: str, claims: Sequence[Claim], *, lease: float, once: str | None = None
    ) -> dict[str, Directive]:
        now = self.moment()
        directives: dict[str, Directive] = {}
        for claim in claims:
            slot = self.threads.get(claim.address)
            directives[claim.token] = (
                self.apply(slot, lambda t, c=claim, k=slot: rules_claim.renew(t, c, now, lease, k.policy), now)  # type: ignore[misc]
                if slot
                else Directive(held=False)
            )
        # Every other lease of this owner is one whose reply was lost: nobody works on it.
        for slot in [*self.threads.values()]:
            if slot.thread.owner == owner and slot.thread.token not in directives:
                self.apply(slot, lambda t: rules_claim.orphan(t, now), now)
        return directives

    async def offer_steering(self, claim: Claim) -> list[Message]:
        now = self.moment()
        return self.apply(self.claimed_thread(claim), lambda t: rules_claim.offer_steering(t, claim), now)

    async def journal(self, claim: Claim, records: Sequence[Record]) -> None:
        now = self.moment()
        # A copy: engines with a disk give back what was
        # written, whatever the caller does with it later.
        kept_records = copy.deepcopy([dict(record) for record in records])
        self.apply(self.claimed_thread(claim), lambda t: rules_claim.journal(t, claim, kept_records, now), now)

    async def commit(self, claim: Claim, commit: Commit) -> Remainder:
        now = self.moment()
        slot = self.claimed_thread(claim)
        return self.apply(slot, lambda t: rules_settle.commit(t, claim, commit, slot.policy, now), now)

    async def fail(self, claim: Claim, failure: Failure) -> FailOutcome:
        now = self.moment()
        slot = self.claimed_thread(claim)
        return self.apply(slot, lambda t: rules_settle.fail(t, claim, failure, slot.policy, now), now)

    async def release(self, claim: Claim, *, delay: float = 0.0, reason: TurnFault | None = None) -> None:
        now = self.moment()
        self.apply(self.claimed_thread(claim), lambda t: rules_settle.release(t, claim, delay, reason, now), now)

    async def hold(
        self, claim: Claim, calls: Sequence[HeldCall], *, expires_in: float, published_count: int = 0
    ) -> None:
        now = self.moment()
        self.apply(
            self.claimed_thread(claim),
            lambda t: rules_settle.hold(t, claim, calls, expires_in, now, published_count=published_count),
            now,
        )

    @once_only
    async def decide(
        self, address: Address, call_id: str, digest: str, decision: Decision, *, once: str | None = None
    ) -> HeldCall:
        now = self.moment()
        return self.apply(
            self.get_thread(address, now), lambda t: rules_change.decide(t, call_id, digest, decision, now), now
        )

    @once_only
    async def cancel(self, address: Address, *, drop_inbox: bool = False, once: str | None = None) -> bool:
        now = self.moment()
        if (slot := self.find(address, now)) is None:
            return False
        return self.apply(slot, lambda t: rules_change.cancel(t, slot.policy, now, drop_inbox=drop_inbox), now)

    @once_only
    async def withdraw(self, address: Address, message_id: str, *, once: str | None = None) -> MessageRecord:
        now = self.moment()
        slot = self.get_thread(address, now)
        # Raises, or says by returning that the withdrawal is a repeat.
        if rules_change.status_of(slot.thread, message_id) is None:
            rules_change.raise_if_frozen(slot.known_id(message_id, now), message_id, withdrawing=True)
        else:
            self.apply(slot, lambda t: rules_change.withdraw(t, message_id, slot.policy, now), now)
        return message_record(slot.thread, message_id, slot.accepted_ids[message_id])

    @once_only
    async def edit(
        self, address: Address, message_id: str, content: Content, *, once: str | None = None
    ) -> MessageRecord:
        now = self.moment()
        slot = self.get_thread(address, now)
        if rules_change.status_of(slot.thread, message_id) is None:
            rules_change.raise_if_frozen(slot.known_id(message_id, now), message_id, withdrawing=False)
        self.apply(slot, lambda t: rules_change.edit(t, message_id, content, slot.policy, now), now)
        return message_record(slot.thread, message_id, slot.accepted_ids[message_id])

    @once_only
    async def flush(self, address: Address, *, once: str | None = None) -> bool:
        now = self.moment()
        slot = self.find(address, now)
        return slot is not None and self.apply(slot, lambda t: rules_accept.flush(t, slot.policy, now), now)

    @once_only
    async def typing(self, address: Address, *, once: str | None = None) -> float | None:
        now = self.moment()
        if (slot := self.find(address, now)) is None:
            return None
        return self.apply(slot, lambda t: rules_accept.typing(t, slot.policy, now), now)

    @once_only
    async def pause(self, address: Address, *, once: str | None = None) -> None:
        now = self.moment()
        self.apply(self.find_or_new(address, now), lambda t: rules_change.pause(t, now), now)

    @once_only
    async def resume(self, address: Address, *, once: str | None = None) -> None:
        now = self.moment()
        if (slot := self.find(address, now)) is not None:
            self.apply(slot, lambda t: rules_change.resume(t, slot.policy, now), now)

    async def message(self, address: Address, message_id: str) -> MessageRecord | None:
        now = self.moment()
        slot = self.find(address, now)
        accepted_id = slot.known_id(message_id, now) if slot else None
        return message_record(slot.thread, message_id, accepted_id) if slot and accepted_id else None

    async def ready(self, *, queues: Sequence[str] | None, timeout: float) -> bool:
        start = self.moment()
        until = start + timeout
        # `start <=` ends the waiting when a clock is set
        # back: a hint is never waited for longer than asked.
        while start <= (now := self.moment()) < until:
            wakes = [wake for address, wake in self.wakes.items() if queues is None or address.queue in queues]
            wake = min(wakes, default=until)
            if wake <= now:
                return True
            await self.bell.wait(self.clock, min(wake, until) - now)
        return now < start

    async def wait_nudge(self, owner: str, *, timeout: float) -> set[Address]:
        start = self.moment()
        until = start + timeout
        while start <= (now := self.moment()) < until and owner not in self.nudges:
            await self.bell.wait(self.clock, until - now)
        # Taken with the answer: a nudge is told once, and what is lost is found by the renewal.
        return self.nudges.pop(owner, set())

    def expire_nudges(self) -> None:
        """Forget what was to be told to owners that have no claim any more."""
        owners = {slot.thread.owner for slot in self.threads.values()}
        self.nudges = {owner: addresses for owner, addresses in self.nudges.items() if owner in owners}


def _copy_journal(claim: Claim) -> Claim:
    """A claim whose journal the caller may keep and change."""
    return replace(claim, journal=copy.deepcopy(claim.journal))
