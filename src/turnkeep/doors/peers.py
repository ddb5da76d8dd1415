"""Who is connected to this process, and how many may be.

A connection that has nothing to do for us - no whole request yet, or no credential - waits. Where
there is no room for one more, that one stands in the lobby until it asks for something. Then one of
the address that has most of them waiting goes, the one that has waited longest: whoever comes with
a request finds room, however many come with none, and keeps it however fast others come back. An
address makes room so often in a second and no more: each request that is begun and dropped again
costs as much as one that is answered.

An address is that of the peer; where the peer is a proxy that is trusted, the one that it names.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Literal

from turnkeep.auth.limits import Rate
from turnkeep.clock import Clock, SystemClock
from turnkeep.doors.lobby import LOBBY, Connection, Lobby
from turnkeep.settings import Settings
from turnkeep.telemetry import SILENT, Meter, get_log

try:
    import resource
except ImportError:  # not made for every system
    resource = None  # type: ignore[assignment]

log = get_log(__name__)

DESCRIPTORS = 65_536
"""Descriptors that are asked of the system."""
RESERVE = 128
"""Descriptors that no connection gets: for the store, models and tools."""
DROPS = 50
"""Connections of others that may be dropped in a second for those of one address."""
LOOK_AGAIN = 0.02
"""Seconds between two looks whether there is room for who asks in the lobby."""
TOLD_EVERY = 10.0
"""Seconds between two lines about the same want of room."""
MOST_REMEMBERED = 1_024
"""Addresses of which is remembered whether they are those of a proxy."""
LONGEST = 64
"""Characters of an address that are looked at."""
REFUSAL_MEMORY = 60.0
"""Seconds for which `/readyz` says that there was no room."""


Admission = Literal["inside", "lobby", "nowhere"]

_FORWARDED_FOR = re.compile(rb"\r\nx-forwarded-for:([^\r\n]*)", re.IGNORECASE)


class Peers:
    """The connections of one process. `most` in all, `per_peer` of one address; 0 is unlimited.
    Beside them `lobby` that wait for room.
    """

    def __init__(
        self,
        most: int,
        per_peer: int = 0,
        *,
        lobby: int = LOBBY,
        proxies: Collection[str] = (),
        meter: Meter = SILENT,
        clock: Clock | None = None,
    ) -> None:
        self.most = most
        self._per_peer = per_peer
        self._proxy_networks = [ipaddress.ip_network(one) for one in proxies]
        # Asked of each request, and nearly all come from the same few.
        self._is_trusted = lru_cache(MOST_REMEMBERED)(self._is_of_our_proxies)
        self._meter = meter
        self._clock = clock or SystemClock()
        self._lobby = Lobby(lobby)
        # Who is dropped comes back within milliseconds, and each time a request is begun
        # for him in vain.
        self._drops = Rate(DROPS, 1.0, self._clock)
        self._is_called = False
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
        return self._full_at is not None and self._clock.now() - self._full_at < REFUSAL_MEMORY

    @property
    def is_full(self) -> bool:
        return bool(self.most) and len(self._hosts) >= self.most

    def enter(self, connection: Connection, host: str) -> Admission:
        """Where there is room for it. Inside it waits from now on; in the lobby it has to `ask`."""
        if self._has_all_of_its_own(host):
            self._tell("peer_refused", peer=host, connections=self._per_peer)
            return "nowhere"
        if not self.is_full:
            self._admit(connection, host)
            return "inside"
        self._tell("connection_delayed", connections=len(self._hosts))
        if self._lobby.enter(connection, host):
            return "lobby"
        self._tell("connection_refused", connections=len(self._hosts))
        return "nowhere"

    def ask(self, connection: Connection, host: str) -> bool:
        """One in the lobby has sent something, in the name of this address: whether it is inside
        now. It is told later (`admit`) if it is not.
        """
        if self._may_enter(host):
            self._lobby.leave(connection)
            self._admit(connection, host)
            return True
        self._lobby.ask(connection, host)
        self._call()
        return False

    def withdraw(self, connection: Connection) -> None:
        """One in the lobby was answered, and asks for nothing any more."""
        self._lobby.withdraw(connection)

    def name(self, connection: Connection, host: str) -> None:
        """What it asks for comes from this address, as a proxy that is trusted says."""
        before = self._hosts.get(connection)
        if before is None or before == host:
            return
        is_waiting = connection in self._waiting.get(before, ())
        self.leave(connection)
        self._hosts[connection] = host
        self._of_host[host] += 1
        if is_waiting:
            self.wait(connection)

    def sender(self, host: str, headers: Iterable[bytes]) -> str:
        """Whose request this is, by its peer and the values of X-Forwarded-For."""
        if not self._is_trusted(host):
            return host
        # From the right, as far as those are ours: what stands further left the sender wrote
        # himself.
        hops = [one.strip() for one in b",".join(headers).decode("latin-1").split(",")]
        return next((one for one in reversed(hops) if one and not self._is_trusted(one)), hops[0] or host)[:LONGEST]

    def _admit(self, connection: Connection, host: str) -> None:
        self._hosts[connection] = host
        self._of_host[host] += 1
        self.wait(connection)

    def _may_enter(self, host: str) -> bool:
        if not self.is_full:
            return True
        return bool(self._waiting) and not self._drops.take(host) and self._make_room()

    def _call(self) -> None:
        if not self._is_called:
            self._is_called = True
            asyncio.get_running_loop().call_later(LOOK_AGAIN, self._let_in)

    def _let_in(self) -> None:
        self._is_called = False
        try:
            for connection, host in self._lobby.let_in(self._may_enter):
                self._admit(connection, host)
                connection.admit()
        finally:  # one that breaks ends this look: the others have their turn at the next
            if self._lobby.is_asked:
                self._call()

    def leave(self, connection: Connection) -> None:
        """It is gone. Safe to repeat."""
        self._lobby.leave(connection)
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
        """A proxy comes for many: those of this machine, and those that are named, may have all the
        room there is.
        """
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
        return address.is_loopback or self._is_trusted(host)

    def _is_of_our_proxies(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._proxy_networks)

    def _make_room(self) -> bool:
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


def forwarded_in(data: bytes) -> list[bytes]:
    """The values of X-Forwarded-For in the beginning of a request, before anything else
    of it is read.
    """
    return _FORWARDED_FOR.findall(data.partition(b"\r\n\r\n")[0])


def peers_of(settings: Settings, meter: Meter = SILENT) -> Peers:
    """As set, and never more than the system has descriptors for."""
    descriptors = raise_descriptors()
    most = most_connections(settings.max_connections, descriptors)
    lobby = LOBBY if descriptors is None else most_in_lobby(descriptors)
    return Peers(most, settings.connections_per_peer, lobby=lobby, proxies=settings.proxies, meter=meter)


def most_connections(limit: int, descriptors: int | None) -> int:
    """So many as are wanted (0: any number), less what the lobby and everything else
    need of the descriptors.
    """
    if descriptors is None:
        return limit
    return min(limit or descriptors, _for_connections(descriptors) - most_in_lobby(descriptors))


def most_in_lobby(descriptors: int) -> int:
    return min(LOBBY, _for_connections(descriptors) // 8)


def _for_connections(descriptors: int) -> int:
    # Half at least: with very few descriptors the reserve would leave no room for anybody.
    return max(descriptors - RESERVE, descriptors // 2)


def raise_descriptors() -> int | None:
    """Take as many descriptors as the system gives this process; how many. None where
    nobody counts them.
    """
    if resource is None:
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    target = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft < target:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        except (OSError, ValueError) as error:  # a sandbox around us
            log.warning("descriptors_not_raised", soft=soft, hard=hard, error=str(error))
            return soft
        return target
    return soft


def sender_of(peers: Peers, host: str, headers: Iterable[tuple[bytes, bytes]]) -> str:
    return peers.sender(host, (value for name, value in headers if name == b"x-forwarded-for"))
