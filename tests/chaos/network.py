"""The way between a process and the store, in the virtual machine: slow, out of order, and now and then cut."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.chaos.standby import Standby
from tests.chaos.virtual import Process
from turnkeep.errors import LeaseLost, OutcomeUnknown, StoreUnavailable
from turnkeep.messages import Address
from turnkeep.store.contract import Follower
from turnkeep.store.memory import MemoryStore
from turnkeep.store.redis.durability import DURABLE_SCRIPTS
from turnkeep.store.values import Notice

REPLY_TIMEOUT = 1.0
"""Seconds after which a client believes that its reply is lost."""

Reply = asyncio.Future[Any]


@dataclass(frozen=True, slots=True)
class Weather:
    """How likely it is that something happens to one request, and how long one way takes at most."""

    delay: float = 0.004
    lost_request: float = 0.004
    lost_reply: float = 0.012
    late_request: float = 0.006
    lost_hint: float = 0.05
    latest: float = 3.0
    """Seconds after which a late request still arrives, when its sender has given it up long ago."""


CLEAR = Weather(lost_request=0.0, lost_reply=0.0, late_request=0.0, lost_hint=0.0)


class Network:
    """All ways to one store. It carries requests on even when their sender is dead."""

    def __init__(self, store: MemoryStore, source: random.Random, weather: Weather) -> None:
        self.store = store
        self.weather = weather
        self.fenced = 0
        """Writes that the store refused because their lease was lost."""
        self.is_down = False
        self.failovers: list[float] = []
        """When they were."""
        self._standby: Standby | None = None
        self._source = source
        self._context = contextvars.copy_context()
        self._replies: dict[Reply, None] = {}

    def go_down(self) -> None:
        """The store is gone with all that was on its way; what it has acknowledged it keeps."""
        self.is_down = True
        self._refuse_all("the store went down before it replied")

    def _refuse_all(self, why: str) -> None:
        for reply in list(self._replies):
            _refuse(reply, OutcomeUnknown(why))

    def come_up(self) -> None:
        self.is_down = False

    # As with the durability `strict` of Redis: from `lose_replica` on nothing that is vouched for gets an answer, and
    # with `fail_over` all that happened since is gone.

    def lose_replica(self) -> None:
        """The replica hears nothing any more."""
        self._standby = self._standby or Standby(self.store)

    def fail_over(self) -> None:
        """The replica takes the place of the store, with what it had heard."""
        if self._standby is not None:
            self.failovers.append(asyncio.get_running_loop().time())
            self._standby.take_over(len(self.failovers))
            self._standby = None
            self._refuse_all("another server took the place of the store")

    def one_way(self) -> float:
        return self._source.uniform(0.0, self.weather.delay)

    def happens(self, chance: float) -> bool:
        return self._source.random() < chance

    def carry(self, name: str, act: Callable[[], Coroutine[Any, Any, Any]], reply: Reply, patience: float) -> None:
        """Take a request to the store, in its own time; whoever has sent it waits for `reply`, or does not."""
        loop, weather, when = asyncio.get_running_loop(), self.weather, self.one_way()
        self._replies[reply] = None
        reply.add_done_callback(lambda done: self._replies.pop(done, None))
        if self.happens(weather.lost_request):
            loop.call_later(when, _refuse, reply, StoreUnavailable(f"{name} did not reach the store"))
            return
        answers = not self.happens(weather.lost_reply)
        if self.happens(weather.late_request):
            answers, when, patience = False, self._source.uniform(0.0, weather.latest), when
        if not answers:
            loop.call_later(patience, _refuse, reply, OutcomeUnknown(f"the reply to {name} was lost"))
        loop.call_later(when, self._arrive, name, act, reply, answers, context=self._context)

    def _arrive(self, name: str, act: Callable[[], Coroutine[Any, Any, Any]], reply: Reply, answers: bool) -> None:
        if self.is_down:
            _refuse(reply, StoreUnavailable("there is no store"))
            return
        task = asyncio.get_running_loop().create_task(act(), context=self._context)
        task.add_done_callback(lambda done: self._answer(name, done, reply, answers))

    def _answer(self, name: str, done: asyncio.Task[Any], reply: Reply, answers: bool) -> None:
        answers = answers and not (self._standby is not None and name in DURABLE_SCRIPTS)
        if isinstance(done.exception(), LeaseLost):
            self.fenced += 1
        if answers:
            asyncio.get_running_loop().call_later(self.one_way(), _pass_on, done, reply, context=self._context)


def _refuse(reply: Reply, error: Exception) -> None:
    if not reply.done():
        reply.set_exception(error)
        reply.exception()


def _pass_on(done: asyncio.Task[Any], reply: Reply) -> None:
    if (error := done.exception()) is not None:
        _refuse(reply, error if isinstance(error, Exception) else RuntimeError(repr(error)))
    elif not reply.done():
        reply.set_result(done.result())


class Link:
    """A `Store` as one process sees it."""

    def __init__(self, network: Network, process: Process) -> None:
        self._network = network
        self._process = process
        self.is_cut = False
        """Nothing goes through; whoever asks is told so after a while."""
        self.engine = network.store.engine

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._network.store, name)
        if name in ("follow", "scan"):
            return operation

        async def sent(*args: Any, **options: Any) -> Any:
            while self._process.state == "frozen":
                await asyncio.sleep(0)  # goes on when it is thawed
            if self._process.state in ("dead", "buried"):
                raise StoreUnavailable("there is nobody any more who asks")
            reply: Reply = asyncio.get_running_loop().create_future()
            if self.is_cut:
                error = StoreUnavailable(f"{name} went nowhere")
                asyncio.get_running_loop().call_later(REPLY_TIMEOUT, _refuse, reply, error)
            else:
                patience = REPLY_TIMEOUT + options.get("timeout", 0.0)
                self._network.carry(name, lambda: operation(*args, **options), reply, patience)
            return await reply

        setattr(self, name, sent)
        return sent

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[Follower]:
        async with self._network.store.follow() as follower:
            yield _Following(follower, self)

    def loses_hint(self) -> bool:
        return self.is_cut or self._network.happens(self._network.weather.lost_hint)

    async def pause(self) -> None:
        await asyncio.sleep(self._network.one_way())


class _Following:
    """A follower at the end of a way: hints come late, or never."""

    def __init__(self, follower: Follower, link: Link) -> None:
        self._follower = follower
        self._notices = aiter(follower)
        self._link = link

    async def add(self, address: Address) -> None:
        await self._link.pause()
        await self._follower.add(address)
        await self._link.pause()

    async def discard(self, address: Address) -> None:
        await self._follower.discard(address)

    def __aiter__(self) -> AsyncIterator[Notice]:
        return self

    async def __anext__(self) -> Notice:
        while True:
            notice = await anext(self._notices)
            await self._link.pause()
            if not self._link.loses_hint():
                return notice
