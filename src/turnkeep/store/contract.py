"""The store: one contract, cut by reader into five protocols that one engine class implements.

What must change together changes in one atomic act. An operation that returns has happened durably (see each engine
for what durable means there), one that raises `Rejected` changed nothing. One that raises `OutcomeUnknown` may be
repeated: as it is where its arguments name what it does (messages, claims, dead letters), else with the name of the
call that was lost (`once`, see `turnkeep.store.operations`): it then gives the first result and touches nothing.

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
4. Every write of a run carries its token; a stale claim changes nothing and raises `LeaseLost`.
5. `commit`, `fail`, `hold` and `release` leave (token, result) behind, of the last few claims: a repeat gives the same
   result.
6. Message ids are remembered while the message is open and `Policy.dedupe` seconds after.
7. Hints (`ready`, `nudged`, `follow`) only make things prompt; nothing depends on them.
8. Claims take ready threads from the tenant served least (weighted), then by `due`.
9. The store's own clock counts, never the caller's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from turnkeep.errors import Rejection
from turnkeep.events import Event, TurnFault
from turnkeep.messages import Address, BusyPolicy, Content, Item, Message
from turnkeep.store.sinks import Sinks
from turnkeep.usage import Usage

LAYOUT = 2
"""Version of what engines keep. A newer one is refused with a sentence, an older one migrated."""

State = Literal["idle", "waiting", "leased", "retry", "held"]
Stop = Literal["cancel", "interrupt", "rollback"]
"""What a run is told: give up and commit as cancelled (cancel, interrupt), or drop the text (rollback)."""
MessageStatus = Literal["delayed", "waiting", "running", "answered", "cancelled", "withdrawn", "dead"]
SettledOutcome = Literal["completed", "incomplete", "cancelled"]
RegistryKind = Literal["assistant", "default", "key", "ticket", "setting", "revocation", "audit"]


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits and habits of one queue; a thread's options and a message's own values go before `window`, `max_wait`,
    `on_busy`.

    Times in seconds, sizes in bytes.
    """

    window: float = 1.5
    max_wait: float = 8.0
    max_batch: int = 64
    max_batch_bytes: int = 256_000
    max_inbox: int = 100
    on_busy: BusyPolicy = "collect"
    expiry: float = 7_776_000.0
    dedupe: float = 604_800.0
    history_items: int = 2_000
    history_bytes: int = 4_000_000
    log_events: int = 1_000
    log_age: float = 900.0
    runs_kept: int = 50


@dataclass(frozen=True, slots=True)
class Policies:
    """The policy of each queue, and the weight of each tenant (default 1) in the sharing of workers."""

    default: Policy = Policy()
    queues: Mapping[str, Policy] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    def of(self, queue: str) -> Policy:
        return self.queues.get(queue, self.default)

    def weight(self, tenant: str) -> float:
        return self.weights.get(tenant, 1.0)


# ---------------------------------------------------------------- inbox


@dataclass(frozen=True, slots=True)
class Receipt:
    """The message is durable.

    `channel` is the thread's own, also when the message came by thread id. `position` is its place among the open
    messages (from 1), `due_in` the seconds until its thread may be claimed (None: when the run in progress, the held
    action or the pause ends). `idempotent` is False for ids we minted. `repeated`: this id was accepted before and
    this is the original receipt. `steer` is set when the message asked to steer a run in progress.
    """

    channel: str
    message_id: str
    thread_id: str
    status: Literal["accepted", "delayed"]
    position: int
    due_in: float | None
    idempotent: bool = True
    repeated: bool = False
    steer: Literal["accepted"] | None = None

    def to_json(self) -> dict[str, Any]:
        data = {
            name: getattr(self, name)
            for name in ("channel", "message_id", "thread_id", "status", "position", "due_in", "idempotent")
        }
        if self.steer:
            data["steer"] = self.steer
        return data


@dataclass(frozen=True, slots=True)
class HeldCall:
    """A tool call that waits for somebody. `digest` binds a decision to the exact arguments.

    kind: ``approval`` (approve or deny, then the tool runs here) or ``output`` (the caller runs it and gives the
    output, or denies it).
    decision: None while open; ``approved``, ``denied``, ``output``, ``expired``, ``declined`` (the user moved on).
    """

    call_id: str
    name: str
    arguments: str
    digest: str
    kind: Literal["approval", "output"] = "approval"
    decision: Literal["approved", "denied", "output", "expired", "declined"] | None = None
    output: str = ""
    by: str = ""
    self_approval: bool = False
    """Whoever asked for the turn may approve it, too."""

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.arguments,
            "digest": self.digest,
            "kind": self.kind,
        }
        if self.self_approval:
            data["self_approval"] = True
        if self.decision:
            data |= {"decision": self.decision, "output": self.output, "by": self.by}
        return data


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody decided about a held call."""

    verdict: Literal["approved", "denied", "output"]
    output: str = ""
    by: str = ""


Record = Mapping[str, Any]
"""One journal record, plain JSON. ``n`` is its place in the journal from 0, given by the run: a record whose place is
taken is a repeat and is
dropped. A record with ``"steered_through": seq`` takes the offered messages up to that seq into the batch."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on one thread for a while.

    `run_id` and `attempt` (the number of this claim, from 1) stay with the batch until it is settled. `attempts`
    counts earlier failures,
    `deaths` earlier workers that vanished, both of the oldest message. `last_chance`: the batch is one message of a
    split batch.
    `stop`: commit as cancelled (or roll back) instead of running. `calls`: held calls with their decisions.
    `due_at`: when this claim could have been taken, at the end of the window or of what it waited for since.
    """

    address: Address
    thread_id: str
    run_id: str
    token: str
    fence: int
    owner: str
    attempt: int
    lease_until: float
    messages: tuple[Message, ...]
    journal: tuple[Record, ...] = ()
    attempts: int = 0
    deaths: int = 0
    last_chance: bool = False
    stop: Stop | None = None
    calls: tuple[HeldCall, ...] = ()
    assistant: str | None = None
    claimed_at: float = 0.0
    due_at: float = 0.0

    @property
    def message_ids(self) -> tuple[str, ...]:
        return tuple(m.message_id for m in self.messages)


@dataclass(frozen=True, slots=True)
class Directive:
    """What a renewal tells the owner of a claim. `held` False: the lease is lost, stop and write nothing."""

    held: bool
    lease_until: float = 0.0
    stop: Stop | None = None
    steer: bool = False


@dataclass(frozen=True, slots=True)
class TranscriptEntry:
    """One transcript item as stored. `tokens` is the caller's count, `turn` the store's ordinal of the commit that
    wrote it.
    """

    item: Item
    tokens: int = 0
    turn: int = 0
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Commit:
    """The end of a run: what enters the transcript, and the final event. `text` is the whole answer shown to people."""

    outcome: SettledOutcome
    text: str
    entries: Sequence[TranscriptEntry]
    usage: Usage = Usage()
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Remainder:
    """What a commit found behind the batch: open messages, and when they are due (None: nothing to do, or paused)."""

    messages: int
    due: float | None


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt. `retry_in` (seconds from now) asks for another one; None says that there is none.

    `effects`: a tool with effects has started in this run (then the batch is never split). `usage` is what the
    attempt cost.
    """

    fault: TurnFault
    retry_in: float | None
    effects: bool = False
    usage: Usage = Usage()


FailOutcome = Literal["retry", "split", "dead"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Threads: active (leased), waiting (due), delayed (due later), held, paused. Messages: open, completed, failed
    (dead letters).
    """

    active: int = 0
    waiting: int = 0
    delayed: int = 0
    completed: int = 0
    failed: int = 0
    held: int = 0
    paused: int = 0
    open_messages: int = 0
    dead_letters: int = 0
    threads: int = 0


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """What became of a message. `message` while it is open; `covers` are the ids of the batch it was settled with."""

    message: Message | None
    message_id: str
    status: MessageStatus
    receipt: Receipt
    run_id: str | None = None
    covers: tuple[str, ...] = ()
    settled_at: float | None = None
    steer: Literal["accepted", "applied", "deferred"] | None = None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that no run could answer. Kept until redriven or discarded."""

    dead_id: str
    address: Address
    thread_id: str
    message: Message
    fault: TurnFault
    attempts: int
    deaths: int
    run_id: str
    at: float


class Inbox(Protocol):
    """Messages on their way to a committed answer."""

    async def accept(
        self, messages: Sequence[Message], *, create: bool = True, max_inbox: int | None = None
    ) -> list[Receipt | Rejection]:
        """Take messages in; one outcome per message, in order.

        Durable on return; atomic per thread: the outcomes of one thread's messages are decided in one act, each
        message by itself. The same id
        with the same content again gives the original receipt (`repeated`) and stores nothing, with other content
        `MessageConflict`.
        A missing thread is created, unless `create` is False: `ThreadNotFound`. A channel ``thread_…`` that is known
        as another channel's thread is that channel.
        Other refusals: `InboxFull` (more than `max_inbox`, default the queue's), `ThreadBusy` (policy ``reject`` on a
        busy thread).
        Appends an ``accepted`` event. Effective policy, window and max_wait (message, else thread, else queue) are
        fixed here; window 0 means max_wait 0.
        """
        ...

    async def claim(self, *, owner: str, limit: int, lease: float, queues: Sequence[str] | None = None) -> list[Claim]:
        """Take up to `limit` ready threads of these queues (None: all), fairly, each with its batch, journal and
        decisions.

        Appends ``started`` (unless the claim carries a stop). An expired lease counts as a death of the oldest
        message. No thread has two
        live claims; of one thread's claims each has a higher fence than the one before.
        """
        ...

    async def begin(self, messages: Sequence[Message], *, owner: str, lease: float) -> Claim:
        """Accept and claim in one act, for direct calls: no window. Messages already waiting are answered along with
        these.

        Raises `ThreadBusy` when the thread is leased, in retry, held or paused, or when its inbox does not fit one
        batch; then nothing is stored.
        An id that was accepted before raises `MessageConflict`.
        """
        ...

    async def renew(
        self, owner: str, claims: Sequence[Claim], *, lease: float, once: str | None = None
    ) -> dict[str, Directive]:
        """Prolong these claims (by token); every other lease of this owner is given back at once, without a death (its
        claim reply was lost).

        Never call it while a claim of the same owner is in flight. A token that is not valid any more gives
        `held=False`.
        """
        ...

    async def list_offered(self, claim: Claim) -> list[Message]:
        """The steering messages, with all that wait before them, to be taken into the running batch at a step boundary.

        Again: the same, and what was sent since, until a journal record takes them (``steered_through``) or the run
        ends; once offered they cannot be edited or withdrawn.
        """
        ...

    async def journal(self, claim: Claim, records: Sequence[Record]) -> None:
        """Append fenced records; the first one freezes the batch for good. Durable on return: journal before you
        act.
        """
        ...

    async def commit(self, claim: Claim, commit: Commit) -> Remainder:
        """End the run: trim the batch, append the entries, add the usage, write ``completed``, look at what is left;
        one act.

        What is left is due by its window, at once if that has passed. Offered or steering messages not taken are
        ``deferred``.
        """
        ...

    async def fail(self, claim: Claim, failure: Failure) -> FailOutcome:
        """End an attempt. Counts one attempt on the oldest message and freezes the batch.

        retry: due again after `retry_in`, same batch, journal kept, event ``retrying``. Without `retry_in`: a batch of
        several messages without started effects is split (each alone, `last_chance`, due now, journal dropped, event
        ``retrying``); else its messages become dead letters with one ``dead`` event, and what is left is due by its
        window. If a stop was asked since the claim, every failure is a retry, due now, so that the next claimant obeys
        the stop.
        """
        ...

    async def release(self, claim: Claim, *, delay: float = 0.0, reason: TurnFault | None = None) -> None:
        """Give the claim back without using an attempt, due again after `delay`; dissolves an unfrozen batch. A reason
        appends ``waiting``.
        """
        ...

    async def hold(self, claim: Claim, calls: Sequence[HeldCall], *, expires_in: float) -> None:
        """Give worker and lease back but not the turn, until all calls are decided or the time is over. Appends
        ``held``. Calls open when the time is over are ``expired``, when a newer message interrupts ``declined``; a
        cancel leaves them open.
        """
        ...

    async def decide(
        self, address: Address, call_id: str, digest: str, decision: Decision, *, once: str | None = None
    ) -> HeldCall:
        """Decide a held call, once. The last decision makes the thread due. Appends ``decided``.

        The same decision again gives the same answer. Raises `NotFound` (no such call), `Conflict` (other digest,
        decided otherwise, or its run goes on without it), `InvalidMessage` (an output for a call that asks for an
        approval, or the other way round).
        """
        ...

    async def cancel(self, address: Address, *, drop_inbox: bool = False, once: str | None = None) -> bool:
        """Stop the run in progress: the flag is found by hint or renewal, or by the next claimant in retry and held.
        True if there is a run to stop.

        `drop_inbox` withdraws all messages that are not in its batch. Idle and waiting threads change by `drop_inbox`
        only.
        """
        ...

    async def withdraw(self, address: Address, message_id: str, *, once: str | None = None) -> MessageRecord:
        """Take a waiting or delayed message back; again: the same record. `MessageFrozen` once it is in a leased or
        frozen batch, offered, or settled otherwise; `NotFound`.
        """
        ...

    async def edit(
        self, address: Address, message_id: str, content: Content, *, once: str | None = None
    ) -> MessageRecord:
        """Replace the content of a waiting or delayed message; place, window and digest (of the first text) stay.
        Errors as `withdraw`.
        """
        ...

    async def flush(self, address: Address, *, once: str | None = None) -> bool:
        """End the window of a waiting thread now. False if it does not wait."""
        ...

    async def typing(self, address: Address, *, once: str | None = None) -> float | None:
        """The user is typing: the sliding end of the window moves to now + window, never beyond max_wait. Seconds until
        due, None if not waiting.
        """
        ...

    async def pause(self, address: Address, *, once: str | None = None) -> None:
        """No run begins until `resume`; a run in progress finishes. Creates the thread if need be. Appends ``paused``,
        once.
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

    async def dead(
        self, *, tenant: str | None = None, queue: str | None = None, after: str = "", limit: int = 100
    ) -> list[DeadLetter]:
        """Dead letters in the order of `dead_id`, which rises with time."""
        ...

    async def dead_letter(self, dead_id: str) -> DeadLetter | None: ...

    async def redrive(self, dead_id: str) -> Receipt:
        """Accept a dead letter again under its id, at the end of the inbox, with attempts and deaths at 0.
        `NotFound` if it is gone, `MessageConflict` while a message of that id is open; a repeat gives the same receipt.
        """
        ...

    async def discard(self, dead_id: str, *, once: str | None = None) -> bool:
        """Drop a dead letter. False if it is gone."""
        ...

    async def ready(self, *, queues: Sequence[str] | None, timeout: float) -> None:
        """Return when a claim may succeed, or after `timeout`. A hint: may return early, never relied upon."""
        ...

    async def wait_nudge(self, owner: str, *, timeout: float) -> set[Address]:
        """Return when a claim of this owner has a new directive (stop, steer), with its address; empty after `timeout`.
        A hint.
        """
        ...


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of a log. `floor`: events up to this offset may be missing (rolled into snapshots or aged away).

    `top` is the newest offset, `live_from` the offset of the ``started`` of the run in progress (None: no run).
    """

    epoch: str
    top: int
    floor: int
    live_from: int | None
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something happened on a channel: the new events, or none when the follower has to read the log itself."""

    address: Address
    events: tuple[Event, ...] = ()


class EventGap(ValueError):
    """Events of a claim are missing before the first one: they were not published in order, or the log has lost its end
    to a failover. `published`: how many of them it holds.
    """

    def __init__(self, n: int, published: int) -> None:
        super().__init__(f"event {n} of the run comes after {published} events, publish them in order")
        self.published = published


class Follower(Protocol):
    """The live end of some channels. Iterating yields notices; it never blocks the store: when it falls behind, notices
    lose their events.
    """

    async def add(self, address: Address) -> None:
        """From the return of this call on every new event of the channel gives a notice, under the address given here
        (a thread id as channel, too).
        """
        ...

    async def discard(self, address: Address) -> None: ...

    def __aiter__(self) -> AsyncIterator[Notice]: ...


class Events(Sinks, Protocol):
    """One append-only log per channel, and the outbox of the sinks."""

    async def publish(self, claim: Claim, n: int, events: Sequence[Event]) -> int:
        """Append what happens inside a run, fenced; the top offset after it.

        `n` is the run's own counter, from 0 for each claim, rising by the number of events: what was appended before
        is dropped, a gap is refused with `EventGap`.
        Durable like a delta (a crash of the machine may lose the last moment; then the epoch changes).
        """
        ...

    async def read(self, address: Address, *, after: int = 0, limit: int = 1000) -> Page:
        """The events after an offset, oldest first. An unknown channel has the epoch "" and no events."""
        ...

    def follow(self) -> AbstractAsyncContextManager[Follower]:
        """Follow the live end of channels. Hints with contents: gaps are found by the offset and filled by `read`."""
        ...


# ---------------------------------------------------------------- threads


@dataclass(frozen=True, slots=True)
class ThreadOptions:
    """What a thread has of its own; None where the queue's policy counts."""

    window: float | None = None
    max_wait: float | None = None
    on_busy: BusyPolicy | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run, for people: the last few of a thread are kept."""

    run_id: str
    status: Literal["queued", "in_progress", "requires_action", "completed", "failed", "cancelled", "incomplete"]
    message_ids: tuple[str, ...]
    attempt: int
    started_at: float
    finished_at: float | None = None
    usage: Usage = Usage()
    model: str | None = None
    fault: TurnFault | None = None
    calls: tuple[HeldCall, ...] = ()


@dataclass(frozen=True, slots=True)
class ThreadRecord:
    """Everything about a thread but its contents. `turns` counts commits, `items` and `bytes` are what the transcript
    holds now.
    """

    address: Address
    thread_id: str
    state: State
    paused: bool
    created_at: float
    active_at: float
    expires_at: float
    due: float | None
    assistant: str | None
    metadata: Mapping[str, str]
    options: ThreadOptions
    summary: str | None
    messages: int
    open_messages: int
    turns: int
    items: int
    bytes: int
    usage: Usage
    run_id: str | None = None
    attempt: int = 0
    calls: tuple[HeldCall, ...] = ()
    epoch: str = ""
    top: int = 0


@dataclass(frozen=True, slots=True)
class History:
    """The newest part of a transcript, oldest first, whole turns only. `complete`: nothing older was left out.
    `summary` stands for what is gone.
    """

    entries: tuple[TranscriptEntry, ...]
    summary: str | None
    complete: bool


@dataclass(frozen=True, slots=True)
class Stats:
    """Totals over threads. `ages`: threads by last activity (keys ``1h``, ``1d``, ``7d``, ``30d``, ``older``).
    `storage` in bytes, as the engine can tell.
    """

    threads: int
    messages: int
    turns: int
    ages: Mapping[str, int]
    oldest: float | None
    newest: float | None
    storage: int
    usage: Usage


class Threads(Protocol):
    """The records behind the channels."""

    async def thread(self, address: Address, *, create: bool = False, once: str | None = None) -> ThreadRecord | None:
        """The thread of a channel (or of a thread id as channel). This and `history` slide its expiry, at most once
        per 1 % of it; other reads do not.
        """
        ...

    async def open_messages(self, address: Address) -> list[MessageRecord]:
        """The inbox in order, then the delayed messages by time."""
        ...

    async def runs(self, address: Address) -> list[RunRecord]:
        """The run in progress or in waiting first, then the last finished ones, newest first."""
        ...

    async def history(
        self, address: Address, *, tokens: int | None = None, items: int | None = None, before_turn: int | None = None
    ) -> History:
        """The newest whole turns (before a turn, if given) that fit both limits (at least nothing), read backwards."""
        ...

    async def append(
        self,
        address: Address,
        entries: Sequence[TranscriptEntry],
        *,
        author: str | None = None,
        once: str | None = None,
    ) -> None:
        """Add to the transcript between turns, creating the thread if need be: `ThreadBusy` while leased, in retry or
        held. With `author`, assistant text is announced (``said``).
        """
        ...

    async def regenerate(self, address: Address, *, once: str | None = None) -> list[Receipt]:
        """Answer the last turn that holds user items again, in one act: it is taken back with all after it, and its
        messages are accepted once more, under new ids, due now.

        `ThreadBusy` while other messages are open (delayed ones aside), `NotFound` if there is no such turn,
        `InboxFull`; then nothing has changed.
        """
        ...

    async def compact(self, address: Address, *, through_turn: int, summary: str, once: str | None = None) -> None:
        """Replace all turns up to this one by a summary. `ThreadNotFound`."""
        ...

    async def update(self, address: Address, changes: Mapping[str, Any], *, once: str | None = None) -> ThreadRecord:
        """Change ``assistant``, ``metadata`` (merged; a null value removes), ``options`` (replaced), ``ttl`` (only
        ever longer than what was set before). `ThreadNotFound`; `InvalidMessage` for any other name.
        """
        ...

    def scan(
        self, *, tenant: str | None = None, queue: str | None = None, idle_for: float = 0.0
    ) -> AsyncIterator[ThreadRecord]:
        """All threads, in no promised order, each once; `idle_for`: only those without activity for so many seconds
        (0: all, also where a clock was set back).
        """
        ...

    async def stats(self, *, tenant: str | None = None, queue: str | None = None) -> Stats: ...

    async def forget(self, address: Address, *, force: bool = False, once: str | None = None) -> bool:
        """Delete a thread and everything of it, its dead letters too. `ThreadBusy` if messages are open, unless
        forced. False if there is none.
        """
        ...

    async def expire(self, *, limit: int = 100) -> int:
        """Delete idle threads whose time is over, and what else has aged; how many threads. Called about once a
        minute.
        """
        ...


# ---------------------------------------------------------------- registry and ledger


@dataclass(frozen=True, slots=True)
class Document:
    """A small versioned record. `version` rises by 1 with each change, from 1."""

    name: str
    version: int
    body: Mapping[str, Any]
    updated_at: float


class Registry(Protocol):
    """Small records by kind, tenant and name: assistants, keys, tickets, revocations, the audit trail, settings that
    all processes share.
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
        """Write a record. With `version`, only over that version (0: only if there is none): else `Conflict`. A body
        that is there already is no change: the same document, with the new time to live.
        """
        ...

    async def take(self, kind: RegistryKind, tenant: str, name: str, *, once: str | None = None) -> Document | None:
        """Read and delete in one act: of two takers one gets it."""
        ...

    async def list(self, kind: RegistryKind, tenant: str) -> list[Document]:
        """All of a kind, by name."""
        ...


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget: at most `amount` (nano-dollars, or tokens: the account's name says it) in `account`, which names owner
    and period and is kept `keep` seconds.
    """

    account: str
    amount: int
    keep: float


@dataclass(frozen=True, slots=True)
class Reservation:
    """granted; waits (only open reservations are in the way); refused (does not fit beside what is settled), with the
    account that refuses.
    """

    outcome: Literal["granted", "waits", "refused"]
    account: str | None = None


@dataclass(frozen=True, slots=True)
class Spend:
    """What an account holds: settled and reserved."""

    settled_amount: int
    reserved_amount: int


@dataclass(frozen=True, slots=True)
class Circuit:
    """Why an endpoint is not asked. `probe_at`: when one run may try (store clock)."""

    endpoint: str
    fault: TurnFault
    opened_at: float
    probe_at: float


class Ledger(Protocol):
    """Money, pace and open circuits, shared by all workers."""

    async def reserve(
        self, run_id: str, amount: int, limits: Sequence[Limit], *, tenant: str, once: str | None = None
    ) -> Reservation:
        """Reserve in all accounts or in none. Again for the same run: granted, nothing changes."""
        ...

    async def settle(self, run_id: str, amount: int | None, *, tenant: str, once: str | None = None) -> None:
        """Replace a run's reservation by what was spent, None: by what was reserved. A run without reservation changes
        nothing.
        """
        ...

    async def sweep(self, *, older_than: float, tenant: str) -> list[str]:
        """Runs whose reservation is older than so many seconds: candidates to be settled from what their threads
        say.
        """
        ...

    async def ledgers(self) -> list[str]:
        """The tenants that have reservations; some may have none left."""
        ...

    async def spend(self, account: str, *, tenant: str) -> Spend: ...

    async def pace(
        self, key: str, *, requests: float, tokens: float, tokens_wanted: int, once: str | None = None
    ) -> float:
        """Take one request and so many tokens from the shared buckets (limits per minute, 0: unlimited): 0.0 if
        granted, else seconds to wait (nothing taken). More tokens than a full bucket holds: a full bucket is enough.
        """
        ...

    async def slow_down(self, key: str, seconds: float, *, once: str | None = None) -> None:
        """No request of this key is granted by `pace` for so long (the provider said so); never shortens."""
        ...

    async def trip(self, endpoint: str, fault: TurnFault, *, probe_in: float, once: str | None = None) -> Circuit:
        """Open the circuit, or keep it open as it is; the first one to open it is remembered."""
        ...

    async def circuits(self) -> list[Circuit]: ...

    async def probe(self, endpoint: str, *, every: float, once: str | None = None) -> bool:
        """May this caller try? True if the circuit is closed, or for one caller per `every` seconds while it is
        open.
        """
        ...

    async def mend(self, endpoint: str, *, once: str | None = None) -> bool:
        """Close the circuit. False if it was closed."""
        ...


class Store(Inbox, Events, Threads, Registry, Ledger, Protocol):
    """All five, on one engine."""

    engine: str

    async def open(self) -> None:
        """Connect and check. Raises `StoreMisconfigured`, `StoreUnavailable`. Safe to call once per instance."""
        ...

    async def close(self) -> None:
        """Flush and let go. What was acknowledged is durable already."""
        ...

    async def check(self) -> Mapping[str, Any]:
        """For `/readyz` and doctor: can it write now, which engine and version, which durability; raises `StoreError`
        when it cannot write.
        """
        ...

    async def now(self) -> float:
        """The clock that counts."""
        ...
