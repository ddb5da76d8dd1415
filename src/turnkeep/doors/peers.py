"""Who is connected to this process, and how many may be.

A connection that has nothing to do for us - no whole request yet, or no credential - waits. Where there is no room for
one more, one of the address that has most of them waiting goes, the one that has waited longest: whoever comes with a
request finds room, however many come with none, and keeps it however fast others come back.
"""

from __future__ import annotations

import ipaddress
from collections import Counter, OrderedDict
from collections.abc import Collection
from typing import Protocol

from turnkeep.clock import Clock, SystemClock
from turnkeep.settings import Settings
from turnkeep.telemetry import SILENT, Meter, get_log

try:
    import resource
except ImportError:  # not made for every system
    resource = None  # type: ignore[assignment]

log = get_log(__name__)

WANTED = 65_536
"""Descriptors that are asked of the system."""
RESERVE = 128
"""Descriptors that no connection gets: for the store, models and tools."""
TOLD_EVERY = 10.0
"""Seconds between two lines about the same want of room."""
REMEMBERED = 60.0
"""Seconds for which `/readyz` says that there was no room."""


class Connection(Protocol):
    """One end of it, in this process."""

    def drop(self) -> None:
        """Close at once, whatever is on its way."""
        ...


class Peers:
    """The connections of one process. `most` in all, `per_peer` of one address; 0 is unlimited."""

    def __init__(
        self,
        most: int,
        per_peer: int = 0,
        *,
        trusted: Collection[str] = (),
        meter: Meter = SILENT,
        clock: Clock | None = None,
    ) -> None:
        self.most = most
        self._per_peer = per_peer
        self._trusted = [ipaddress.ip_network(one) for one in trusted]
        self._meter = meter
        self._clock = clock or SystemClock()
        self._hosts: dict[Connection, str] = {}
        self._of_host: Counter[str] = Counter()
        self._proxies: dict[str, bool] = {}
        self._waiting: dict[str, OrderedDict[Connection, None]] = {}
        self._told_at: dict[str, float] = {}
        self._full_at: float | None = None

    def __len__(self) -> int:
        return len(self._hosts)

    @property
    def were_full(self) -> bool:
        """Whether somebody had to go, or was refused, a short while ago."""
        return self._full_at is not None and self._clock.now() - self._full_at < REMEMBERED

    def enter(self, connection: Connection, host: str) -> bool:
        """Whether there is room; it waits from now on."""
        if self._has_all_of_its_own(host):
            self._tell("peer_refused", peer=host, connections=self._per_peer)
            return False
        if self.most and len(self._hosts) >= self.most and not self._make_room():
            self._tell("connection_refused", connections=len(self._hosts))
            return False
        self._hosts[connection] = host
        self._of_host[host] += 1
        self.wait(connection)
        return True

    def leave(self, connection: Connection) -> None:
        """It is gone. Safe to repeat."""
        self.work(connection)
        host = self._hosts.pop(connection, None)
        if host is not None:
            self._of_host[host] -= 1
            if not self._of_host[host]:
                del self._of_host[host]
                self._proxies.pop(host, None)

    def wait(self, connection: Connection) -> None:
        """Nothing is done for it: it may have to go."""
        if (host := self._hosts.get(connection)) is not None:
            waiting = self._waiting.setdefault(host, OrderedDict())
            waiting[connection] = None
            waiting.move_to_end(connection)

    def work(self, connection: Connection) -> None:
        """Something is done for it."""
        host = self._hosts.get(connection)
        if host is not None and (waiting := self._waiting.get(host)) is not None:
            waiting.pop(connection, None)
            if not waiting:
                del self._waiting[host]

    def _has_all_of_its_own(self, host: str) -> bool:
        """A proxy comes for many: those of this machine, and those that are named, may have all the room there is."""
        return bool(self._per_peer) and self._of_host[host] >= self._per_peer and not self._is_proxy(host)

    def _is_proxy(self, host: str) -> bool:
        if host not in self._proxies:
            self._proxies[host] = self._looks_like_proxy(host)
        return self._proxies[host]

    def _looks_like_proxy(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:  # a Unix socket has no address
            return True
        return address.is_loopback or any(address in network for network in self._trusted)

    def _make_room(self) -> bool:
        if not self._waiting:
            return False
        most = max(self._waiting, key=lambda host: len(self._waiting[host]))
        longest = next(iter(self._waiting[most]))
        self._tell("waiting_connection_dropped", connections=len(self._hosts))
        self.leave(longest)
        longest.drop()
        return True

    def _tell(self, event: str, **facts: object) -> None:
        now = self._clock.now()
        self._full_at = now
        self._meter.count("connections_dropped", reason=event)
        if now - self._told_at.get(event, -TOLD_EVERY) >= TOLD_EVERY:
            self._told_at[event] = now
            log.warning(
                event, hint="raise TURNKEEP_MAX_CONNECTIONS and the limit of open files, or look who it is", **facts
            )


def peers_of(settings: Settings, meter: Meter = SILENT) -> Peers:
    """As set, and never more than the system has descriptors for."""
    most = most_connections(settings.max_connections, raise_descriptors())
    return Peers(most, settings.connections_per_peer, trusted=settings.proxies, meter=meter)


def most_connections(wanted: int, descriptors: int | None) -> int:
    """So many as are wanted (0: any number), less what everything else needs of the descriptors."""
    if descriptors is None:
        return wanted
    return min(wanted or descriptors, max(descriptors - RESERVE, descriptors // 2))


def raise_descriptors() -> int | None:
    """Take as many descriptors as the system gives this process; how many. None where nobody counts them."""
    if resource is None:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:  # a sandbox around us
            log.warning("descriptors_not_raised", soft=soft, hard=hard, error=str(error))
            return soft
        return wanted
    return soft
