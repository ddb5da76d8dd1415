"""The inbox of the SQLite engine: one rule per operation, stored in one act."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TypeVar

from turnkeep.errors import InvalidMessage, NotFound, Rejection, ThreadNotFound, ThreadQuarantined
from turnkeep.events import TurnFault
from turnkeep.messages import Address, Content, Message
from turnkeep.store import rules_accept, rules_change, rules_claim, rules_settle
from turnkeep.store.ids import new_run_id, new_token
from turnkeep.store.records import message_record
from turnkeep.store.sqlite import view as counting
from turnkeep.store.sqlite.codec import decode, encode
from turnkeep.store.sqlite.connection import every
from turnkeep.store.sqlite.due_index import First, TenantQueue, earliest
from turnkeep.store.sqlite.engine import Engine
from turnkeep.store.sqlite.once import Once
from turnkeep.store.sqlite.operation_queue import WriteKind
from turnkeep.store.sqlite.rows import ThreadRow
from turnkeep.store.sqlite.transaction import Transaction
from turnkeep.store.sqlite.view import View
from turnkeep.store.sqlite.waiters import News
from turnkeep.store.values import (
    Claim,
    Commit,
    Counts,
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
from turnkeep.telemetry import get_log

T = TypeVar("T")
log = get_log(__name__)


class SqliteInbox(Engine):
    """The inbox protocol."""

    async def accept(
        self, messages: Sequence[Message], *, create: bool = True, max_inbox: int | None = None
    ) -> list[Receipt | Rejection]:
        # at once: the clock may be set while they wait for the writer
        messages = [rules_accept.by_store_time(message, self.clock.of_day) for message in messages]
        places = await self._places(messages)

        def act(tx: Transaction, address: Address, here: Sequence[int]) -> list[Receipt | Rejection]:
            return _accept(tx, address, [messages[place] for place in here], create=create, max_inbox=max_inbox)

        kind = self._announce(messages, max_inbox)
        # each thread by itself: what one of them refuses must not take the others back
        thread_outcomes = await self.use().writer.run_each(act, places.items(), kind)
        outcomes: dict[int, Receipt | Rejection] = {}
        for here, theirs in zip(places.values(), thread_outcomes, strict=True):
            outcomes.update(zip(here, theirs, strict=True))
        return [outcomes[place] for place in range(len(messages))]

    def _announce(self, messages: Sequence[Message], max_inbox: int | None) -> WriteKind:
        """Have workers that wait here claim what is due at once in the same group: the claim comes
        behind the acceptance, and before the sync. As what the messages are to be written then.
        """
        wakeups = self.use().wakeups
        if not wakeups.is_awaited:
            return "plain"
        queues = {message.address.queue for message in messages if self._may_be_claimed(message, max_inbox)}
        if not queues:
            return "plain"
        wakeups.tell(News(wakes=dict.fromkeys(queues, self.clock.now())))
        return "urgent"

    def _may_be_claimed(self, message: Message, max_inbox: int | None) -> bool:
        """Whether a thread is due with this message, as far as memory says: a claim in vain costs as much
        as the message.
        """
        policy = self.policies.of(message.address.queue)
        if not rules_accept.is_due_at_once(message, policy):
            return False
        thread_row = self.use().transaction.recall(message.address)
        if thread_row is None:
            return True
        thread = thread_row.thread
        is_full = len(thread.inbox) + len(thread.delayed) >= (policy.max_inbox if max_inbox is None else max_inbox)
        is_closed = thread.is_busy or thread.paused or is_full
        return not is_closed and message.message_id not in thread_row.accepted_ids

    async def _places(self, messages: Sequence[Message]) -> dict[Address, list[int]]:
        """Which messages belong to each thread."""
        places: dict[Address, list[int]] = {}
        for place, message in enumerate(messages):
            address = message.address
            if address.names_thread:
                address = await self.resolve(address)
            places.setdefault(address, []).append(place)
        return places

    async def claim(self, *, owner: str, limit: int, lease: float, queues: Sequence[str] | None = None) -> list[Claim]:
        return await self.write(lambda tx: _claim(tx, owner, limit, lease=lease, queues=queues), "beginning")

    async def begin(self, messages: Sequence[Message], *, owner: str, lease: float) -> Claim:
        if not messages:
            raise InvalidMessage("there is no message to begin with, give at least one")

        def rule(tx: Transaction, thread_row: ThreadRow) -> Claim:
            tx.owners.hold(owner)
            earlier = [tx.accepted_before(thread_row, m.message_id) for m in messages]
            names = {"token": new_token(tx.setup.ids), "run_id": new_run_id(tx.setup.ids)}
            return rules_claim.begin(
                thread_row.thread, messages, earlier, tx.policy(thread_row), tx.now, owner=owner, lease=lease, **names
            )

        return await self.change_or_make(messages[0].address, rule)

    async def renew(
        self, owner: str, claims: Sequence[Claim], *, lease: float, once: str | None = None
    ) -> dict[str, Directive]:
        operation = Once.of(once, "renew", owner, [claim.token for claim in claims], lease)
        return await self.write(lambda tx: _renew(tx, owner, claims, lease), "ending", operation)

    def _with_claim(self, claim: Claim, rule: Callable[[Transaction, ThreadRow], T]) -> Callable[[Transaction], T]:
        def act(tx: Transaction) -> T:
            thread_row = tx.claimed_thread(claim)
            result = rule(tx, thread_row)
            tx.save(thread_row)
            return result

        return act

    async def offer_steering(self, claim: Claim) -> list[Message]:
        return await self.write(
            self._with_claim(claim, lambda tx, thread_row: rules_claim.offer_steering(thread_row.thread, claim)),
            "ending",
        )

    async def journal(self, claim: Claim, records: Sequence[Record]) -> None:
        # as it will be read back, and a copy: the caller may go on to change its records
        own = [decode(encode(dict(record))) for record in records]
        await self.write(
            self._with_claim(claim, lambda tx, thread_row: rules_claim.journal(thread_row.thread, claim, own, tx.now)),
            "ending",
        )

    async def commit(self, claim: Claim, commit: Commit) -> Remainder:
        def rule(tx: Transaction, thread_row: ThreadRow) -> Remainder:
            return rules_settle.commit(thread_row.thread, claim, commit, tx.policy(thread_row), tx.now)

        return await self.write(self._with_claim(claim, rule), "ending")

    async def fail(self, claim: Claim, failure: Failure) -> FailOutcome:
        def rule(tx: Transaction, thread_row: ThreadRow) -> FailOutcome:
            return rules_settle.fail(thread_row.thread, claim, failure, tx.policy(thread_row), tx.now)

        return await self.write(self._with_claim(claim, rule), "ending")

    async def release(self, claim: Claim, *, delay: float = 0.0, reason: TurnFault | None = None) -> None:
        def rule(tx: Transaction, thread_row: ThreadRow) -> None:
            rules_settle.release(thread_row.thread, claim, delay, reason, tx.now)

        await self.write(self._with_claim(claim, rule), "ending")

    async def hold(
        self, claim: Claim, calls: Sequence[HeldCall], *, expires_in: float, published_count: int = 0
    ) -> None:
        def rule(tx: Transaction, thread_row: ThreadRow) -> None:
            rules_settle.hold(thread_row.thread, claim, calls, expires_in, tx.now, published_count=published_count)

        await self.write(self._with_claim(claim, rule), "ending")

    async def decide(
        self, address: Address, call_id: str, digest: str, decision: Decision, *, once: str | None = None
    ) -> HeldCall:
        def rule(tx: Transaction, thread_row: ThreadRow) -> HeldCall:
            return rules_change.decide(thread_row.thread, call_id, digest, decision, tx.now)

        return await self.change(address, rule, once=Once.of(once, "decide", address, call_id, digest, decision))

    async def cancel(self, address: Address, *, drop_inbox: bool = False, once: str | None = None) -> bool:
        def rule(tx: Transaction, thread_row: ThreadRow) -> bool:
            return rules_change.cancel(thread_row.thread, tx.policy(thread_row), tx.now, drop_inbox=drop_inbox)

        operation = Once.of(once, "cancel", address, drop_inbox)
        return await self.change_if_there(address, rule, False, kind="ending", once=operation)

    async def withdraw(self, address: Address, message_id: str, *, once: str | None = None) -> MessageRecord:
        def act(tx: Transaction) -> MessageRecord:
            thread_row = tx.get(address)
            if rules_change.status_of(thread_row.thread, message_id) is None:
                rules_change.raise_if_frozen(tx.find_accepted(thread_row, message_id), message_id, withdrawing=True)
            else:
                rules_change.withdraw(thread_row.thread, message_id, tx.policy(thread_row), tx.now)
                tx.save(thread_row)
            return _record(tx, thread_row, message_id)

        return await self.write(act, "ending", Once.of(once, "withdraw", address, message_id))

    async def edit(
        self, address: Address, message_id: str, content: Content, *, once: str | None = None
    ) -> MessageRecord:
        def act(tx: Transaction) -> MessageRecord:
            thread_row = tx.get(address)
            if rules_change.status_of(thread_row.thread, message_id) is None:
                rules_change.raise_if_frozen(tx.find_accepted(thread_row, message_id), message_id, withdrawing=False)
            rules_change.edit(thread_row.thread, message_id, content, tx.policy(thread_row), tx.now)
            tx.save(thread_row)
            return _record(tx, thread_row, message_id)

        return await self.write(act, once=Once.of(once, "edit", address, message_id, content))

    async def flush(self, address: Address, *, once: str | None = None) -> bool:
        def rule(tx: Transaction, thread_row: ThreadRow) -> bool:
            return rules_accept.flush(thread_row.thread, tx.policy(thread_row), tx.now)

        return await self.change_if_there(address, rule, False, once=Once.of(once, "flush", address))

    async def typing(self, address: Address, *, once: str | None = None) -> float | None:
        def rule(tx: Transaction, thread_row: ThreadRow) -> float | None:
            return rules_accept.typing(thread_row.thread, tx.policy(thread_row), tx.now)

        return await self.change_if_there(address, rule, None, once=Once.of(once, "typing", address))

    async def pause(self, address: Address, *, once: str | None = None) -> None:
        await self.change_or_make(
            address, lambda tx, k: rules_change.pause(k.thread, tx.now), once=Once.of(once, "pause", address)
        )

    async def resume(self, address: Address, *, once: str | None = None) -> None:
        def rule(tx: Transaction, thread_row: ThreadRow) -> None:
            rules_change.resume(thread_row.thread, tx.policy(thread_row), tx.now)

        await self.change_if_there(address, rule, None, once=Once.of(once, "resume", address))

    async def message(self, address: Address, message_id: str) -> MessageRecord | None:
        def look(view: View) -> MessageRecord | None:
            thread_row = view.find(address)
            accepted_id = view.find_accepted(thread_row, message_id) if thread_row else None
            return message_record(thread_row.thread, message_id, accepted_id) if thread_row and accepted_id else None

        return await self.read_from(look)

    async def counts(self, *, tenant: str | None = None, queue: str | None = None) -> Counts:
        return await self.read_from(lambda view: counting.counts(view, tenant, queue))

    async def ready(self, *, queues: Sequence[str] | None, timeout: float) -> bool:
        # the look comes after the waiter is in place, so a change between the two is not missed
        is_due = await self.use().wakeups.ready(
            queues, timeout, lambda: self.read_from(lambda view: earliest(view.connection, queues))
        )
        self.use()
        return is_due

    async def wait_nudge(self, owner: str, *, timeout: float) -> set[Address]:
        addresses = await self.use().wakeups.wait_nudge(owner, timeout)
        self.use()
        return addresses


def _accept(
    tx: Transaction, address: Address, messages: Iterable[Message], *, create: bool, max_inbox: int | None
) -> list[Receipt | Rejection]:
    """The messages of one thread, in one act; it is stored if any was taken."""
    thread_row = tx.find_or_new(address)
    thread, policy = thread_row.thread, tx.policy(thread_row)
    outcomes: list[Receipt | Rejection] = []
    for message in messages:
        accepted_id = thread.out.accepted_ids.get(message.message_id) or tx.accepted_before(
            thread_row, message.message_id
        )
        try:
            if accepted_id is None and not create and not thread_row.row:
                raise ThreadNotFound(f"there is no thread on channel {address.channel!r}")
            outcomes.append(rules_accept.accept(thread, message, accepted_id, policy, tx.now, max_inbox))
        except Rejection as rejection:
            outcomes.append(rejection)
    if thread.out.accepted_ids:
        tx.save(thread_row)
    else:
        if thread.out.changed_ids:
            tx.drop(thread_row)
        # a repeat alone: another process may have committed what it repeats, and not synced it yet
        if any(isinstance(outcome, Receipt) for outcome in outcomes):
            tx.require_sync()
    return outcomes


def _claim(tx: Transaction, owner: str, limit: int, *, lease: float, queues: Sequence[str] | None) -> list[Claim]:
    tx.owners.hold(owner)
    claims: list[Claim] = []
    waiting = _Waiting(tx, limit, queues)
    while len(claims) < limit and (ready := waiting.first_by_tenant()):
        tenant = tx.shares.next_tenant({tenant: first.wake for tenant, first in ready.items()})
        first = ready[tenant]
        waiting.take(first)
        claim = _claim_one(tx, first, owner, lease)
        if claim is not None:
            tx.shares.charge(tenant, tx.setup.policies.weight(tenant))
            claims.append(_with_own_journal(claim))
    tx.shares.store()
    # whoever has less than he asked for waits for more, and needs no look of his own
    if len(claims) < limit:
        tx.outlook_queues = (queues,)
    return claims


class _Waiting:
    """What one claim chooses from: of each tenant and queue the thread that is due longest. Those
    behind it are looked up together, when the first of them is asked for.
    """

    def __init__(self, tx: Transaction, limit: int, queues: Sequence[str] | None) -> None:
        self._tx = tx
        self._limit = limit
        self._firsts = {
            (tenant, queue): first
            for (tenant, queue), first in tx.due.firsts().items()
            if first.wake <= tx.now and (queues is None or queue in queues)
        }
        self._behind: dict[TenantQueue, deque[First]] = {}

    def first_by_tenant(self) -> dict[str, First]:
        ready: dict[str, First] = {}
        for (tenant, _), first in self._firsts.items():
            if tenant not in ready or first < ready[tenant]:
                ready[tenant] = first
        return ready

    def take(self, first: First) -> None:
        """This one is being claimed: the next of its place comes forward."""
        place = (first.address.tenant, first.address.queue)
        if place not in self._behind:
            following = self._tx.due.following(place, self._tx.now, self._limit) if self._limit > 1 else []
            self._behind[place] = deque(other for other in following if other.row != first.row)
        behind = self._behind[place]
        if behind:
            self._firsts[place] = behind.popleft()
        else:
            del self._firsts[place]


def _claim_one(tx: Transaction, first: First, owner: str, lease: float) -> Claim | None:
    """None when it was not due after all, or makes no sense: then it is put aside, and the others
    go on.
    """
    ids = tx.setup.ids
    try:
        thread_row = tx.at(first.row, first.address)
        tx.needs_sync = tx.needs_sync or not tx.may_claim_again(thread_row.thread)
        token, run_id = new_token(ids), thread_row.thread.run_id or new_run_id(ids)
        claim = rules_claim.claim(
            thread_row.thread, tx.policy(thread_row), tx.now, owner=owner, lease=lease, token=token, run_id=run_id
        )
    # what makes no sense to the rules ends neither the worker nor the claims of others
    except (ThreadQuarantined, KeyError, IndexError, TypeError, ValueError, AttributeError):
        log.exception("thread_put_aside", row=first.row)
        tx.quarantine(first.row, first.address)
        return None
    tx.save(thread_row)
    return claim


def _with_own_journal(claim: Claim) -> Claim:
    """A claim whose journal the caller may keep and change."""
    return replace(claim, journal=copy.deepcopy(claim.journal)) if claim.journal else claim


def _renew(tx: Transaction, owner: str, claims: Sequence[Claim], lease: float) -> dict[str, Directive]:
    directives = {claim.token: _renew_one(tx, claim, lease) for claim in claims}
    # what bears its name and was not named by it: the reply of that claim was lost, so nobody works
    # on it
    rest = every(tx.connection, "SELECT id, tenant, queue, channel FROM thread WHERE owner = ?", (owner,))
    for row, *names in rest:
        with suppress(ThreadQuarantined):
            thread_row = tx.at(row, Address(*names))
            if thread_row.thread.token not in directives:
                rules_claim.orphan(thread_row.thread, tx.now)
                tx.save(thread_row)
    return directives


def _renew_one(tx: Transaction, claim: Claim, lease: float) -> Directive:
    try:
        thread_row = tx.find(claim.address)
    except ThreadQuarantined:
        thread_row = None
    if thread_row is None:
        return Directive(held=False)
    directive = rules_claim.renew(thread_row.thread, claim, tx.now, lease, tx.policy(thread_row))
    tx.save(thread_row)
    return directive


def _record(tx: Transaction, thread_row: ThreadRow, message_id: str) -> MessageRecord:
    accepted_id = tx.find_accepted(thread_row, message_id)
    if accepted_id is None:
        raise NotFound(f"no message {message_id!r} is known on this channel")
    return message_record(thread_row.thread, message_id, accepted_id)
