"""Threads for functions that block: a fixed number of them, shared by all tools of the process.

A call that nobody waits for any more (timed out, cancelled) keeps its thread until it returns, so
that hanging functions use up threads instead of making new ones. The threads are daemons: they do
not hold up the exit.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from turnkeep.lean_dataclass import dataclass

Result = TypeVar("Result")

LIMIT = 32


@dataclass(frozen=True, slots=True)
class _Job:
    future: Future[Any]
    function: Callable[[], Any]
    variables: contextvars.Context


# Not concurrent.futures: at exit it waits for its threads, and a tool may hang for ever.
class ThreadPool:
    """Runs blocking functions.

    What waits is bounded by the callers: each of them waits for its own result.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._jobs: queue.SimpleQueue[_Job] = queue.SimpleQueue()
        self._guard = threading.Lock()
        self._threads = 0
        self._pending = 0

    async def run(self, function: Callable[[], Result]) -> Result:
        """The function's result.

        When the caller is cancelled, a function that has not begun is dropped.
        """
        future: Future[Result] = Future()
        self._jobs.put(_Job(future, function, contextvars.copy_context()))
        self._start_one()
        return await asyncio.wrap_future(future)

    def _start_one(self) -> None:
        with self._guard:
            self._pending += 1
            if self._threads >= min(self._limit, self._pending):
                return
            self._threads += 1
        threading.Thread(target=self._work, name="turnkeep-tool", daemon=True).start()

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job.future.set_running_or_notify_cancel():
                _settle(job)
            with self._guard:
                self._pending -= 1


def _settle(job: _Job) -> None:
    try:
        result = job.variables.run(job.function)
    except StopIteration as error:
        # a future cannot hold it
        job.future.set_exception(RuntimeError("the function raised StopIteration").with_traceback(error.__traceback__))
    except BaseException as error:  # the caller decides what it means
        job.future.set_exception(error)
    else:
        job.future.set_result(result)


shared_threads = ThreadPool()
"""The threads of this process's tools."""
