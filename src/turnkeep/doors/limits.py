"""Limits of the doors: sizes, rates, and how many of something somebody may have."""

from __future__ import annotations

from collections import OrderedDict
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


class Limits:
    """What doors check before they store anything."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        clock = clock or SystemClock()
        self.message_bytes = settings.max_message_bytes
        self.frame_bytes = settings.max_frame_bytes
        self.client_instructions = settings.client_instructions
        self.file_ids = settings.file_ids
        self.channels_per_socket = settings.channels_per_socket
        self.sockets_per_user = settings.sockets_per_user
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

    @staticmethod
    def creates(address: Address) -> bool:
        """A channel that names a thread must exist already."""
        return not address.names_thread
