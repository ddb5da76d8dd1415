"""A machine made of one thread: an event loop whose time is a number, and processes on it that can be killed.

Time moves only when nobody has anything left to do, so hours pass in moments and a run depends on nothing but its
seed. What a process does is known by the context in which it was started, so one that is frozen or killed stops
between two steps of its tasks, wherever they are: no handler of an exception and no `finally` runs.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, Literal, TypeVar

T = TypeVar("T")

_running: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Died(BaseException):
    """the process was killed in the middle of a step"""


class Process:
    """Tasks that live and die together."""

    def __init__(self, loop: VirtualLoop, name: str) -> None:
        self.name = name
        self.state: Literal["running", "frozen", "dead", "buried"] = "running"
        self.thawed_at = 0.0
        self._loop = loop
        self._stopped: deque[_Step] = deque()
        self._at_death: list[Callable[[], None]] = []
        self._context = contextvars.copy_context()
        self._context.run(_running.set, self)

    @classmethod
    def current(cls) -> Process | None:
        """The one whose step this is."""
        return _running.get()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """One more task of this process; those that it starts are of this process too."""
        return self._loop.create_task(work, context=self._context)

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Nobody waits for this task."""
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    def at_death(self, act: Callable[[], None]) -> None:
        """What the rest of the world notices when this process is killed."""
        self._at_death.append(act)

    def freeze(self) -> None:
        if self.state == "running":
            self.state = "frozen"

    def thaw(self) -> None:
        if self.state == "frozen":
            self.state, self.thawed_at = "running", self._loop.time()
            self._loop.resume(self._stopped)

    def kill(self) -> None:
        if self.state != "dead":
            self.state = "dead"
            for act in self._at_death:
                act()

    def bury(self) -> None:
        """Let what was stopped go on, to be cancelled: only at the end of the world."""
        self.state = "buried"
        self._loop.resume(self._stopped)

    def stop(self, step: _Step) -> None:
        self._stopped.append(step)


class _Step:
    """One callback of the loop, and whose it is."""

    __slots__ = ("handle", "process")

    def __init__(self, handle: asyncio.Handle, process: Process | None) -> None:
        self.handle = handle
        self.process = process


MOST_STEPS = 300_000
"""A storm takes fewer than 100,000; what goes round without a moment passing would do so for ever."""


class VirtualLoop(asyncio.AbstractEventLoop):
    """Runs callbacks in the order in which they were asked for, and jumps to the next timer when there are none."""

    def __init__(self) -> None:
        self._now = 0.0
        self._ready: deque[_Step] = deque()
        self._timers: list[tuple[float, int, _Step]] = []
        self._order = count()
        self._stopping = False
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self.steps = 0
        self.broken: list[str] = []
        """What went wrong where nobody was there to catch it."""

    def time(self) -> float:
        return self._now

    # ------------------------------------------------------------ what asyncio asks of a loop

    def call_soon(  # type: ignore[override]  # as much as is needed
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        context = context or contextvars.copy_context()
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(_Step(handle, context.get(_running)))
        return handle

    def call_later(  # type: ignore[override]  # as much as is needed
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]  # as much as is needed
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        context = context or contextvars.copy_context()
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._timers, (when, next(self._order), _Step(handle, context.get(_running))))
        return handle

    def call_soon_threadsafe(  # type: ignore[override]  # as much as is needed
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Any = None, **_: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        self._tasks[task] = None
        task.add_done_callback(self._forget)
        return task

    def run_in_executor(  # type: ignore[override]  # as much as is needed
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """There are no threads: it is done at once."""
        done = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, Died):
            self.broken.append(f"{context.get('message')}: {error!r}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Nothing to do: cancelled timers are passed over when their time comes."""

    # ------------------------------------------------------------ running

    def run_until_complete(self, future: Any) -> Any:
        """Run until this task is done; RuntimeError when nothing would ever happen again before that, or no end."""
        task = future if asyncio.isfuture(future) else self.create_task(future)
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            while not task.done():
                self._turn()
                if self.steps > MOST_STEPS:
                    raise RuntimeError(f"no end after {self.steps} steps: somebody goes round and round")
        finally:
            asyncio._set_running_loop(before)
        return task.result()

    def resume(self, steps: deque[_Step]) -> None:
        self._ready.extend(steps)
        steps.clear()

    def end(self) -> None:
        """Cancel every task and let it end."""

        async def ended() -> None:
            for _ in range(100):
                for task in list(self._tasks):
                    if task is not mine:
                        task.cancel()
                for _ in range(100):
                    await asyncio.sleep(0)

        mine = self.create_task(ended())
        self.run_until_complete(mine)

    def _turn(self) -> None:
        if not self._ready:
            self._sleep()
        for _ in range(len(self._ready)):
            step = self._ready.popleft()
            if step.handle.cancelled():
                continue
            if step.process is not None and step.process.state in ("frozen", "dead"):
                step.process.stop(step)
                continue
            self.steps += 1
            step.handle._run()

    def _sleep(self) -> None:
        """Go to the next timer."""
        while self._timers and self._timers[0][2].handle.cancelled():
            heapq.heappop(self._timers)
        if not self._timers:
            raise RuntimeError("every task waits, and no timer will ever wake one")
        self._now = max(self._now, self._timers[0][0])
        while self._timers and self._timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(self._timers)[2])

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()
