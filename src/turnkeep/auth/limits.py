"""Limits of the doors: what a message may hold and how large it may be, at what rate messages come in, and how many
of something somebody may have.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import field
from typing import Any, Literal, Self

from turnkeep.application import Application
from turnkeep.auth.principals import Principal
from turnkeep.clock import Clock, SystemClock
from turnkeep.errors import NotAllowed, Rejection, ThreadNotFound, TooManyRequests
from turnkeep.inputs import read_content, read_message
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import DEFAULT_TENANT, USER, Address, Content, Message
from turnkeep.setting_checks import parse_rate
from turnkeep.settings import Settings
from turnkeep.store.contract import Store
from turnkeep.store.values import Receipt

MOST_RATES = 100_000
"""Buckets remembered per kind; the longest unused go first."""
LONGEST_REFUSAL = 5.0
"""Seconds for which a refusal is held back at most."""
LOOK_AGAIN, LOOK_SOON = 60.0, 5.0
"""Seconds between two counts of a tenant's threads: when there is much room, and
when there is little.
"""
MARGIN = 100_000
"""Threads that may be made between two looks."""


@dataclass(slots=True)
class Rate:
    """A token bucket per key: `count` at once, refilled evenly over `seconds`. A count
    of 0 is unlimited.
    """

    count: int
    seconds: float
    clock: Clock
    _buckets: OrderedDict[object, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, key: object) -> float:
        """0 if one more is allowed now, else seconds until it is."""
        if not self.count:
            return 0.0
        level = self._level(key)
        is_allowed = level >= 1.0
        self._keep(key, level - 1.0 if is_allowed else level)
        return 0.0 if is_allowed else (1.0 - level) * self.seconds / self.count

    def owe(self, key: object) -> float:
        """Take one in any case: seconds that whoever took it has to wait before the next,
        LONGEST_REFUSAL at most.
        """
        if not self.count:
            return 0.0
        # bounded debts: who floods waits LONGEST_REFUSAL and not for an hour, and an address may be
        # shared by many
        level = max(self._level(key) - 1.0, -LONGEST_REFUSAL * self.count / self.seconds)
        self._keep(key, level)
        return max(0.0, -level) * self.seconds / self.count

    def give_back(self, key: object) -> None:
        """One was taken for nothing."""
        if self.count:
            self._keep(key, min(float(self.count), self._level(key) + 1.0))

    def _level(self, key: object) -> float:
        now = self.clock.now()
        # taken out, and put back at the end: so their order is that of use
        level, at = self._buckets.pop(key, (float(self.count), now))
        return min(float(self.count), level + max(0.0, now - at) * self.count / self.seconds)

    def _keep(self, key: object, level: float) -> None:
        self._buckets[key] = (level, self.clock.now())
        while len(self._buckets) > MOST_RATES:
            self._buckets.popitem(last=False)


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose something is: of a credential; where nobody is asked for one, of the address that it is
    asked from.
    """

    tenant: str
    name: str
    kind: Literal["credential", "address"]


def holder(principal: Principal, peer: str | None) -> Holder:
    if principal.user is None:
        return Holder(principal.tenant, peer or "", "address")
    return Holder(principal.tenant, principal.subject, "credential")


class Slots:
    """What a holder may have at once. Raises `TooManyRequests` for one more."""

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._of: Counter[Holder] = Counter()

    @contextmanager
    def of(self, whose: Holder) -> Iterator[None]:
        """One of them, to the end of the block."""
        if self._of[whose] >= self._most:
            raise TooManyRequests(f"this {whose.kind} has {self._most} {self._what}, end one first", retry_after=1.0)
        self._of[whose] += 1
        try:
            yield
        finally:
            self._of[whose] -= 1
            # a Counter keeps its zeros
            if not self._of[whose]:
                del self._of[whose]


class ThreadQuota:
    """Threads of a tenant, counted now and then: it may have a few more than `most` by
    the time we look.
    """

    def __init__(self, most: int, store: Store | None, clock: Clock) -> None:
        self._most = most
        self._store = store
        self._clock = clock
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()

    async def has_room(self, tenant: str) -> bool:
        """Whether one more thread may be made. Raises `StoreError`."""
        if not self._most or self._store is None:
            return True
        now = self._clock.now()
        count, at = self._counts.get(tenant, (0, -math.inf))
        is_near = self._most - count < MARGIN
        # counting for each message would be one more question to the store with every one
        if now - at >= (LOOK_SOON if is_near else LOOK_AGAIN):
            count = (await self._store.counts(tenant=tenant)).threads
            self._counts[tenant] = count, now
            self._counts.move_to_end(tenant)
            while len(self._counts) > MOST_RATES:
                self._counts.popitem(last=False)
        return count < self._most

    def refusal(self) -> TooManyRequests:
        return TooManyRequests(
            f"this tenant has {self._most} threads, which is all it may: forget some, or raise TURNKEEP_MAX_THREADS",
            retry_after=LOOK_AGAIN,
        )


class Limits:
    """What doors check before they store anything, and how they have it stored."""

    def __init__(self, settings: Settings, clock: Clock | None = None, store: Store | None = None) -> None:
        clock = clock or SystemClock()
        self.message_bytes = settings.max_message_bytes
        self.frame_bytes = settings.max_frame_bytes
        self.client_instructions = settings.client_instructions
        self.file_ids = settings.file_ids
        self.channels_per_socket = settings.channels_per_socket
        self._streams = Slots("sockets and streams", settings.sockets_per_user)
        self._bodies = Slots("unfinished requests", settings.bodies_per_user)
        self.threads = ThreadQuota(settings.max_threads, store, clock)
        self._channel = Rate(*parse_rate(settings.channel_rate), clock)
        self._user = Rate(*parse_rate(settings.user_rate), clock)
        self._tenant = Rate(*parse_rate(settings.tenant_rate), clock)
        self._requests = Rate(*parse_rate(settings.request_rate), clock)
        self._tenant_requests = Rate(*parse_rate(settings.tenant_request_rate), clock)
        self._errors = Rate(*parse_rate(settings.error_rate), clock)

    @classmethod
    def of_broker(cls, settings: Settings, store: Store) -> Self:
        """Those of messages that a broker hands over: all that came while we were away, at once."""
        rates = {"channel_rate": settings.amqp_channel_rate, "tenant_rate": settings.amqp_tenant_rate, "user_rate": "0"}
        return cls(settings.model_copy(update=rates), store=store)

    def message_of(self, body: Mapping[str, Any], address: Address, principal: Principal) -> Message:
        """The message that somebody sends. Whoever manages the channel speaks for the operator;
        instructions of anybody else are refused, or kept as a user's where the operator takes those.
        Who answers, and at what price, is the operator's matter too. Raises `Rejection`, `NotAllowed`.
        """
        message = read_message(body, address, limit=self.message_bytes, user=principal.user)
        self._check_parts(message.content, principal)
        if "manage" in principal.rights:
            return message
        if message.model is not None or message.parameters:
            raise NotAllowed("'model', 'effort', 'format' and 'parameters' of a message need the scope 'manage'")
        if message.instructions is None:
            return message
        if not self.client_instructions:
            raise NotAllowed(
                "instructions need the scope 'manage'; where everybody may give some, set "
                "TURNKEEP_CLIENT_INSTRUCTIONS=on"
            )
        return message.but(instructions=None, user_instructions=message.instructions)

    def content_of(self, body: Mapping[str, Any], principal: Principal, *, most_bytes: int | None = None) -> Content:
        """What a message is changed to, or said before. Raises as `message_of`."""
        content = read_content(body, limit=most_bytes or self.message_bytes)
        self._check_parts(content, principal)
        return content

    def _check_parts(self, content: Content, principal: Principal) -> None:
        """A file id names a file of the provider's account, which all tenants share: whoever manages
        another tenant than the operator's own manages no file there.
        """
        if self.file_ids or ("manage" in principal.rights and principal.tenant == DEFAULT_TENANT):
            return
        if any("file_id" in (part.data or ()) for part in content):
            raise NotAllowed(
                "'file_id' names a file of an account that all tenants share: it needs the scope 'manage' in the "
                "tenant 'default', or TURNKEEP_FILE_IDS=on; send the file as 'file_data'"
            )

    async def accept(self, application: Application, principal: Principal, message: Message) -> Receipt:
        """Take it in durably. A repeat costs nothing and has its receipt, whatever the rate.

        Raises `Rejection`: `TooManyRequests`, `InboxFull`, `NotFound`; `StoreError`.
        """
        address = message.address
        user = None if principal.user is not None else message.metadata.get(USER)  # else it is the credential's own
        try:
            self.check_rate(principal, address, user)
        except TooManyRequests:
            # A client that was not told repeats under the same id: to refuse it would
            # lose what is stored.
            if message.minted or await application.store.message(address, message.message_id) is None:
                raise
            is_free = True
        else:
            is_free = False
        may_create = await self.creates(address)
        [outcome] = await application.accept([message], create=may_create)
        if isinstance(outcome, ThreadNotFound) and not may_create and not address.names_thread:
            raise self.threads.refusal()
        if isinstance(outcome, Rejection):
            raise outcome
        # Counted before it was known to be a repeat: to ask first would cost every message a look.
        if outcome.repeated and not is_free:
            self.give_back(principal, address, user)
        return outcome

    def check_rate(self, principal: Principal, address: Address, user: str | None = None) -> None:
        """Raises `TooManyRequests` with the time to wait. `user`: whom the message names, where its
        credential is nobody's own: a backend and an open server speak for many, who are not to
        share what one may have.
        """
        debits: list[tuple[Rate, object]] = []
        for name, rate, key in self._rates_of(principal, address, user):
            if wait := rate.take(key):
                # all rates or none: a message that was refused uses up nothing
                for other, debit_key in debits:
                    other.give_back(debit_key)
                raise TooManyRequests(f"too many messages for this {name}, wait {wait:.1f} s", retry_after=wait)
            debits.append((rate, key))

    def give_back(self, principal: Principal, address: Address, user: str | None = None) -> None:
        """What `check_rate` took was for a message that we have already."""
        for _, rate, key in self._rates_of(principal, address, user):
            rate.give_back(key)

    def _rates_of(self, principal: Principal, address: Address, user: str | None) -> Iterator[tuple[str, Rate, object]]:
        yield "channel", self._channel, address
        if (person := principal.person or user) is not None:
            yield "user", self._user, (principal.tenant, person)
        yield "tenant", self._tenant, principal.tenant

    def check_request(self, principal: Principal) -> None:
        """Raises `TooManyRequests` with the time to wait. Whoever is nobody has the rate of the
        tenant alone.
        """
        if principal.user is not None:
            self._take(self._requests, (principal.tenant, principal.subject), "credential")
        self._take(self._tenant_requests, principal.tenant, "tenant")

    def _take(self, rate: Rate, key: object, of: str) -> None:
        if wait := rate.take(key):
            raise TooManyRequests(f"too many requests of this {of}, wait {wait:.1f} s", retry_after=wait)

    async def hold_back(self, who: object, disconnect: asyncio.Event | None = None) -> None:
        """Wait before somebody is told of a refusal, the longer the more there were: refusing costs
        nearly as much as acting. `who`: an address, or a credential. Nobody waits for one whose
        connection is gone: `disconnect` is set then.
        """
        if wait := self._errors.owe(who):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await (disconnect or asyncio.Event()).wait()

    def streaming(self, whose: Holder) -> AbstractContextManager[None]:
        """A socket or a stream of events, to the end of the block. Raises `TooManyRequests`."""
        return self._streams.of(whose)

    def arriving(self, whose: Holder) -> AbstractContextManager[None]:
        """A body that is still on its way, to the end of the block. Raises `TooManyRequests`."""
        return self._bodies.of(whose)

    async def creates(self, address: Address) -> bool:
        """Whether a message may make the thread that it is for. A channel that names a thread must
        exist already.
        """
        return not address.names_thread and await self.threads.has_room(address.tenant)
