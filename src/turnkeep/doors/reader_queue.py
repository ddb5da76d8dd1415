"""What an open socket waits with: a queue for one reader and a gate, which hold nothing while nothing happens.

A thousand sockets are idle for an hour and write for a second: of the queue and the event of asyncio,
which each begins with an empty deque, they would hold four megabytes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class ReaderQueue(Generic[T]):
    """An `asyncio.Queue` from which one task reads. It refuses nothing: what bounds it is the valve of
    the connection (`backlog.Valve`), because a frame that was read cannot be given back.

    While one item waits here, nothing is read of the connection: uvicorn pauses with each message
    and resumes when the last one is taken. What can still come is what one read of the system had
    in it, and at most `backlog.PIECES` frames of that in a second.
    """

    __slots__ = ("_arrival", "_items")

    def __init__(self) -> None:
        self._items: deque[T] | None = None
        self._arrival: asyncio.Future[None] | None = None

    def put_nowait(self, item: T) -> None:
        if self._items is None:
            self._items = deque()
        self._items.append(item)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def empty(self) -> bool:
        return self._items is None

    async def get(self) -> T:
        """The oldest. What has come stays for the next reader, if this one is cancelled."""
        while self._items is None:
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None
        item = self._items.popleft()
        if not self._items:
            self._items = None
        return item


class Gate:
    """An `asyncio.Event` that is set nearly always."""

    __slots__ = ("_opening",)

    def __init__(self) -> None:
        self._opening: asyncio.Future[None] | None = None
        """Somebody waits for it; None: it is open."""

    def set(self) -> None:
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.set_result(None)

    def clear(self) -> None:
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_future()

    async def wait(self) -> None:
        while self._opening is not None:
            # one who is cancelled must not take the gate from the others
            await asyncio.wait([self._opening])
