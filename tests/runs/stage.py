"""Where a run is played: a memory store that stumbles, a model that says its script, a meter that notes."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

from tests.runs.moved_time import LoopClock
from turnkeep.assistants import Assistants
from turnkeep.backoff import Backoff
from turnkeep.errors import Rejection, TurnkeepError
from turnkeep.events import Event, TurnFault
from turnkeep.messages import Address, AssistantItem, CallItem, Item, Message, text_content
from turnkeep.models.capabilities import ContextSizes
from turnkeep.models.model import Began, Delta, Finish, ItemDone, Model, ModelRequest, StreamPart
from turnkeep.pricing.catalog import Catalog
from turnkeep.pricing.prices import PriceBook
from turnkeep.runs.activity import Activity, Cell, read_series
from turnkeep.runs.announcer import Announcer, Disclosure
from turnkeep.runs.budget import Budgets
from turnkeep.runs.journal import Journal
from turnkeep.runs.lease import Lease
from turnkeep.runs.outcomes import Verdict
from turnkeep.runs.run import Run, while_held
from turnkeep.runs.run_context import RunContext, RunRules
from turnkeep.runs.worker import Keeper, LeaseRules
from turnkeep.store.contract import EventGap
from turnkeep.store.memory import MemoryStore
from turnkeep.store.shared_ledger import Circuit
from turnkeep.store.values import (
    Claim,
    Commit,
    Directive,
    Document,
    FailOutcome,
    Failure,
    HeldCall,
    Page,
    Policies,
    Policy,
    Publication,
    Record,
    RegistryKind,
    Remainder,
    Stop,
    top_of,
)
from turnkeep.testing.fake_clock import counting_ids
from turnkeep.tools.toolbox import Registrable, Toolbox
from turnkeep.usage import Usage

T = TypeVar("T")

HERE = Address("default", "assistant", "c")
MODEL = "model-1"
LEASE = LeaseRules(duration=3600.0)
"""Longer than any run: here nobody renews it."""
SOON = Backoff(delay=5.0, jitter=False)
RULES = RunRules(
    deadline=300.0,
    max_attempts=3,
    max_deaths=2,
    backoff=SOON,
    probe_every=30.0,
    reconnect=Backoff(delay=2.0, cap=15.0, jitter=False),
    rate_limit_pause=Backoff(delay=1.0, cap=60.0, jitter=False),
    action_expiry=100.0,
)
ONE = Usage(requests=1, input_tokens=10, output_tokens=2)

CATALOG = Catalog.load()
"""Read once: a test that changes nothing of it need not wait for it."""


# ---------------------------------------------------------------- the model

Act = Callable[[], Awaitable[object] | object]
Line = StreamPart | Exception | float | Act
"""One line of a script: a part of the stream, an error, seconds of silence, or something that happens meanwhile."""


def words(*pieces: str) -> list[Line]:
    return [Delta(piece) for piece in pieces]


def says(text: str, *, reason: Any = "stop", usage: Usage = ONE, response_id: str | None = None) -> list[Line]:
    """One step that says this, piece by piece."""
    pieces = [Delta(piece) for piece in re.findall(r"\S+\s*", text)]
    return [Began(response_id), *pieces, ItemDone(AssistantItem(text)), Finish(reason, usage)]


def asks(*calls: tuple[str, str, str], text: str = "") -> list[Line]:
    """One step that asks for tools: (call id, name, arguments)."""
    said: list[Line] = [Delta(text), ItemDone(AssistantItem(text))] if text else []
    return [Began(None), *said, *(ItemDone(CallItem(*call)) for call in calls), Finish("calls", ONE)]


class ScriptedModel:
    """Says one part of its script at each request; what it was asked is in `requests`."""

    def __init__(self, *script: Sequence[Line], endpoint: str = "there") -> None:
        self.endpoint = endpoint
        self.script = deque(script)
        self.requests: list[ModelRequest] = []
        self.aborts = 0
        """Streams that nobody read to their end."""

    async def stream(self, request: ModelRequest) -> AsyncGenerator[StreamPart, None]:
        self.requests.append(request)
        lines = self.script.popleft() if self.script else says("answer")
        try:
            for line in lines:
                if isinstance(line, Exception):
                    raise line
                if isinstance(line, float):
                    await asyncio.sleep(line)
                elif callable(line):
                    outcome = line()
                    if isinstance(outcome, Awaitable):
                        await outcome
                else:
                    yield line
        except (GeneratorExit, asyncio.CancelledError):
            self.aborts += 1
            raise

    async def close(self) -> None:
        return


class BackgroundScript(ScriptedModel):
    """One whose provider works alone, and says what a stopped response has cost."""

    in_background = True

    def __init__(self, *script: Sequence[Line], costs: Usage | Exception | float | None = None) -> None:
        super().__init__(*script)
        self.costs = costs
        self.cancellations: list[str] = []

    async def cancel(self, response_id: str) -> Usage | None:
        self.cancellations.append(response_id)
        if isinstance(self.costs, Exception):
            raise self.costs
        if isinstance(self.costs, float):
            await asyncio.sleep(self.costs)
            return None
        return self.costs


# ---------------------------------------------------------------- the store


@dataclass(frozen=True, slots=True)
class LostReply:
    """It happened, and the reply was lost."""

    error: Exception


Stumble = Exception | LostReply | float | None
"""Raise before it happens, or after it; wait so long before; go well."""


async def outcome(act: Awaitable[int]) -> int | Exception:
    """What `publish_many` says of one publication."""
    try:
        return await act
    except (TurnkeepError, EventGap) as refusal:
        return refusal


class StumblingStore(MemoryStore):
    """Meets what was laid in its way (`stumbles`), operation by operation; notes each request."""

    def __init__(self, policy: Policy, clock: LoopClock) -> None:
        super().__init__(Policies(policy), clock=clock, ids=counting_ids())
        self.stumbles: defaultdict[str, deque[Stumble]] = defaultdict(deque)
        self.requests: list[tuple[str, Any]] = []
        self.expiries: deque[int] = deque()
        """What `expire` says it has deleted, the next times."""
        self.publications: list[int] = []
        """How many claims each publication was of."""
        self.page = 1000
        """Events that a page holds at most."""

    async def _meet(self, name: str, about: Any, act: Callable[[], Awaitable[T]]) -> T:
        self.requests.append((name, about))
        stumble = self.stumbles[name].popleft() if self.stumbles[name] else None
        if isinstance(stumble, Exception):
            raise stumble
        if isinstance(stumble, float):
            await asyncio.sleep(stumble)
        outcome = await act()
        if isinstance(stumble, LostReply):
            raise stumble.error
        return outcome

    async def journal(self, claim: Claim, records: Sequence[Record]) -> None:
        await self._meet("journal", list(records), lambda: super(StumblingStore, self).journal(claim, records))

    async def publish_many(self, publications: Sequence[Publication]) -> list[int | Exception]:
        """Each meets its own stumble; one that is slow holds up those it goes with."""
        self.publications.append(len(publications))
        return [await outcome(self._publish_one(one)) for one in publications]

    async def _publish_one(self, one: Publication) -> int:
        about = (one.n, list(one.events))
        return top_of(await self._meet("publish", about, lambda: super(StumblingStore, self).publish_many([one])))

    async def read(self, address: Address, *, after: int = 0, limit: int = 1000) -> Page:
        limit = min(limit, self.page)
        return await self._meet(
            "read", (after, limit), lambda: super(StumblingStore, self).read(address, after=after, limit=limit)
        )

    async def offer_steering(self, claim: Claim) -> list[Message]:
        return await self._meet("offered", None, lambda: super(StumblingStore, self).offer_steering(claim))

    async def commit(self, claim: Claim, commit: Commit) -> Remainder:
        return await self._meet("commit", commit, lambda: super(StumblingStore, self).commit(claim, commit))

    async def fail(self, claim: Claim, failure: Failure) -> FailOutcome:
        return await self._meet("fail", failure, lambda: super(StumblingStore, self).fail(claim, failure))

    async def release(self, claim: Claim, *, delay: float = 0.0, reason: TurnFault | None = None) -> None:
        await self._meet(
            "release", delay, lambda: super(StumblingStore, self).release(claim, delay=delay, reason=reason)
        )

    async def hold(
        self, claim: Claim, calls: Sequence[HeldCall], *, expires_in: float, published_count: int = 0
    ) -> None:
        await self._meet(
            "hold",
            expires_in,
            lambda: super(StumblingStore, self).hold(
                claim, calls, expires_in=expires_in, published_count=published_count
            ),
        )

    async def claim(self, *, owner: str, limit: int, lease: float, queues: Sequence[str] | None = None) -> list[Claim]:
        return await self._meet(
            "claim",
            (limit, queues),
            lambda: super(StumblingStore, self).claim(owner=owner, limit=limit, lease=lease, queues=queues),
        )

    async def begin(self, messages: Sequence[Message], *, owner: str, lease: float) -> Claim:
        return await self._meet(
            "begin", None, lambda: super(StumblingStore, self).begin(messages, owner=owner, lease=lease)
        )

    async def renew(
        self, owner: str, claims: Sequence[Claim], *, lease: float, once: str | None = None
    ) -> dict[str, Directive]:
        return await self._meet(
            "renew", len(claims), lambda: super(StumblingStore, self).renew(owner, claims, lease=lease)
        )

    async def wait_nudge(self, owner: str, *, timeout: float) -> set[Address]:
        return await self._meet(
            "nudged", timeout, lambda: super(StumblingStore, self).wait_nudge(owner, timeout=timeout)
        )

    async def ready(self, *, queues: Sequence[str] | None, timeout: float) -> bool:
        return await self._meet(
            "ready", timeout, lambda: super(StumblingStore, self).ready(queues=queues, timeout=timeout)
        )

    async def expire(self, *, limit: int = 100) -> int:
        gone = await self._meet("expire", None, lambda: super(StumblingStore, self).expire(limit=limit))
        return self.expiries.popleft() if self.expiries else gone

    async def put(
        self, kind: RegistryKind, tenant: str, name: str, body: Mapping[str, Any], *,
        version: int | None = None, ttl: float | None = None, once: str | None = None,
    ) -> Document:  # fmt: skip
        options: dict[str, Any] = {"version": version, "ttl": ttl, "once": once}

        def write() -> Awaitable[Document]:
            return super(StumblingStore, self).put(kind, tenant, name, body, **options)

        # What is written of runs alone: who lays something in the way of it means no assistant.
        return await self._meet("put", name, write) if kind == "activity" else await write()

    async def circuits(self) -> list[Circuit]:
        return await self._meet("circuits", None, super().circuits)

    async def slow_down(self, key: str, seconds: float, *, once: str | None = None) -> None:
        await self._meet(
            "slow_down", (key, seconds, once), lambda: super(StumblingStore, self).slow_down(key, seconds, once=once)
        )

    async def trip(self, endpoint: str, fault: TurnFault, *, probe_in: float, once: str | None = None) -> Circuit:
        return await self._meet(
            "trip",
            (endpoint, probe_in, once),
            lambda: super(StumblingStore, self).trip(endpoint, fault, probe_in=probe_in, once=once),
        )

    async def probe(self, endpoint: str, *, every: float, once: str | None = None) -> bool:
        return await self._meet(
            "probe", (endpoint, every), lambda: super(StumblingStore, self).probe(endpoint, every=every, once=once)
        )

    def about(self, name: str) -> list[Any]:
        """What this operation was asked, each time."""
        return [about for operation, about in self.requests if operation == name]


# ---------------------------------------------------------------- the meter


@dataclass
class NotingMeter:
    """Every measurement, as it was taken."""

    counts: list[tuple[str, float, dict[str, str]]] = field(default_factory=list)
    observations: list[tuple[str, float, dict[str, str]]] = field(default_factory=list)
    watches: dict[str, Callable[[], float]] = field(default_factory=dict)

    def count(self, name: str, value: float = 1, **labels: str) -> None:
        self.counts.append((name, value, labels))

    def observe(self, name: str, value: float, **labels: str) -> None:
        self.observations.append((name, value, labels))

    def watch(self, name: str, gauge: Callable[[], float], **labels: str) -> Callable[[], None]:
        self.watches[name] = gauge
        return lambda: self.watches.__delitem__(name)

    def total(self, name: str, **labels: str) -> float:
        return sum(value for one, value, with_ in self.counts if one == name and labels.items() <= with_.items())

    def observed(self, name: str) -> list[float]:
        return [value for one, value, _ in self.observations if one == name]


# ---------------------------------------------------------------- the stage


class Stage:
    """One channel, one owner and what its runs share. Windows are 0: what is said can be claimed at once."""

    def __init__(
        self,
        *script: Sequence[Line],
        model: ScriptedModel | None = None,
        others: Sequence[ScriptedModel] = (),
        tools: Sequence[Registrable] = (),
        catch_all: Any = None,
        rules: RunRules = RULES,
        policy: Policy = Policy(window=0.0, max_wait=0.0),
        fallbacks: Sequence[str] = (),
        purse: Callable[[StumblingStore], Budgets] | None = None,
        prices: PriceBook | None = None,
        lease: LeaseRules = LEASE,
        has_activity: bool = False,
    ) -> None:
        self.clock = LoopClock()
        self.store = StumblingStore(policy, self.clock)
        self.model = model or ScriptedModel(*script)
        self.models: dict[str, Model] = {MODEL: self.model, **{other.endpoint: other for other in others}}
        self.meter = NotingMeter()
        self.assistants = Assistants(self.store, model=MODEL)
        self.fallbacks = tuple(fallbacks)
        self.house = RunContext(
            self.store,
            self.models.__getitem__,
            self.assistants,
            Toolbox(tools, handle_requires_action=catch_all),
            CATALOG,
            prices or PriceBook(),
            rules,
            clock=self.clock,
            meter=self.meter,
            budgets=purse(self.store) if purse else None,
            contexts=ContextSizes(),
            activity=Activity(self.store) if has_activity else None,
        )
        self.house.load()  # a thread takes no time that moves
        self.keeper = Keeper(self.store, rules=lease, owner="worker-1")
        self.run: Run | None = None
        self.observations: list[Any] = []
        """What a witness of the last run was told."""

    async def say(self, message_id: str, text: str = "hello", where: Address = HERE, **fields: Any) -> None:
        [outcome] = await self.store.accept([Message(where, message_id, text_content(text), **fields)])
        if isinstance(outcome, Rejection):
            raise outcome

    async def assistant(self, **values: Any) -> None:
        """Who answers here from now on."""
        made = await self.assistants.create("default", values, now=self.clock.now())
        await self.assistants.use("default", made.assistant_id)

    async def lease(self, *message_ids: str, **changes: Any) -> Lease:
        """The claim of what waits, with these messages, as if it were so in these points."""
        for message_id in message_ids:
            await self.say(message_id)
        [lease] = await self.keeper.claim(10, None)
        lease.claim = replace(lease.claim, **changes)
        return lease

    async def perform(self, lease: Lease) -> Verdict:
        self.observations = []
        self.run = Run(self.house, lease, self.observations.append)
        try:
            async with publishing(self):
                return await self.run.perform()
        finally:
            self.keeper.leases.pop(lease.claim.token, None)

    async def play(self, *message_ids: str, **changes: Any) -> Verdict:
        """Say, claim and run; what came of it."""
        return await self.perform(await self.lease(*(message_ids or ("m1",)), **changes))

    async def stop_after(self, seconds: float, lease: Lease, stop: Stop = "cancel") -> None:
        await asyncio.sleep(seconds)
        lease.stop(stop)

    # ------------------------------------------------------------ looking

    async def events(self, where: Address = HERE, after: int = 0) -> list[Event]:
        return list((await MemoryStore.read(self.store, where, after=after, limit=100_000)).events)

    async def kinds(self, where: Address = HERE) -> list[str]:
        return [event.kind for event in await self.events(where)]

    async def transcript(self, where: Address = HERE) -> list[Item]:
        return [entry.item for entry in (await self.store.history(where)).entries]

    async def activity(self, tenant: str = "default") -> list[Cell]:
        """What is written down of the last hour, by minutes."""
        return [one.cell for one in await read_series(self.store, tenant, span="hour", now=self.clock.now())]

    async def status(self, message_id: str, where: Address = HERE) -> str:
        record = await self.store.message(where, message_id)
        assert record is not None, f"message {message_id!r} is not there"
        return record.status


@contextlib.asynccontextmanager
async def publishing(stage: Stage) -> AsyncIterator[None]:
    """What runs say is published, as it is in a worker."""
    task = asyncio.get_running_loop().create_task(stage.house.publisher.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def lease_of_nobody() -> Lease:
    """For what asks whether it has ended, and not whose it is."""
    return Lease(None, 0.0, 0.0)  # type: ignore[arg-type]  # no claim


async def reason_of(ending: Announcer | Lease) -> NoReturn:
    """Wait until there is a reason to end the work, and raise it."""
    if isinstance(ending, Lease):
        lease = ending
    else:
        lease = lease_of_nobody()
        ending.watch(lease.interrupt)
    with while_held(lease):
        await asyncio.get_running_loop().create_future()
    raise AssertionError("nothing was told")


def journal_of(stage: Stage, claim: Claim, **options: Any) -> Journal:
    return Journal(stage.store, claim, **options)


def announcer_of(stage: Stage, claim: Claim, **options: Any) -> Announcer:
    return Announcer(stage.house.publisher, claim, **options)


def disclosure_of(stage: Stage, announcer: Announcer, **fields: Any) -> Disclosure:
    assistant = replace(stage.assistants.blank, **fields)
    return Disclosure(announcer, announcer._claim, stage.house.toolbox, assistant)
