"""Limits of the doors: sizes, rates, and how many of something somebody may have."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from turnkeep.clock import Clock, SystemClock
from turnkeep.doors.access import Principal
from turnkeep.errors import TooManyRequests
from turnkeep.messages import Address
from turnkeep.settings import Settings, parse_rate

KEPT = 100_000
"""Buckets remembered per kind; the longest unused go first."""


@dataclass(slots=True)
class Rate:
    """A token bucket per key: `count` at once, refilled evenly over `seconds`. A count of 0 is unlimited."""

    count: int
    seconds: float
    clock: Clock
    _buckets: OrderedDict[object, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, key: object) -> float:
        """0 if one more is allowed now, else seconds until it is."""
        if not self.count:
            return 0.0
        now = self.clock.now()
        left, at = self._buckets.pop(key, (float(self.count), now))
        left = min(float(self.count), left + max(0.0, now - at) * self.count / self.seconds)
        allowed = left >= 1.0
        self._buckets[key] = (left - 1.0 if allowed else left, now)
        while len(self._buckets) > KEPT:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - left) * self.seconds / self.count


class Held:
    """What a credential may have at once. Raises `TooManyRequests` for one more."""

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._of: dict[tuple[str, str], int] = {}

    @contextmanager
    def by(self, principal: Principal) -> Iterator[None]:
        """One of them, to the end of the block."""
        key = (principal.tenant, principal.subject)
        if self._of.get(key, 0) >= self._most:
            raise TooManyRequests(f"this credential has {self._most} {self._what}, end one first", retry_after=1.0)
        self._of[key] = self._of.get(key, 0) + 1
        try:
            yield
        finally:
            self._of[key] -= 1
            if not self._of[key]:
                del self._of[key]


class Limits:
    """What doors check before they store anything."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self.message_bytes = settings.max_message_bytes
        self.frame_bytes = settings.max_frame_bytes
        self.client_instructions = settings.client_instructions
        self.file_ids = settings.file_ids
        self.channels_per_socket = settings.channels_per_socket
        self._streams = Held("sockets and streams", settings.sockets_per_user)
        self._bodies = Held("unfinished requests", settings.bodies_per_user)
        self._rates = [
            ("channel", Rate(*parse_rate(settings.channel_rate), clock)),
            ("user", Rate(*parse_rate(settings.user_rate), clock)),
            ("tenant", Rate(*parse_rate(settings.tenant_rate), clock)),
        ]

    def check_rate(self, principal: Principal, address: Address) -> None:
        """Raises `TooManyRequests` with the time to wait."""
        keys = (address, (principal.tenant, principal.subject), principal.tenant)
        for (name, rate), key in zip(self._rates, keys, strict=True):
            if wait := rate.take(key):
                raise TooManyRequests(f"too many messages for this {name}, wait {wait:.1f} s", retry_after=wait)

    def streaming(self, principal: Principal) -> AbstractContextManager[None]:
        """A socket or a stream of events, to the end of the block. Raises `TooManyRequests`."""
        return self._streams.by(principal)

    def arriving(self, principal: Principal) -> AbstractContextManager[None]:
        """A body that is still on its way, to the end of the block. Raises `TooManyRequests`."""
        return self._bodies.by(principal)

    @staticmethod
    def creates(address: Address) -> bool:
        """A channel that names a thread must exist already."""
        return not address.names_thread
