"""Where connections wait that there is no room for.

Nothing of theirs is parsed, so that one costs a descriptor and no more than a head. Whoever is
dropped is back within milliseconds; whoever is let wait is not. One that has asked for something is
let in when there is room, an address after the other; where the lobby itself is full, the one of
the busiest address goes that has been there longest.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

LOBBY = 1_000
"""Connections that wait for room; an eighth of the descriptors at most."""


class Connection(Protocol):
    """One end of it, in this process; here, or in its place (`peers`)."""

    def admit(self) -> None:
        """There is room now: go on with what was read."""
        ...

    def drop(self) -> None:
        """Close at once, whatever is on its way."""
        ...


class Lobby:
    """At most `most` of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._hosts: OrderedDict[Connection, str] = OrderedDict()
        self._of_host: Counter[str] = Counter()
        self._asking: OrderedDict[str, OrderedDict[Connection, None]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._hosts)

    @property
    def is_asked(self) -> bool:
        """Whether somebody waits who has asked for something."""
        return bool(self._asking)

    def enter(self, connection: Connection, host: str) -> bool:
        """Whether it may wait here."""
        if len(self._hosts) >= self._most and not self._make_room():
            return False
        self._hosts[connection] = host
        self._of_host[host] += 1
        return True

    def leave(self, connection: Connection) -> None:
        """It is gone, or let in. Safe to repeat."""
        host = self._hosts.pop(connection, None)
        if host is None:
            return
        self._of_host[host] -= 1
        if not self._of_host[host]:
            del self._of_host[host]
        self._stop_asking(connection, host)

    def withdraw(self, connection: Connection) -> None:
        """It asks for nothing any more, and stays here until it is gone."""
        if (host := self._hosts.get(connection)) is not None:
            self._stop_asking(connection, host)

    def _stop_asking(self, connection: Connection, host: str) -> None:
        if (asking := self._asking.get(host)) is not None:
            asking.pop(connection, None)
            if not asking:
                del self._asking[host]

    def ask(self, connection: Connection, host: str) -> None:
        """It has asked for something, in the name of this address."""
        if connection in self._hosts:
            self.leave(connection)
            self._hosts[connection] = host
            self._of_host[host] += 1
            self._asking.setdefault(host, OrderedDict())[connection] = None

    def let_in(self, may_enter: Callable[[str], bool]) -> Iterator[tuple[Connection, str]]:
        """Those for whose address there is room, in turn; each has left when it is told."""
        # One of each address in turn, however many of one ask: else a thousand of one come first.
        hosts = list(self._asking)
        while hosts:
            for host in tuple(hosts):
                asking = self._asking.get(host)
                if not asking or not may_enter(host):
                    hosts.remove(host)
                    continue
                connection = next(iter(asking))
                self.leave(connection)
                yield connection, host

    def _make_room(self) -> bool:
        if not self._hosts:
            return False
        # Not the one that came last: who pours would drive out everybody who was there before.
        busiest = max(self._of_host, key=lambda host: self._of_host[host])
        longest = next(one for one, host in self._hosts.items() if host == busiest)
        self.leave(longest)
        longest.drop()
        return True
