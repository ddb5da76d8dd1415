"""The store: one contract, cut by reader into protocols that one engine class implements.

What must change together changes in one atomic act. An operation that returns has happened durably
(see each engine for what durable means there), one that raises `Rejection` changed nothing. One
that raises `OutcomeUnknown` may be repeated: as it is where its arguments name what it does
(messages, claims, dead letters), else with the name of the call that was lost (`once`, see
`turnkeep.store.operations`): it then gives the first result and touches nothing.

States of a thread, and what `due` is in each:

=========  ==================================  ==========================  =======================================
state      batch                               due                         accept does
=========  ==================================  ==========================  =======================================
idle       none                                none                        → waiting
waiting    none                                end of the window           append, recompute due
leased     taken                               end of the lease            append, leave due; interrupt, rollback
                                                                           and steer set a flag and send a hint
retry      frozen, or none if the claim was    time of retry or release    append, leave due; interrupt and
           released and dissolved                                          rollback make it due now
held       frozen                              expiry of the action        append, leave due; interrupt and
                                                                           rollback decline the open calls: due now
paused     a mark over any state               suspended, kept aside       append; a run in progress finishes
=========  ==================================  ==========================  =======================================

Rules that decide everything:

1. A claim owns a prefix of the inbox; nothing moves between lists, so a crash needs no repair.
2. One number `due` per thread. A dead worker needs no janitor: `due` passes, the next claim raises the fence and
   counts a death on the oldest message.
3. A batch is frozen while it is leased, and for good by its first journal record or by `fail`. A claim that is
   released or dies before either dissolves: its messages can be edited, withdrawn and joined again.
4. Every write of a run carries its token, and so does what it reads of the past; a stale claim changes nothing, is told
   nothing and raises `LeaseLost`.
5. `commit`, `fail`, `hold` and `release` leave (token, result) behind, of the last few claims: a repeat gives the same
   result.
6. Message ids are remembered while the message is open and `Policy.dedupe` seconds after.
7. Hints (`ready`, `wait_nudge`, `follow`) only make things prompt; nothing depends on them.
8. Claims take ready threads from the tenant served least (weighted), then by `due`.
9. The store's own clock counts, never the caller's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from turnkeep.errors import Rejection
from turnkeep.events import Event
from turnkeep.messages import Address, Content, Message
from turnkeep.store.inbox_view import InboxView
from turnkeep.store.passages import Passage, TextSearch
from turnkeep.store.shared_ledger import Ledger
from turnkeep.store.sinks import Sinks
from turnkeep.store.thread_search import ThreadSearch
from turnkeep.store.values import (
    Claim,
    Counts,
    DeadLetter,
    Decision,
    Document,
    HeldCall,
    History,
    MessageRecord,
    Notice,
    Page,
    Publication,
    Receipt,
    RegistryKind,
    RunRecord,
    Stats,
    ThreadRecord,
    TranscriptEntry,
)
from turnkeep.store.worker_inbox import WorkerInbox


class EventGap(ValueError):
    """Events of a claim are missing before the next one: they were not published in order, or the
    log has lost its end to a failover. `published_count`: how many of them it holds.
    """

    def __init__(self, n: int, published_count: int) -> None:
        super().__init__(f"event {n} of the run comes after {published_count} events, publish them in order")
        self.published_count = published_count


class Inbox(WorkerInbox, Protocol):
    """Messages on their way to a committed answer: what people ask for, beside what workers do."""

    async def accept(
        self, messages: Sequence[Message], *, create: bool = True, max_inbox: int | None = None
    ) -> list[Receipt | Rejection]:
        """Take messages in; one outcome per message, in order.

        Durable on return; atomic per thread: the outcomes of one thread's messages are decided in
        one act, each message by itself. The same id with the same content again gives the original
        receipt (`repeated`) and stores nothing, with other content `MessageConflict`. A missing
        thread is created, unless `create` is False: `ThreadNotFound`. A channel ``thread_…`` that
        is known as another channel's thread is that channel. Other refusals: `InboxFull` (more than
        `max_inbox`, default the queue's), `ThreadBusy` (policy ``reject`` on a busy thread).
        Appends an ``accepted`` event. Effective policy, window and max_wait (message, else thread,
        else queue) are fixed here; window 0 means max_wait 0.
        """
        ...

    async def decide(
        self, address: Address, call_id: str, digest: str, decision: Decision, *, once: str | None = None
    ) -> HeldCall:
        """Decide a held call, once. The last decision makes the thread due. Appends ``decided``.

        The same decision again gives the same answer. Raises `NotFound` (no such call), `Conflict`
        (other digest, decided otherwise, or its run goes on without it), `InvalidMessage` (an
        output for a call that asks for an approval, or the other way round).
        """
        ...

    async def cancel(self, address: Address, *, drop_inbox: bool = False, once: str | None = None) -> bool:
        """Stop the run in progress: the flag is found by hint or renewal, or by the next claimant
        in retry and held. True if there is a run to stop.

        `drop_inbox` withdraws all messages that are not in its batch. Idle and waiting threads
        change by `drop_inbox` only.
        """
        ...

    async def withdraw(self, address: Address, message_id: str, *, once: str | None = None) -> MessageRecord:
        """Take a waiting or delayed message back; again: the same record. `MessageFrozen` once it
        is in a leased or frozen batch, offered, or settled otherwise; `NotFound`.
        """
        ...

    async def edit(
        self, address: Address, message_id: str, content: Content, *, once: str | None = None
    ) -> MessageRecord:
        """Replace the content of a waiting or delayed message; place, window and digest (of the
        first text) stay. Errors as `withdraw`.
        """
        ...

    async def flush(self, address: Address, *, once: str | None = None) -> bool:
        """End the window of a waiting thread now. False if it does not wait."""
        ...

    async def typing(self, address: Address, *, once: str | None = None) -> float | None:
        """The user is typing: the sliding end of the window moves to now + window, never beyond
        max_wait. Seconds until due, None if not waiting.
        """
        ...

    async def pause(self, address: Address, *, once: str | None = None) -> None:
        """No run begins until `resume`; a run in progress finishes. Creates the thread if need be.
        Appends ``paused``, once.
        """
        ...

    async def resume(self, address: Address, *, once: str | None = None) -> None:
        """Undo `pause`: `due` counts again. Appends ``resumed``, if it was paused."""
        ...

    async def message(self, address: Address, message_id: str) -> MessageRecord | None:
        """What became of a message; None when unknown or forgotten."""
        ...

    async def counts(self, *, tenant: str | None = None, queue: str | None = None) -> Counts:
        """How much is where, now."""
        ...

    # Paged by id, not by number: letters may be redriven while somebody reads the list.
    async def dead(
        self,
        *,
        tenant: str | None = None,
        queue: str | None = None,
        channel: str | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[DeadLetter]:
        """Dead letters in the order of `dead_id`, which rises with time. Those of one channel are
        found by its tenant and queue, which have to be given with it.
        """
        ...

    async def dead_letter(self, dead_id: str) -> DeadLetter | None: ...

    async def redrive(self, dead_id: str) -> Receipt:
        """Accept a dead letter again under its id, at the end of the inbox, with attempts and
        deaths at 0. `NotFound` if it is gone, `MessageConflict` while a message of that id is open;
        a repeat gives the same receipt.
        """
        ...

    async def discard(self, dead_id: str, *, once: str | None = None) -> bool:
        """Drop a dead letter. False if it is gone."""
        ...


class Follower(Protocol):
    """The live end of some channels. Iterating yields notices; it never blocks the store: when it
    falls behind, notices lose their events.
    """

    async def add(self, address: Address) -> None:
        """From the return of this call on every new event of the channel gives a notice, under the
        address given here (a thread id as channel, too).
        """
        ...

    async def discard(self, address: Address) -> None: ...

    def __aiter__(self) -> AsyncIterator[Notice]: ...


class Events(Sinks, Protocol):
    """One append-only log per channel, and the outbox of the sinks."""

    async def publish(self, claim: Claim, n: int, events: Sequence[Event]) -> int:
        """Append what happens inside a run, fenced; the top offset after it.

        `n` is the run's own counter, from 0 for each claim, rising by the number of events: what
        was appended before is dropped, a gap is refused with `EventGap`. Durable like a delta (a
        crash of the machine may lose the last moment; then the epoch changes).
        """
        ...

    async def publish_many(self, publications: Sequence[Publication]) -> list[int | Exception]:
        """`publish` for several claims, each by itself: for each, in order, the top offset, or the
        error that `publish` would have raised. At most one of each claim; the same guarantees.

        Cheaper by the token than one by one, most of all within a lane.
        """
        ...

    def lane_of(self, address: Address) -> int:
        """What is published together costs least; what another lane waits for does not hold it up."""
        ...

    async def read(self, address: Address, *, after: int = 0, limit: int = 1000) -> Page:
        """The events after an offset, oldest first. An unknown channel has the epoch
        "" and no events.
        """
        ...

    # A context, not a call: what follows holds a place in the engine until it is given back.
    def follow(self) -> AbstractAsyncContextManager[Follower]:
        """Follow the live end of channels. Hints with contents: gaps are found by the offset and
        filled by `read`.
        """
        ...


class Threads(Protocol):
    """The records behind the channels."""

    async def thread(self, address: Address, *, create: bool = False, once: str | None = None) -> ThreadRecord | None:
        """The thread of a channel (or of a thread id as channel). This and `history` slide its
        expiry, at most once per 1 % of it; other reads do not.
        """
        ...

    async def open_messages(self, address: Address) -> list[MessageRecord]:
        """The inbox in order, then the delayed messages by time."""
        ...

    async def runs(self, address: Address) -> list[RunRecord]:
        """The run in progress or in waiting first, then the last finished ones, newest first."""
        ...

    async def history(
        self,
        address: Address,
        *,
        tokens: int | None = None,
        items: int | None = None,
        before_turn: int | None = None,
        claim: Claim | None = None,
    ) -> History:
        """The newest whole turns (before a turn, if given) that fit both limits (at least nothing),
        read backwards.

        With `claim` the past that its run goes on from: a stale claim raises `LeaseLost`, for what
        is there by now may be the answer to its own batch.
        """
        ...

    async def append(
        self,
        address: Address,
        entries: Sequence[TranscriptEntry],
        *,
        author: str | None = None,
        inbox: InboxView | None = None,
        once: str | None = None,
    ) -> None:
        """Add to the transcript between turns, creating the thread if need be: `ThreadBusy` while
        leased, in retry or held. With `author`, assistant text is announced (``said``).

        With `inbox` the turn answers those messages, also in a retry that has no batch: they stand
        before `entries`, and what is said is the text of a run of its own (``started``,
        ``completed`` with `author`). `Conflict` where the log has gone on since, or they are no
        beginning of the inbox. A repeat under the same name may have read another inbox.
        """
        ...

    async def regenerate(self, address: Address, *, once: str | None = None) -> list[Receipt]:
        """Answer the last turn that holds user items again, in one act: it is taken back with all
        after it, and its messages are accepted once more, under new ids, due now.

        `ThreadBusy` while other messages are open (delayed ones aside), `NotFound` if there is no
        such turn, `InboxFull`; then nothing has changed.
        """
        ...

    async def compact(self, address: Address, *, through_turn: int, summary: str, once: str | None = None) -> None:
        """Replace all turns up to this one by a summary. `ThreadNotFound`."""
        ...

    async def update(self, address: Address, changes: Mapping[str, Any], *, once: str | None = None) -> ThreadRecord:
        """Change ``assistant``, ``metadata`` (merged; a null value removes), ``options``
        (replaced), ``ttl`` (only ever longer than what was set before). `ThreadNotFound`;
        `InvalidMessage` for any other name.
        """
        ...

    # An iterator: a store may hold a million threads, and nobody needs them all at once.
    def scan(
        self, *, tenant: str | None = None, queue: str | None = None, idle_for: float = 0.0
    ) -> AsyncIterator[ThreadRecord]:
        """All threads, in no promised order, each once; `idle_for`: only those without activity for
        so many seconds (0: all, also where a clock was set back).
        """
        ...

    async def search(self, query: ThreadSearch) -> list[ThreadRecord]:
        """Threads by their last activity, newest first. An engine looks at a bounded number of the
        newest threads for those that fit (`ThreadSearch`), or of all where it has no order of them.
        """
        ...

    async def find_passages(self, query: TextSearch) -> list[Passage]:
        """What messages and answers say of a text, newest first, out of a bounded number of the
        newest entries; no expiry moves. Raises `WrongState` where texts are sealed.
        """
        ...

    async def stats(self, *, tenant: str | None = None, queue: str | None = None) -> Stats: ...

    async def forget(self, address: Address, *, force: bool = False, once: str | None = None) -> bool:
        """Delete a thread and everything of it, its dead letters too. `ThreadBusy` if messages are
        open, unless forced. False if there is none.
        """
        ...

    # Bounded by `limit`: an engine that was closed for a month must not stand still for an hour.
    async def expire(self, *, limit: int = 100) -> int:
        """Delete idle threads whose time is over, and what else has aged; how many threads. Called
        about once a minute.
        """
        ...


class Registry(Protocol):
    """Small records by kind, tenant and name: assistants, keys, tickets, revocations, the audit
    trail, settings that all processes share.
    """

    async def get(self, kind: RegistryKind, tenant: str, name: str) -> Document | None: ...

    async def put(
        self,
        kind: RegistryKind,
        tenant: str,
        name: str,
        body: Mapping[str, Any],
        *,
        version: int | None = None,
        ttl: float | None = None,
        once: str | None = None,
    ) -> Document:
        """Write a record. With `version`, only over that version (0: only if there is none): else
        `Conflict`. A body that is there already is no change: the same document, with the new time
        to live.
        """
        ...

    # One act, where `get` and a delete would let two sockets open with one ticket.
    async def take(self, kind: RegistryKind, tenant: str, name: str, *, once: str | None = None) -> Document | None:
        """Read and delete in one act: of two takers one gets it."""
        ...

    async def list(self, kind: RegistryKind, tenant: str) -> list[Document]:
        """All of a kind, by name."""
        ...

    def revision(self) -> int:
        """A number that rises with every assistant, default, circuit and slow-down that this process
        changes, or hears that others changed. A hint: what others did may be heard late or never,
        so what was read under a number is believed for a second (`record_cache`).
        """
        ...


class Store(Inbox, Events, Threads, Registry, Ledger, Protocol):
    """All five, on one engine."""

    engine: str

    async def open(self) -> None:
        """Connect and check. Raises `StoreMisconfigured`, `StoreUnavailable`. Safe to
        call once per instance.
        """
        ...

    async def close(self) -> None:
        """Flush and let go. What was acknowledged is durable already."""
        ...

    async def check(self) -> Mapping[str, Any]:
        """For `/readyz` and doctor: can it write now, which engine and version, which durability;
        raises `StoreError` when it cannot write.
        """
        ...

    async def now(self) -> float:
        """The clock that counts."""
        ...
