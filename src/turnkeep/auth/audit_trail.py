"""The audit trail: who came in or did not, who decided, changed or deleted what.

Every event is a line of the log, a count, and a record in the store, where `turnkeep audit tail`
finds it. It says which tenant, credential, address, key, call or assistant; it never holds a
secret, a text, or the name of a channel, but a digest of it. What people did is kept apart from
what was refused, so that an attacker cannot write over it.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import asdict, field
from typing import Any, Literal, Self

from turnkeep.clock import Clock, SystemClock
from turnkeep.errors import Conflict, StoreError
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import ALL_TENANTS
from turnkeep.store.contract import Registry
from turnkeep.telemetry import SILENT, Meter, get_log

log = get_log(__name__)

Act = Literal[
    "key_created", "key_used", "key_revoked", "session_begun", "user_disconnected", "call_decided", "channel_changed",
    "channel_forgotten", "channels_forgotten", "assistant_created", "assistant_changed", "assistant_used",
    "assistant_deleted", "tool_accepted", "person_answered",
]  # fmt: skip
Refusal = Literal["auth_failed", "origin_refused"]
EventName = Act | Refusal

ROOM: Mapping[str, int] = {"acts": 5_000, "refusals": 1_000}
"""Events that are kept; the next one takes the place of the oldest."""
KEEP = 366 * 86_400.0
"""Seconds after which an event is forgotten, however few there are."""
TRIES = 50
"""Times that a place is asked for, while others ask too."""
QUIET = 10.0
"""Seconds in which refusals of one kind are counted and not written, after one was."""
USED_AGAIN = 3_600.0
"""Seconds in which the use of a key is told once."""
MOST_REMEMBERED = 10_000
LONGEST = 200

# A context variable: who acts stands floors below the doors, and knows of no request.
_context: ContextVar[AuditContext | None] = ContextVar("turnkeep_audit_context", default=None)


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something that happened. `by` is the subject of a credential, `about` ids and words of closed
    sets; `count` says how many refusals like this one there were since the one before.
    """

    event: EventName
    at: float
    tenant: str = ""
    by: str = ""
    door: str = ""
    peer: str = ""
    count: int = 1
    about: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        return {name: value for name, value in values.items() if value not in ("", {})}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(**data)


class Trail:
    """Writes what happens. A store that fails costs the record, never the act: the line of the log
    is there.
    """

    def __init__(self, registry: Registry, meter: Meter = SILENT, clock: Clock | None = None) -> None:
        self._registry = registry
        self._meter = meter
        self._clock = clock or SystemClock()
        self._refusals: OrderedDict[tuple[str, ...], tuple[float, int]] = OrderedDict()
        self._uses: OrderedDict[str, float] = OrderedDict()

    async def act(
        self,
        event: Act,
        *,
        tenant: str,
        by: str,
        door: str = "",
        peer: str = "",
        about: Mapping[str, str] | None = None,
    ) -> None:
        """Somebody did something that may be asked about later."""
        details = {name: value[:LONGEST] for name, value in (about or {}).items()}
        await self._write("acts", AuditEvent(event, self._clock.now(), tenant, by, door, peer, about=details))

    async def use(self, key_id: str, *, tenant: str, door: str, peer: str) -> None:
        """A key was shown. Told once in an hour, by each process."""
        now = self._clock.now()
        if 0 <= now - self._uses.get(key_id, -USED_AGAIN) < USED_AGAIN:
            return
        # before it is written: of many requests at once one writes
        _remember(self._uses, key_id, now)
        await self.act("key_used", tenant=tenant, by=f"key:{key_id}", door=door, peer=peer)

    async def refuse(self, event: Refusal, reason: str, *, credential: str, door: str, peer: str) -> None:
        """Somebody was refused. All are counted; of one kind one in ten seconds is written, with
        the number of all.
        """
        # before any is left out: the count is of all
        self._meter.count("refusals", event=event, door=door, shown=credential)
        kind, now = (event, door, credential, reason), self._clock.now()
        at, count = self._refusals.get(kind, (now - QUIET, 0))
        if 0 <= now - at < QUIET:
            _remember(self._refusals, kind, (at, count + 1))
            return
        _remember(self._refusals, kind, (now, 0))
        about = {"reason": reason[:LONGEST], "shown": credential}
        await self._write("refusals", AuditEvent(event, now, "", "", door, peer, count + 1, about))

    async def _write(self, ring: str, event: AuditEvent) -> None:
        log.info("audit", **{"audit_event" if name == "event" else name: v for name, v in event.to_json().items()})
        self._meter.count("audit_events", event=event.event)
        try:
            await self._keep(ring, event)
        # the line of the log is there; an act that waited for its record would fail with the store
        except (StoreError, Conflict) as error:
            log.warning("audit_not_kept", audit_event=event.event, error=error.code)

    async def _keep(self, ring: str, event: AuditEvent) -> None:
        """Take the next place, then write there: two writers never take the same one."""
        for _ in range(TRIES):
            head = await self._registry.get("audit", ALL_TENANTS, f"{ring}:next")
            number = int(head.body["number"]) + 1 if head else 1
            # the taker, because the same body again would be a repeat to the store, and no conflict
            body = {"number": number, "taker": secrets.token_hex(8)}
            try:
                await self._registry.put(
                    "audit", ALL_TENANTS, f"{ring}:next", body, version=head.version if head else 0
                )
            except Conflict:
                continue
            place = f"{ring}:{number % ROOM[ring]:05d}"
            await self._registry.put("audit", ALL_TENANTS, place, {"number": number, **event.to_json()}, ttl=KEEP)
            return
        raise Conflict(f"no place among the {ring} of the audit trail could be taken")


def _remember(cache: OrderedDict[Any, Any], name: object, value: object) -> None:
    cache[name] = value
    cache.move_to_end(name)
    while len(cache) > MOST_REMEMBERED:
        cache.popitem(last=False)


async def events_of(registry: Registry) -> list[AuditEvent]:
    """All that is kept, in the order of time."""
    records = []
    for document in await registry.list("audit", ALL_TENANTS):
        body = dict(document.body)
        number = body.pop("number", 0)
        if "event" in body:
            records.append((body["at"], number, AuditEvent.from_json(body)))
    return [event for _, _, event in sorted(records, key=lambda one: one[:2])]


def channel_digest(name: str) -> str:
    """Of the name of a channel, which may be anything: whoever knows the name
    finds what happened there.
    """
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class AuditContext:
    """Where the request that is being answered came in, and who writes down what it does."""

    trail: Trail
    door: str
    peer: str


def watch(context: AuditContext) -> None:
    """From here on, in this task and those it starts, what happens is written down as this context
    saw it.
    """
    _context.set(context)


async def report(event: Act, *, tenant: str, by: str, **about: str | Iterable[str] | bool | None) -> None:
    """The request that is being answered did something."""
    if (context := _context.get()) is not None:
        details = {name: _word(value) for name, value in about.items() if value is not None}
        await context.trail.act(event, tenant=tenant, by=by, door=context.door, peer=context.peer, about=details)


async def report_use(key_id: str, *, tenant: str) -> None:
    if (context := _context.get()) is not None:
        await context.trail.use(key_id, tenant=tenant, door=context.door, peer=context.peer)


async def report_refusal(event: Refusal, reason: str, *, credential: str = "") -> None:
    if (context := _context.get()) is not None:
        await context.trail.refuse(event, reason, credential=credential, door=context.door, peer=context.peer)


def _word(value: str | Iterable[str] | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else ",".join(sorted(value))
