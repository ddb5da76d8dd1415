"""What an engine keeps of one thread while messages are open, and what one operation changes.

The transcript, the event log, known message ids and dead letters are kept beside it, by each engine
in its own way: a rule adds to them through `Thread.out`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, field, fields
from operator import attrgetter
from typing import Any, Literal, Self

from turnkeep.events import Event
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address, Message
from turnkeep.store.transcript_version import TranscriptVersion
from turnkeep.store.values import (
    DeadLetter,
    HeldCall,
    MessageRecord,
    MessageStatus,
    Receipt,
    Record,
    RunRecord,
    State,
    Stop,
    ThreadOptions,
    TranscriptEntry,
)
from turnkeep.usage import Usage

_NO_USAGE, _NO_OPTIONS = Usage(), ThreadOptions()


@dataclass(slots=True)
class InboxMessage:
    """An accepted message that no committed run has answered; its message carries the effective
    policy, window and max_wait.
    """

    message: Message
    size: int
    attempts: int = 0
    deaths: int = 0
    alone: bool = False
    last_chance: bool = False
    steer: Literal["", "asked", "offered"] = ""

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {"message": self.message.to_json(), "size": self.size}
        for name in ("attempts", "deaths", "alone", "last_chance", "steer"):
            if value := getattr(self, name):
                data[name] = value
        return data

    @classmethod
    def from_json(cls, address: Address, data: Mapping[str, Any]) -> Self:
        return cls(**{**data, "message": Message.from_json(address, data["message"])})


@dataclass(slots=True)
class AcceptedId:
    """A message id that was accepted. `forget_at` is None while the message is open."""

    digest: str
    receipt: Receipt
    status: MessageStatus = "waiting"
    run_id: str | None = None
    covers: tuple[str, ...] = ()
    settled_at: float | None = None
    steer: Literal["accepted", "applied", "deferred"] | None = None
    forget_at: float | None = None

    def remainder(self, now: float, dedupe: float) -> AcceptedId:
        """What stays of it when its thread is deleted: the id, as long as was said when its message
        was settled.
        """
        # It was settled before its thread went: its time is running already.
        if self.forget_at is not None:
            return self
        return self.settle("withdrawn", now, now + dedupe, run_id=self.run_id, covers=self.covers)

    def settle(
        self, status: MessageStatus, at: float, forget_at: float, *, run_id: str | None, covers: tuple[str, ...] = ()
    ) -> AcceptedId:
        """The same id, of a message that is open no more."""
        # By place, and not by `replace`, which costs three times as much: every message comes by here.
        return AcceptedId(self.digest, self.receipt, status, run_id, covers, at, self.steer, forget_at)

    def record(self, message_id: str, message: Message | None) -> MessageRecord:
        return MessageRecord(
            message, message_id, self.status, self.receipt, self.run_id, self.covers, self.settled_at, self.steer
        )

    def to_json(self) -> dict[str, Any]:
        """Stored form. What has its default is left out, but for `covers`, which older programs ask for."""
        data: dict[str, Any] = {"digest": self.digest, "receipt": self.receipt.to_json(), "covers": self.covers}
        if self.steer is not None:
            data["steer"] = self.steer
        if self.status != "waiting":
            data |= {
                "status": self.status,
                "run_id": self.run_id,
                "settled_at": self.settled_at,
                "forget_at": self.forget_at,
            }
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(**{**data, "receipt": Receipt(**data["receipt"]), "covers": tuple(data["covers"])})


def merge_known(old: AcceptedId | None, new: AcceptedId) -> AcceptedId:
    """What an engine stores for an id: the first digest and receipt, the newest status."""
    # A change of status knows neither digest nor receipt,
    # so that rules need not load what engines keep.
    if old is None or new.digest:
        return new
    return AcceptedId(
        old.digest, old.receipt, new.status, new.run_id, new.covers, new.settled_at, new.steer or old.steer,
        new.forget_at,
    )  # fmt: skip


@dataclass(slots=True)
class Settlement:
    """How a claim ended, by its token, so that a repeat gives the same answer."""

    token: str
    act: Literal["commit", "fail", "release", "hold"]
    result: Any = None


@dataclass(slots=True)
class Out:
    """What one operation adds beside the thread's own record, stored in the same act."""

    events: list[Event] = field(default_factory=list)
    entries: list[TranscriptEntry] = field(default_factory=list)
    journal: list[Record] = field(default_factory=list)
    journal_cleared: bool = False
    accepted_ids: dict[str, AcceptedId] = field(default_factory=dict)
    changed_ids: set[str] = field(default_factory=set)
    """Ids of open messages to be written (new, changed or moved)."""
    removed_ids: set[str] = field(default_factory=set)
    """Ids of messages that are open no more."""
    dead: list[DeadLetter] = field(default_factory=list)
    run: RunRecord | None = None
    completed_count: int = 0
    failed_count: int = 0
    nudge: str | None = None
    """Owner whose claim has a new directive."""


@dataclass(slots=True)
class Thread:
    """The turn of one thread: who waits, who works, until when."""

    address: Address
    thread_id: str
    created_at: float
    active_at: float
    epoch: str
    state: State = "idle"
    paused: bool = False
    due: float | None = None
    flushed: bool = False
    typed_at: float | None = None
    # the batch and its claim
    batch: int = 0
    frozen: bool = False
    run_id: str | None = None
    attempt: int = 0
    token: str | None = None
    fence: int = 0
    owner: str | None = None
    claimed_at: float = 0.0
    due_at: float = 0.0
    first_claimed_at: float = 0.0
    stop: Stop | None = None
    published: int = 0
    # Tuples: what most threads have none of is one for all, and empty lists were half of what a thread
    # gives the garbage collector to look at.
    calls: tuple[HeldCall, ...] = ()
    journal: tuple[Record, ...] = ()
    settlements: tuple[Settlement, ...] = ()
    """Of the last few claims, the newest first."""
    # messages
    inbox: list[InboxMessage] = field(default_factory=list)
    delayed: tuple[InboxMessage, ...] = ()
    next_seq: int = 1
    # log
    top: int = 0
    live_from: int | None = None
    # for people
    assistant: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    options: ThreadOptions = _NO_OPTIONS
    ttl: float | None = None
    summary: str | None = None
    messages: int = 0
    turns: int = 0
    items: int = 0
    bytes: int = 0
    edits: int = 0
    transcript_at: float = 0.0
    """When the transcript was changed last; `edits`: how often without a new turn."""
    usage: Usage = _NO_USAGE
    spent: Usage = _NO_USAGE
    """Usage of failed attempts of the run in progress; the commit adds it."""
    _out: Out | None = None

    @property
    def out(self) -> Out:
        """What the operation in progress adds."""
        # Made when something is added: empty ones were a third of what a resting thread holds in memory.
        if self._out is None:
            self._out = Out()
        return self._out

    def take_out(self) -> Out:
        """What was added since the last time, to be stored once."""
        out, self._out = self.out, None
        return out

    @property
    def lease_until(self) -> float:
        return self.due or 0.0

    @property
    def wake(self) -> float | None:
        """When somebody has to look at this thread: what engines index. None:
        not before somebody acts.
        """
        # Of a paused thread only a lease is watched: its owner may die all the same.
        if self.paused and self.state != "leased":
            return None
        # A leased thread is not woken for a delayed message; the commit looks at it.
        if self.state == "leased" or not self.delayed:
            return self.due
        first = self.delayed[0].message.not_before or 0.0
        return first if self.due is None else min(self.due, first)

    @property
    def batch_ids(self) -> tuple[str, ...]:
        return tuple(o.message.message_id for o in self.inbox[: self.batch])

    @property
    def transcript(self) -> TranscriptVersion:
        return TranscriptVersion(self.turns, self.edits, self.transcript_at)

    @property
    def is_busy(self) -> bool:
        return self.state in ("leased", "retry", "held")

    def emit(self, event: Event, now: float) -> None:
        """Append to the log: the only place that gives positions."""
        # Dense numbers: whoever comes back with an offset can tell a hole from an end.
        self.top += 1
        self.out.events.append(event.at_position(self.top, self.epoch, now))

    def head_to_json(self, *, epoch: str | None = None) -> dict[str, Any]:
        """Everything but the messages, the journal and `out`, which engines keep apart. `epoch`: what
        is stored in the place of the thread's.
        """
        data: dict[str, Any] = dict(zip(_ALWAYS, _always_of(self), strict=True))
        # By groups, in C: field by field this was most of what writing a head costs.
        for names, values_of, usual in _GROUPS:
            if (values := values_of(self)) != usual:
                data.update(zip(names, values, strict=True))
        if epoch is not None:
            data["epoch"] = epoch
        data["address"] = [self.address.tenant, self.address.queue, self.address.channel]
        if self.calls:
            data["calls"] = [c.to_json() for c in self.calls]
        if self.settlements:
            data["settlements"] = [
                [settlement.token, settlement.act, settlement.result] for settlement in self.settlements
            ]
        # the one object for all first: a comparison by value makes two tuples
        if self.options is not _NO_OPTIONS and self.options != _NO_OPTIONS:
            data["options"] = asdict(self.options)
        if self.usage is not _NO_USAGE and self.usage != _NO_USAGE:
            data["usage"] = self.usage.to_json()
        if self.spent is not _NO_USAGE and self.spent != _NO_USAGE:
            data["spent"] = self.spent.to_json()
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises KeyError, TypeError or ValueError for what is no head."""
        values = dict(data)
        values["address"] = Address(*data["address"])
        # Absent is the default: most threads have none of these,
        # and making empty ones was half of reading a head.
        for name, make in _OBJECTS:
            if name in data:
                values[name] = make(data[name])
        return cls(**values)


_ALWAYS = (
    *("thread_id", "created_at", "active_at", "epoch"),
    *("state", "due", "next_seq", "top", "messages"),
)
_always_of = attrgetter(*_ALWAYS)
_DEFAULTS = {f.name: f.default for f in fields(Thread) if f.default is not MISSING} | {"metadata": {}}
# What changes together stands together.
_GROUPS = tuple(
    (names, attrgetter(*names), tuple(_DEFAULTS[name] for name in names))
    for names in (
        ("turns", "items", "bytes", "transcript_at", "fence", "claimed_at", "due_at", "first_claimed_at"),
        ("batch", "run_id", "attempt", "token", "owner", "live_from"),
        (
            *("paused", "flushed", "typed_at", "frozen", "stop", "published"),
            *("assistant", "metadata", "ttl", "summary", "edits"),
        ),
    )
)  # fmt: skip
"""Names of fields that are left out where all of a group have their default, what takes their
values, and the defaults.
"""
_OBJECTS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("calls", lambda calls: tuple([HeldCall(**call) for call in calls])),
    ("settlements", lambda settlements: tuple([Settlement(*settlement) for settlement in settlements])),
    ("options", lambda options: ThreadOptions(**options)),
    ("usage", Usage.from_json),
    ("spent", Usage.from_json),
    ("metadata", dict),
)
"""What of a head is no plain value, and what makes it."""
