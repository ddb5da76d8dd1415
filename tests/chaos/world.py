"""A whole house in the virtual machine: the real doors, hub, workers and runs, in processes that are killed.

`simulate` plays one storm. Only the machine around the code is played: time, the way to the store, the model's
connection, the deaths. The store is the memory engine, whose single acts cannot be torn.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tests.chaos.actor import Actor, Temper
from tests.chaos.doorway import Gateway
from tests.chaos.judge import Books, ChannelLog, Deed, Judgement, judge
from tests.chaos.network import CLEAR, Link, Network, Weather
from tests.chaos.people import EDITED, Door, Editor, Gone, Listener, Sender
from tests.chaos.plan import Conduct, message
from tests.chaos.virtual import Died, Process, VirtualLoop
from tests.contract.leaps import LEAPS
from turnkeep import failpoints
from turnkeep.assistants import Assistants
from turnkeep.backoff import Backoff
from turnkeep.doors.app import app
from turnkeep.messages import Address, Item
from turnkeep.pricing.catalog import Catalog
from turnkeep.pricing.prices import PriceBook
from turnkeep.queue import AssistantMessageQueue
from turnkeep.runs.run_context import RunContext, RunRules
from turnkeep.runs.worker import LeaseRules, Worker, WorkerRules
from turnkeep.settings import Settings
from turnkeep.simulator.exchanges import ExchangeLedger
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Policies, Policy
from turnkeep.testing.fake_clock import START, counting_ids
from turnkeep.tools.tool import Tool, ToolContext, tool
from turnkeep.tools.toolbox import Toolbox

MODEL = "gpt-4.1"
GRACE = 0.5
"""Seconds that work may outlast its lease: a step that had begun."""

GLANCE = 0.1
"""Seconds between two looks at who holds a lease."""

DEATHS: Mapping[str, float] = {
    "claimed": 0.02, "asked": 0.02, "midstream": 0.004, "called": 0.03,
    "tool_started": 0.08, "tool_done": 0.08, "final": 0.03, "committed": 0.02,
}  # fmt: skip
STUNS: Mapping[str, float] = {
    "asked": 0.1, "midstream": 0.004, "called": 0.05, "tool_started": 0.1, "tool_done": 0.1, "final": 0.2,
}  # fmt: skip


WEATHER, TEMPER = Weather(), Temper()

ACTS = (
    "kill_worker", "kill_worker", "freeze_worker", "cut_worker", "drain_worker", "kill_gateway", "freeze_gateway",
    "cut_gateway", "cut_sockets", "stop_store", "cancel_somebody", "set_clock",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything. Times in virtual seconds. `slow` is the share of answers that let wait for themselves."""

    channels: int = 6
    messages: int = 6
    workers: int = 3
    gateways: int = 2
    lease: float = 2.0
    storm: float = 12.0
    calm: float = 120.0
    slow: float = 0.1
    weather: Weather = WEATHER
    temper: Temper = TEMPER
    blow: Literal["kill", "freeze"] = "kill"
    """What a failpoint does to its process, and how likely."""
    blows: Mapping[str, float] = field(default_factory=lambda: DEATHS)
    acts: tuple[str, ...] = ACTS


EVERYTHING = Plan()

ZOMBIES = Plan(
    lease=1.0,
    slow=0.5,
    weather=Weather(late_request=0.06, lost_reply=0.03),
    blow="freeze",
    blows=STUNS,
    acts=("freeze_worker", "cut_worker"),
)
"""Nobody dies: workers are frozen and cut off, and what they have sent arrives when others are at work already."""


FAILOVERS = Plan(acts=(*ACTS, "fail_over", "fail_over", "fail_over"))
"""The store is replaced by a replica that has not heard the last of it."""


def simulate(seed: int, plan: Plan | None = None) -> Judgement:
    """One storm, the same for the same seed, and its verdict."""
    loop = VirtualLoop()  # type: ignore[abstract]  # as much of a loop as is needed
    state = random.getstate()
    random.seed(seed)
    world = World(loop, seed, plan or Plan())
    try:
        books = loop.run_until_complete(world.run())
    finally:
        failpoints.arm({})
        world.end()
        random.setstate(state)
    return judge(books)


class _Clock:
    """The machine's clocks: a time of day that is set now and then, and seconds that pass."""

    origin = ""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.off = 0.0

    def now(self) -> float:
        return START + self._loop.time() + self.off

    def elapsed(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


@dataclass(slots=True)
class _Place:
    """A process that is started again whenever it has died, with its way to the store."""

    name: str
    process: Process
    link: Link
    lives: int = 1
    door: Gateway | None = None
    worker: Worker | None = None


class World:
    """One storm from beginning to end."""

    def __init__(self, loop: VirtualLoop, seed: int, plan: Plan) -> None:
        self._loop = loop
        self._plan = plan
        self._dice = random.Random(f"{seed} nemesis")
        self._seed = seed
        self._context = contextvars.copy_context()
        self._clock = _Clock(loop)
        self.store = MemoryStore(Policies(_policy()), clock=self._clock, ids=counting_ids())
        self.network = Network(self.store, self._source("network"), plan.weather)
        self.ledger = ExchangeLedger(self._clock)
        self.actor = Actor(self.ledger, self._source("model"), plan.temper, self._may_go_on)
        self.deeds: list[Deed] = []
        self._deaths = 0
        self._replaced_at = 0.0
        self._store_kills = 0
        self._leases: dict[tuple[str, str, str], float] = {}
        """When each was last good, by its owner, run and attempt: after a failover others count the attempts anew."""
        self._overruns: dict[tuple[str, str, str], str] = {}
        self._settings = Settings.load(
            store="memory:", channel_rate="0", user_rate="0", openai_base_url="http://127.0.0.1:1", max_inbox=1000
        )
        self._catalog, self._prices = Catalog.load(), PriceBook()
        self._workers: list[_Place] = []
        self._gateways: list[_Place] = []
        self._everybody: list[Process] = []
        self._cancelling: list[asyncio.Task[None]] = []

    def _source(self, name: str) -> random.Random:
        return random.Random(f"{self._seed} {name}")

    # ------------------------------------------------------------ one storm

    async def run(self) -> Books:
        failpoints.arm(self._plan.blows, act=self._struck, seed=self._seed)
        self._workers = [self._new(f"worker-{n}") for n in range(self._plan.workers)]
        self._gateways = [self._new(f"gateway-{n}") for n in range(self._plan.gateways)]
        for place in self._workers:
            self._start_worker(place)
        for place in self._gateways:
            self._start_gateway(place)
        senders, listeners = self._people()
        listening = [self._loop.create_task(listener.listen()) for listener in listeners]
        watching = self._loop.create_task(self._note_leases())
        sending = [self._loop.create_task(self._send(n, sender)) for n, sender in enumerate(senders)]
        editors = [Editor(name, self._any_gateway, self._source(f"editor {name}")) for name in "ab"]
        await editors[0].begin()
        editing = [self._loop.create_task(editor.edit()) for editor in editors]
        await self._rage()
        await self._heal()
        for task in editing:
            task.cancel()
        await editors[0].end()
        books = Books(senders, listeners, self.ledger, self.deeds, {})
        await self._quiet(books, sending)
        await self._close_books(books)
        for task in (*listening, *sending, watching):
            task.cancel()
        return books

    def end(self) -> None:
        """Let every task end, those of the dead too."""
        for process in self._everybody:
            process.bury()
        self._loop.end()

    def _people(self) -> tuple[list[Sender], list[Listener]]:
        count = self._plan.channels
        senders = [Sender(self._any_gateway, self._source(f"sender {n}")) for n in range(count * 2)]
        listeners = [Listener(f"c{n}", self._any_gateway, self._source(f"listener {n}")) for n in range(count)]
        return senders, listeners

    async def _send(self, place: int, sender: Sender) -> None:
        """One of two people of a channel; their messages come in bursts."""
        channel, person = f"c{place // 2}", "ab"[place % 2]
        source, plan = self._source(f"words {place}"), self._plan
        conduct = Conduct(most_words=25, slow=plan.slow, delays=(1000, 6000))
        pause = plan.storm / plan.messages * 1.6
        for number in range(plan.messages):
            await asyncio.sleep(source.uniform(0.0, pause) if source.random() < 0.6 else 0.0)
            await sender.send(message(channel, person, number, source, conduct=conduct))
            if source.random() < 0.1:
                await sender.send_again()

    async def _quiet(self, books: Books, sending: Sequence[asyncio.Task[None]]) -> None:
        """Wait until everything is answered and told, or nothing can be hoped for any more."""
        end = self._loop.time() + self._plan.calm
        while self._loop.time() < end:
            await asyncio.sleep(0.25)
            if all(task.done() for task in sending) and await self._is_settled(books):
                return

    async def _is_settled(self, books: Books) -> bool:
        if (await self.store.counts()).open_messages:
            return False
        ids = {message.message_id for sender in books.senders for message in sender.sent}
        told = {message_id for listener in books.listeners for message_id in listener.ends}
        return ids <= told

    async def _close_books(self, books: Books) -> None:
        log = await self.store.read(Address("default", "assistant", EDITED), limit=1_000_000)
        books.edits = [event.text for event in log.events if event.kind == "edited"]
        counts = await self.store.counts()
        books.dead, books.open = counts.dead_letters, counts.open_messages
        for number in range(self._plan.channels):
            address = Address("default", "assistant", f"c{number}")
            history = await self.store.history(address)
            items: list[Item] = [entry.item for entry in history.entries]
            books.transcripts[address.channel] = items
            books.logs[address.channel] = ChannelLog.of(await self.store.read(address, limit=1_000_000))
        books.fenced, books.deaths = self.network.fenced, self._deaths
        books.store_kills = self._store_kills + len(self.network.failovers)
        books.failovers = self.network.failovers
        books.overruns = list(self._overruns.values())
        books.broken = list(self._loop.broken)

    # ------------------------------------------------------------ processes

    def _new(self, name: str, lives: int = 1) -> _Place:
        process = Process(self._loop, f"{name}.{lives}")
        self._everybody.append(process)
        return _Place(name, process, Link(self.network, process), lives)

    def _any_gateway(self) -> Door:
        door = self._dice.choice(self._gateways).door
        assert door is not None
        return door

    def _start_worker(self, place: _Place) -> None:
        house = RunContext(
            place.link,  # type: ignore[arg-type]  # passes every operation of a store on
            lambda _: self.actor,
            Assistants(place.link, model=MODEL),
            Toolbox(self._tools()),
            self._catalog,
            self._prices,
            _rules(),
            clock=self._clock,
        )
        house.load()  # a thread takes no time that moves
        rules = WorkerRules(concurrency=4, drain=1.0, sweep_every=5.0)
        place.worker = Worker(house, rules=rules, lease=LeaseRules(self._plan.lease), owner=place.process.name)
        self._watch(place.process, place.process.start(place.worker.run()))

    def _start_gateway(self, place: _Place) -> None:
        queue = AssistantMessageQueue.from_settings(self._settings, store=place.link)  # type: ignore[arg-type]
        queue.clock = self._clock  # type: ignore[assignment]  # a clock
        self._watch(place.process, place.process.start(queue.hub.run()))
        source = self._source(place.process.name)
        place.door = Gateway(app(queue, own_application=False), place.process, source)
        place.door.broken = self._loop.broken

    def _watch(self, process: Process, task: asyncio.Task[None]) -> None:
        """A process that ends by itself, though nobody has killed it, is broken."""

        def ended(done: asyncio.Task[None]) -> None:
            if process.state == "running" and not done.cancelled() and (error := done.exception()) is not None:
                self._loop.broken.append(f"{process.name} ended with {error!r}")

        task.add_done_callback(ended)

    def _live_again(self, place: _Place) -> None:
        fresh = self._new(place.name, place.lives + 1)
        place.process, place.link, place.lives = fresh.process, fresh.link, fresh.lives
        if place.door is None:
            self._start_worker(place)
        else:
            self._start_gateway(place)

    def _struck(self, point: str) -> None:
        """What a failpoint does: its process ends, or stands still, in the middle of this step."""
        process = Process.current()
        if process is None:
            return
        if self._plan.blow == "kill":
            self._kill(process)
            raise Died
        process.freeze()
        pause = self._plan.lease * self._dice.uniform(1.0, 1.6)
        self._loop.call_later(pause, process.thaw, context=self._context)

    def _kill(self, process: Process) -> None:
        if process.state != "dead":
            self._deaths += 1
            process.kill()
            place = next(p for p in (*self._workers, *self._gateways) if p.process is process)
            pause = self._dice.uniform(0.1, 1.0)
            self._loop.call_later(pause, self._live_again, place, context=self._context)  # the dead do nothing

    # ------------------------------------------------------------ what goes wrong

    async def _rage(self) -> None:
        end = self._loop.time() + self._plan.storm
        while self._loop.time() < end:
            await asyncio.sleep(self._dice.uniform(0.1, 0.8))
            getattr(self, f"_{self._dice.choice(self._plan.acts)}")()

    def _set_clock(self) -> None:
        """Somebody sets the clock of the machine, and it stays so until the next time."""
        self._clock.off = self._dice.choice(LEAPS)

    def _for_a_while(self, longest: float) -> float:
        return self._dice.uniform(0.2, longest)

    def _kill_worker(self) -> None:
        self._kill(self._dice.choice(self._workers).process)

    def _kill_gateway(self) -> None:
        self._kill(self._dice.choice(self._gateways).process)

    def _freeze_worker(self) -> None:
        self._freeze(self._dice.choice(self._workers).process, self._plan.lease * 2)

    def _freeze_gateway(self) -> None:
        self._freeze(self._dice.choice(self._gateways).process, 2.0)

    def _freeze(self, process: Process, longest: float) -> None:
        process.freeze()
        self._loop.call_later(self._for_a_while(longest), process.thaw)

    def _cut_worker(self) -> None:
        self._cut(self._dice.choice(self._workers).link, self._plan.lease * 2)

    def _cut_gateway(self) -> None:
        self._cut(self._dice.choice(self._gateways).link, 2.0)

    def _cut(self, link: Link, longest: float) -> None:
        link.is_cut = True
        self._loop.call_later(self._for_a_while(longest), setattr, link, "is_cut", False)

    def _cut_sockets(self) -> None:
        door = self._dice.choice(self._gateways).door
        if door is not None:
            door.cut_all()

    def _drain_worker(self) -> None:
        """A rolling restart: it gives back what it cannot end."""
        place = self._dice.choice(self._workers)
        if place.process.state == "running" and place.worker is not None:
            place.worker.stop()
            self._loop.call_later(2.0, self._replace, place, place.process)

    def _replace(self, place: _Place, drained: Process) -> None:
        if place.process is drained and drained.state != "dead":
            drained.kill()
            self._live_again(place)

    def _stop_store(self) -> None:
        if not self.network.is_down:
            self._store_kills += 1
            self.network.go_down()
            self._loop.call_later(self._for_a_while(1.0), self.network.come_up)

    def _fail_over(self) -> None:
        """For a while the replica hears nothing, then the store is gone and the replica in its place."""
        self.network.lose_replica()
        self._loop.call_later(self._for_a_while(1.5), self._promote)

    def _promote(self) -> None:
        self._replaced_at = self.store.clock.now()
        self.network.fail_over()

    def _cancel_somebody(self) -> None:
        channel = f"c{self._dice.randrange(self._plan.channels)}"
        self._cancelling.append(self._loop.create_task(self._cancel(channel)))

    async def _cancel(self, channel: str) -> None:
        try:
            await self._any_gateway().post(f"/api/channels/{channel}/cancel", {})
        except Gone:
            return

    async def _heal(self) -> None:
        failpoints.arm({})
        self.network.weather = CLEAR
        self.actor.temper = Temper(refused=0.0, limited=0.0, cut=0.0, stalled=0.0, lost=0.0)
        await asyncio.sleep(self._plan.lease * 2 + 2.0)  # every fault that has begun is over by then

    # ------------------------------------------------------------ watching

    def _may_go_on(self, labels: Mapping[str, str]) -> None:
        """Note work for a run whose lease is over, except for the step that a thawed process was in."""
        process = Process.current()
        assert process is not None, "only workers ask the model"
        run, attempt, now = labels["turnkeep_run"], labels["turnkeep_attempt"], self.store.clock.now()
        self._look_at_leases()
        good_until = self._leases.get((process.name, run, attempt), 0.0)
        unheard_until = self._replaced_at + self._plan.lease  # of a claim that the replica had not heard of
        if now > max(good_until, START + process.thawed_at, unheard_until) + GLANCE + GRACE:
            what = f"run {run} went on in attempt {attempt} after its lease was over"
            self._overruns[process.name, run, attempt] = what

    async def _note_leases(self) -> None:
        while True:
            self._look_at_leases()
            await asyncio.sleep(GLANCE)

    def _look_at_leases(self) -> None:
        now = self.store.clock.now()
        for kept in self.store.threads.values():
            thread = kept.thread
            if thread.state == "leased" and thread.lease_until > now:
                self._leases[thread.owner or "", thread.run_id or "", str(thread.attempt)] = now

    def _tools(self) -> list[Tool]:
        source, deeds = self._source("tools"), self.deeds

        async def act(kind: str, message: str, context: ToolContext) -> str:
            await asyncio.sleep(source.uniform(0.0, 0.1))
            deeds.append(Deed(kind, message, context.call_id, context.idempotency_key))
            await asyncio.sleep(source.uniform(0.0, 0.1))
            return "done"

        @tool
        async def stamp(message: str, context: ToolContext) -> str:
            """Put a stamp on a message."""
            return await act("stamp", message, context)

        @tool(effect="idempotent")
        async def look(message: str, context: ToolContext) -> str:
            """Look a message up."""
            return await act("look", message, context)

        return [stamp, look]


def _policy() -> Policy:
    """Short windows, and logs that keep everything, so that a listener may ask for all of it."""
    return Policy(window=0.3, max_wait=1.0, max_inbox=1000, log_events=1_000_000, log_age=1e9)


def _rules() -> RunRules:
    """Nothing is given up: a dead letter would count as lost."""
    short = Backoff(delay=0.05, cap=0.5)
    return RunRules(deadline=60.0, max_attempts=50, max_deaths=50, backoff=short, rate_limit_pause=short)
