"""What was read of a connection and waits to be parsed: how much at a turn of the loop,
and whose first.

A peer that pours, and an address that asks a thousand times at once, wait for themselves; others
have their turn.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import Any, Literal

from turnkeep.telemetry import get_log

log = get_log(__name__)

SLICE = 2_048
"""Bytes that are parsed before somebody looks at the time: seven of them may be a whole frame."""
LARGEST_SLICE = 65_536
TURN = 0.005
"""Seconds of a turn of the loop for all that is more than a little."""
AT_ONCE = 8
"""How often a little of one address is parsed at a turn of the loop, beside that: it may
be as many requests.
"""
PIECES = 1_000
"""Frames of a socket in a second, fragments and pings too, and chunks of a body; what is more is
read later.
"""
PIECES_AT_ONCE = 200

HoldReason = Literal["application", "backlog", "fault", "lobby", "peer"]

NO_REASON: frozenset[HoldReason] = frozenset()
"""One for all that hold nothing, which are nearly all: each empty set is an object of its own."""


class Valve:
    """A transport that reads while nobody holds it. What uvicorn knows of it is one
    reason among others.
    """

    __slots__ = ("_reasons", "inner", "on_end", "write")

    def __init__(self, inner: asyncio.Transport) -> None:
        self.inner = inner
        self.write = inner.write
        self.on_end: Callable[[], None] | None = None
        """Called when it is closed from this side, before that: nothing may be written behind the end."""
        # A set and no flag: uvicorn pauses and resumes for itself, and would let go what we hold.
        self._reasons = NO_REASON

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    @property
    def is_held(self) -> bool:
        return bool(self._reasons)

    def holds(self, reason: HoldReason) -> bool:
        return reason in self._reasons

    def hold(self, reason: HoldReason) -> None:
        if not self._reasons and not self.inner.is_closing():
            self.inner.pause_reading()
        self._reasons |= {reason}

    def release(self, reason: HoldReason) -> None:
        if reason in self._reasons:
            self._reasons = self._reasons - {reason} or NO_REASON
            if not self._reasons and not self.inner.is_closing():
                self.inner.resume_reading()

    def close(self) -> None:
        self._tell_end()
        self.inner.close()

    def abort(self) -> None:
        self._tell_end()
        self.inner.abort()

    def _tell_end(self) -> None:
        if self.on_end is not None:
            self.on_end()

    def pause_reading(self) -> None:
        self.hold("application")

    def resume_reading(self) -> None:
        self.release("application")


class ReadBuffer:
    """How many pieces of a connection are taken in a second: each costs as much as a large one."""

    __slots__ = ("_at", "_loop", "_room")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._room, self._at = float(PIECES_AT_ONCE), self._loop.time()

    def wait_after(self, count: int) -> float:
        """Take so many: seconds to wait before the next."""
        now = self._loop.time()
        self._room = min(float(PIECES_AT_ONCE), self._room + (now - self._at) * PIECES) - count
        self._at = now
        return -self._room / PIECES if self._room < 0 else 0.0


class Rota:
    """Whose bytes are parsed next, over all connections: together for so long at a turn of the
    loop, each address in turn, and of one address each connection. So many requests of one that
    come at once are begun a few at a turn.
    """

    def __init__(self) -> None:
        self._due: OrderedDict[str, deque[Backlog]] = OrderedDict()
        self._at_once: Counter[str] = Counter()
        self._is_called = False

    def takes_at_once(self, host: str) -> bool:
        """Whether a little of this address may be parsed now, without a turn."""
        # Counted before the answer, so that a thousand tiny requests are no way around the turns.
        self._at_once[host] += 1
        self._call()
        return self._at_once[host] <= AT_ONCE

    def add(self, backlog: Backlog) -> None:
        self._due.setdefault(backlog.host, deque()).append(backlog)
        self._call()

    def _call(self) -> None:
        if not self._is_called:
            self._is_called = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        self._is_called = False
        self._at_once.clear()
        due, until = self._due, time.perf_counter() + TURN
        # A new one: who comes while others are served waits for the next turn, and the
        # loop gets in between.
        self._due = OrderedDict()
        while due and time.perf_counter() < until:
            host, backlogs = due.popitem(last=False)
            backlog = backlogs.popleft()
            if backlogs:
                due[host] = backlogs
            try:
                backlog.step()
            except Exception:  # the others' turn comes all the same
                log.exception("connection_broke")
                backlog.abort()
        more, self._due = self._due, due
        for backlogs in more.values():  # who has more has it after the others
            for backlog in backlogs:
                self.add(backlog)
        if self._due:
            self._call()


class Backlog:
    """Bytes of one connection that were read and wait to be parsed. Nothing more is
    read until they are.
    """

    __slots__ = ("_data", "_parse", "_pieces", "_rota", "_slice", "_valve", "_waiting", "host")

    def __init__(self, valve: Valve, parse: Callable[[bytes], int], rota: Rota, host: str = "") -> None:
        self.host = host
        self._valve = valve
        self._parse = parse
        self._rota = rota
        self._pieces = ReadBuffer()
        self._data = bytearray()
        self._slice = SLICE
        self._waiting: asyncio.TimerHandle | None = None

    def feed(self, data: bytes) -> None:
        """`parse` says of how many pieces a slice was made. A little is parsed at once."""
        if not self._valve.holds("backlog") and len(data) <= SLICE and self._rota.takes_at_once(self.host):
            if wait := self._pieces.wait_after(self._parse(data)):
                self._later(wait)
            return
        self._data += data
        if not self._valve.holds("backlog"):
            self._later(0.0)

    def step(self) -> None:
        """One slice: a larger one after each that was one piece, so that what is honest costs
        little.
        """
        self._waiting = None
        if not self._data or self._valve.is_closing():
            self._data.clear()
            self._valve.release("backlog")
            return
        piece = bytes(self._data[: self._slice])
        del self._data[: self._slice]
        pieces = self._parse(piece)
        if self._parse is parse_nothing:  # it has ended meanwhile: the connection is a socket now
            return
        # One large frame is honest and needs few slices; many small pieces are what a
        # flood is made of.
        self._slice = min(self._slice * 2, LARGEST_SLICE) if pieces <= 1 else SLICE
        self._later(self._pieces.wait_after(pieces))

    def abort(self) -> None:
        """Give the connection up."""
        self._data.clear()
        self._valve.abort()

    def end(self) -> None:
        """The connection is lost. What refers to it goes, so that it is freed now and not in a heap
        by the collector: that of some thousand stops the loop for half a second.
        """
        self._data.clear()
        self._parse = parse_nothing
        self._valve.release("backlog")  # a socket reads through the same one, and would wait for it
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _later(self, wait: float) -> None:
        self._valve.hold("backlog")
        if wait:
            self._waiting = asyncio.get_running_loop().call_later(wait, self._rota.add, self)
        else:
            self._rota.add(self)


def parse_nothing(_: bytes) -> int:
    return 0
