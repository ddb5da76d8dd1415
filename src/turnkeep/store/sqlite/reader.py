"""A few threads that only read, so that a long look at the file keeps nobody from writing.

Each look begins its own snapshot after it was asked for, so whoever waits for a
write reads it afterwards.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import apsw

from turnkeep.errors import StoreUnavailable
from turnkeep.messages import Address
from turnkeep.store.sqlite.connection import meaning, no_text
from turnkeep.store.sqlite.file_identity import FileIdentity
from turnkeep.store.sqlite.view import View

T = TypeVar("T")

CAPACITY = 10_000

_Look = tuple[Callable[[View], Any], "asyncio.Future[Any]"]


class ReaderPool:
    """Takes looks on the event loop, and has them in its threads, one view each."""

    def __init__(self, views: list[View], identity: FileIdentity, path: Path) -> None:
        self._identity = identity
        self._path = path
        self._queue: queue.SimpleQueue[_Look | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        self._is_stopping = False
        self._ends = [self._loop.create_future() for _ in views]
        self._threads = [
            threading.Thread(target=self._work, args=(view, end), name="turnkeep-sqlite-reader", daemon=True)
            for view, end in zip(views, self._ends, strict=True)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    async def run(self, look: Callable[[View], T]) -> tuple[T, list[Address]]:
        """What was seen, and the threads met that are to be deleted.

        Raises `StoreUnavailable` when too many looks wait already.
        """
        if self._is_stopping:
            raise StoreUnavailable("the store is closed")
        # refused at once: a look changes nothing, so whoever asks again later loses nothing by it
        if self._waiting >= CAPACITY:
            raise StoreUnavailable(f"{CAPACITY} looks wait for the store {self._path}, ask less")
        self._waiting += 1
        future: asyncio.Future[tuple[T, list[Address]]] = self._loop.create_future()
        self._queue.put((look, future))
        return await future

    async def stop(self) -> None:
        self._is_stopping = True
        for _ in self._threads:
            self._queue.put(None)
        for thread, end in zip(self._threads, self._ends, strict=True):
            if thread.is_alive():
                await end

    def _work(self, view: View, end: asyncio.Future[Any]) -> None:
        try:
            while (request := self._queue.get()) is not None:
                look, future = request
                if not future.cancelled():
                    self._call(self._settle, future, *self._have(view, look))
                else:
                    self._call(self._settle, future, None, None)
        finally:
            self._call(end.set_result, None)

    def _have(self, view: View, look: Callable[[View], Any]) -> tuple[Any, Exception | None]:
        try:
            # as before a write: what a deleted file says is old from now on
            self._identity.check()
            view.begin()
            try:
                return (look(view), view.over), None
            finally:
                # a snapshot that stays open keeps the log from being cut, for everybody
                view.end()
        except apsw.Error as error:
            return None, meaning(error, self._path)
        except UnicodeEncodeError as error:
            return None, no_text(error)
        except Exception as error:
            return None, error

    def _settle(self, future: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
        self._waiting -= 1
        if future.done():
            return
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the event loop is gone, nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)
