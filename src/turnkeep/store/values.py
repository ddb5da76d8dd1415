"""The words of the contract: what is given to a store and what it gives back, as values that nobody can change.

They hold no behaviour beyond their JSON form, so that engines, runs and doors agree on them and on nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, NamedTuple

from turnkeep.events import Event, TurnFault
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address, BusyPolicy, Item, Message
from turnkeep.store.transcript_version import NO_TRANSCRIPT, TranscriptVersion
from turnkeep.usage import Usage

# A whole number without a minor part: an older program reads nothing that a newer one wrote.
LAYOUT = 4
"""Version of what engines keep. A newer one is refused with a sentence, an older one migrated."""

State = Literal["idle", "waiting", "leased", "retry", "held"]
Stop = Literal["cancel", "interrupt", "rollback"]
"""What a run is told: commit as cancelled (cancel, interrupt), or drop the text (rollback)."""
MessageStatus = Literal["delayed", "waiting", "running", "answered", "cancelled", "withdrawn", "dead"]
SettledOutcome = Literal["completed", "incomplete", "cancelled"]
RegistryKind = Literal["assistant", "default", "key", "ticket", "setting", "revocation", "audit", "process", "activity"]

Record = Mapping[str, Any]
"""One journal record, plain JSON. ``n`` is its place in the journal from 0, given by the run: a
record whose place is taken is a repeat and is dropped. A record with ``"steered_through": seq``
takes the offered messages up to that seq into the batch."""

FailOutcome = Literal["retry", "split", "dead"]


@dataclass(frozen=True, slots=True)
class Policy:
    """Limits and habits of one queue; a thread's options and a message's own go before `window`, `max_wait`, `on_busy`.

    Times in seconds, sizes in bytes.
    """

    window: float = 1.5
    max_wait: float = 8.0
    max_batch: int = 64
    max_batch_bytes: int = 256_000
    # More than `max_batch`: a burst that is forwarded at once must not be refused in its middle.
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
    """The policy of each queue, and the share of the workers of each tenant (default 1)."""

    default: Policy = Policy()
    queues: Mapping[str, Policy] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)

    # A queue that nobody configured works like the default one: names of queues are free.
    def of(self, queue: str) -> Policy:
        return self.queues.get(queue, self.default)

    def weight(self, tenant: str) -> float:
        return self.weights.get(tenant, 1.0)


@dataclass(frozen=True, slots=True)
class Receipt:
    """The message is durable.

    `channel` is the thread's own, also when the message came by thread id. `position` is its place
    among the open messages (from 1), `due_in` the seconds until its thread may be claimed (None:
    when the run in progress, the held action or the pause ends). `idempotent` is False for ids we
    minted. `repeated`: this id was accepted before and this is the original receipt. `steer` is set
    when the message asked to steer a run in progress.
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
        data: dict[str, Any] = {
            "channel": self.channel,
            "message_id": self.message_id,
            "thread_id": self.thread_id,
            "status": self.status,
            "position": self.position,
            "due_in": self.due_in,
            "idempotent": self.idempotent,
        }
        if self.steer:
            data["steer"] = self.steer
        return data


@dataclass(frozen=True, slots=True)
class HeldCall:
    """A tool call that waits for somebody. `digest` binds a decision to the exact arguments.

    kind: ``approval`` (approve or deny, then the tool runs here) or ``output`` (the caller runs it
    and gives the output, or denies it).

    decision: None while open; ``approved``, ``denied``, ``output``, ``expired``, ``declined`` (the
    user moved on).
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
    show: Literal["name", "arguments", "all"] = "name"
    """What its tool lets people see of it who may not decide."""
    decided_at: float | None = None

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.arguments,
            "digest": self.digest,
            "kind": self.kind,
        }
        # What has its default is left out of the stored
        # form, so that layouts of before read the same.
        if self.self_approval:
            data["self_approval"] = True
        if self.show != "name":
            data["show"] = self.show
        if self.decision:
            data |= {"decision": self.decision, "output": self.output, "by": self.by}
        if self.decided_at is not None:
            data["decided_at"] = self.decided_at
        return data


@dataclass(frozen=True, slots=True)
class Decision:
    """What somebody decided about a held call."""

    verdict: Literal["approved", "denied", "output"]
    output: str = ""
    by: str = ""


class Publication(NamedTuple):
    """What one claim appends to its log: its events from number `n` on (`Events.publish`)."""

    claim: Claim
    n: int
    events: Sequence[Event]


def top_of(outcomes: Sequence[int | Exception]) -> int:
    """The one outcome of `publish_many`, as `publish` gives it."""
    [outcome] = outcomes
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on one thread for a while.

    `run_id` and `attempt` (the number of this claim, from 1) stay with the batch until it is
    settled. `attempts` counts earlier failures, `deaths` earlier workers that vanished, both of the
    oldest message. `last_chance`: the batch is one message of a split batch. `stop`: commit as
    cancelled (or roll back) instead of running. `calls`: held calls with their decisions. `due_at`:
    when this claim could have been taken, at the end of the window or of what it waited for since.
    `transcript` names the thread's history as it is now and `items` how many entries it has, so
    that nobody who knows it has to read it.
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
    transcript: TranscriptVersion = NO_TRANSCRIPT
    items: int = 0

    @property
    def message_ids(self) -> tuple[str, ...]:
        return tuple(m.message_id for m in self.messages)


@dataclass(frozen=True, slots=True)
class Directive:
    """What a renewal tells an owner. `held` False: the lease is lost, stop and write nothing."""

    held: bool
    lease_until: float = 0.0
    stop: Stop | None = None
    steer: bool = False


@dataclass(frozen=True, slots=True)
class TranscriptEntry:
    """One transcript item as stored. `tokens`: the caller's count; `turn`: the ordinal of the commit that wrote it."""

    item: Item
    # Not of the operation's name (`operation_id`): a repeat says the same, and may weigh it for another model.
    tokens: int = field(default=0, repr=False)
    turn: int = 0
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Commit:
    """The end of a run: what enters the transcript, and `text`, the whole answer for people.

    `published_count`: how many events of the claim its log has to hold before the final one.
    """

    outcome: SettledOutcome
    text: str
    entries: Sequence[TranscriptEntry]
    usage: Usage = Usage()
    model: str | None = None
    published_count: int = 0


@dataclass(frozen=True, slots=True)
class Remainder:
    """What is left behind the batch, and when it is due (None: nothing to do, or paused).

    `transcript`: what this commit has made of the history (None where an older version has settled).
    """

    messages: int
    due: float | None
    transcript: TranscriptVersion | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt. `retry_in` (seconds from now) asks for another one; None says that there is none.

    `effects`: a tool with effects has started in this run (then the batch is never split). `usage`
    is what the attempt cost.
    """

    fault: TurnFault
    retry_in: float | None
    effects: bool = False
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Counts:
    """Threads: active (leased), waiting (due), delayed (due later), held, paused. Messages: open, completed, failed.

    `oldest_wait`: whole seconds for which the thread that has waited longest is due and not
    claimed; what a backlog is alarmed by, where a number of threads says nothing about speed.
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
    oldest_wait: int = 0


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """What became of a message. `message` while it is open; `covers`: the ids settled with it."""

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


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of a log. `floor`: events up to this offset may be missing (rolled into snapshots
    or aged away).

    `top` is the newest offset, `live_from` the offset of the ``started`` of the run in progress
    (None: no run).
    """

    epoch: str
    top: int
    floor: int
    live_from: int | None
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something happened on a channel: the new events, or none when the log is to be read."""

    address: Address
    events: tuple[Event, ...] = ()


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
    """Everything about a thread but its contents. `turns`: commits; `items`, `bytes`: what the transcript holds now."""

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
    """The newest part of a transcript, oldest first, whole turns only. `complete`: nothing older
    was left out. `summary` stands for what is gone.
    """

    entries: tuple[TranscriptEntry, ...]
    summary: str | None
    complete: bool


@dataclass(frozen=True, slots=True)
class Stats:
    """Totals over threads. `ages`: threads by last activity (keys ``1h``, ``1d``, ``7d``, ``30d``,
    ``older``). `storage` in bytes, as the engine can tell.
    """

    threads: int
    messages: int
    turns: int
    ages: Mapping[str, int]
    oldest: float | None
    newest: float | None
    storage: int
    usage: Usage


@dataclass(frozen=True, slots=True)
class Document:
    """A small versioned record. `version` rises by 1 with each change, from 1."""

    name: str
    version: int
    body: Mapping[str, Any]
    updated_at: float
