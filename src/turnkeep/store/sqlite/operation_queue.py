"""What waits for the writer: calls, their operations, and the queue from which it takes them by groups."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple, get_args

WriteKind = Literal["plain", "urgent", "beginning", "ending", "soft"]
"""plain: refused while the disk is full. urgent: as plain, and a run that begins by it waits for no
sync. ending: goes on then, because runs end by it or room is made. soft: may be lost when the
machine stops, and goes on as well. beginning: refused as plain is, and lost as soft is, for runs
begin by it.
"""
ALL_KINDS: frozenset[WriteKind] = frozenset(get_args(WriteKind))

# All of a group wait for one sync, and the first of them for all the others to be done.
GROUP = 512


class Call:
    """What a caller waits for: one act, or several that happen or not each by itself."""

    # one future for all of them: one for each cost a seventh of what an accepted message does
    __slots__ = ("_error", "_open_count", "_values", "future")

    def __init__(self, future: asyncio.Future[list[Any]], count: int) -> None:
        self.future = future
        self._open_count = count
        self._values: list[Any] = [None] * count
        self._error: Exception | None = None

    def settle(self, place: int, value: Any, error: Exception | None) -> None:
        """One of the acts has ended; the caller hears when all have, and then the first error there was."""
        self._values[place] = value
        self._error = self._error or error
        self._open_count -= 1
        # the caller may have given up meanwhile; what it asked for is committed all the same
        if self._open_count or self.future.done():
            return
        if self._error is None:
            self.future.set_result(self._values)
        else:
            self.future.set_exception(self._error)


class Operation(NamedTuple):
    """One act of a call."""

    act: Callable[..., Any]
    """Done in a transaction, with these arguments."""
    arguments: tuple[Any, ...]
    kind: WriteKind
    call: Call
    place: int
    """Among the acts of the call."""


ActResult = tuple[Operation, Any, Exception | None]


class OperationQueue:
    """Filled on the event loop, which it never blocks, and emptied by the writer's thread."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._next: Operation | None = None
        """Was taken from the queue, and did not fit into the group."""

    def put(self, operation: Operation) -> None:
        self._queue.put(operation)

    def end(self) -> None:
        """Nothing comes after this."""
        self._queue.put(None)

    def gather(self, timeout: float) -> list[Operation] | None:
        """All that waits; empty when nothing comes within so many seconds, None at the end."""
        operation, self._next = self._next, None
        if operation is None:
            try:
                operation = self._queue.get(timeout=max(0.0, timeout))
            except queue.Empty:
                return []
        if operation is None:
            return None
        group = [operation]
        self.join(group, ALL_KINDS)
        return group

    def join(self, group: list[Operation], kinds: Container[WriteKind]) -> Sequence[Operation]:
        """Add what waits to a group, in order, up to its bound or one of another kind; what was added."""
        count = len(group)
        with suppress(queue.Empty):
            while len(group) < GROUP and self._next is None:
                operation = self._queue.get_nowait()
                # the end: it is asked for again after this group
                if operation is None:
                    self._queue.put(None)
                    break
                if operation.kind in kinds:
                    group.append(operation)
                else:
                    self._next = operation
        return group[count:]
