"""An event loop in a thread of its own, for programs that have none: Flask, Celery, Django,
scripts, notebooks.

One thread for one face: what was opened on a loop belongs to it, so a loop per call could not keep
a connection.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncIterable, Callable, Coroutine, Iterator
from contextlib import suppress
from functools import update_wrapper
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from turnkeep.errors import ConfigurationError

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")

AT_EXIT = 5.0
"""Seconds that what is open has to end when the program ends without `close`."""


class BackgroundLoop:
    """Runs coroutines in its thread, which begins with the first one and ends with `close`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._process = 0
        self._starting = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether something was run in it here, and it is not closed."""
        return self._thread is not None and os.getpid() == self._process

    def wait(self, work: Coroutine[Any, Any, R]) -> R:
        """The result of a coroutine, or what it raises.

        Raises `ConfigurationError` in its own thread, and in a process that was forked from the one
        in which it began.
        """
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._begin())
        except BaseException:
            work.close()
            raise
        try:
            return future.result()
        # Also an interrupt from the keyboard: what nobody waits for must not go on.
        except BaseException:
            future.cancel()
            raise

    def iterate(self, source: AsyncIterable[R]) -> Iterator[R]:
        """An asynchronous iterator, read one by one; leaving it early closes it."""
        iterator = aiter(source)
        try:
            while True:
                with suppress(StopAsyncIteration):
                    yield self.wait(_next_of(iterator))
                    continue
                return
        finally:
            if (close := getattr(iterator, "aclose", None)) is not None and self.is_open:
                self.wait(close())

    def close(self) -> None:
        """End the thread; what still runs in it is cancelled. Safe to repeat."""
        with self._starting:
            loop, thread, self._thread = self._loop, self._thread, None
        atexit.unregister(self.close)
        if loop is None or thread is None or os.getpid() != self._process:
            return
        with suppress(RuntimeError):  # it has ended by itself
            loop.call_soon_threadsafe(loop.stop)
        thread.join(AT_EXIT)

    def _begin(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._start()
            if os.getpid() != self._process:
                raise ConfigurationError(
                    f"{self._name} was opened before this process was forked: threads and connections stay behind, "
                    "so make one in each process, after the fork"
                )
            if self._thread is None:
                raise ConfigurationError(f"{self._name} is closed, make a new one")
            if threading.current_thread() is self._thread:
                raise ConfigurationError(f"{self._name} is called from its own event loop: await the asynchronous one")
            return self._loop  # type: ignore[return-value]  # it was started above

    def _start(self) -> None:
        self._process, self._loop = os.getpid(), asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name=self._name, daemon=True)
        self._thread.start()
        # A daemon would be cut off in the middle of a write to a file that is just being closed.
        atexit.register(self.close)


async def _next_of(iterator: Any) -> Any:
    return await anext(iterator)


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """As `asyncio.run` ends a program: cancel all that is left, and wait for it."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


class Blocking(Generic[S, P, R]):
    """A method of a face that waits for the same method of what stands behind it.

    The class around has `_inner`, what stands behind it, and `_background`, its loop. So every
    method has one signature and one docstring, written once.
    """

    def __init__(self, method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]]) -> None:
        self._method = method
        update_wrapper(self, method)  # type: ignore[arg-type]  # its name and docstring are what is wanted

    def __get__(self, face: Any, owner: Any) -> Callable[P, R]:
        if face is None:
            return self  # type: ignore[return-value]  # on the class: for documentation

        def call(*args: P.args, **options: P.kwargs) -> R:
            result: R = face._background.wait(self._method(face._inner, *args, **options))
            return result

        return update_wrapper(call, self._method)
