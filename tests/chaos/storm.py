"""A storm over real processes: a store, a model, workers and gateways, people who reach them through bad lines.

Whatever breaks is broken on a schedule that the seed decides; then everything is healed, and when all is quiet the
ledgers are compared (`judge`).
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from tests.chaos.disk import DISK, FAILURES, order_failure, withdraw_failures
from tests.chaos.effects import read_deeds, write_tools_file
from tests.chaos.judge import Books, ChannelLog, Judgement, judge
from tests.chaos.launch import CLOCK
from tests.chaos.logs import fenced, unexpected
from tests.chaos.outside import OutsideDoor
from tests.chaos.people import EDITED, Door, Editor, Gone, Listener, Sender, Sent
from tests.chaos.plan import BLOWS, KEY, MODEL_FAULTS, PER_SECOND, SETTINGS, STRICT, WORKS, Plan, message
from tests.chaos.programs import HOST, Program, StormError
from tests.chaos.receivers import POISONED, Hook
from tests.chaos.replication import Replication
from tests.contract.leaps import LEAPS
from tests.services import CHECKOUT, free_port
from tests.services.tcp_proxy import TcpProxy
from turnkeep.clock import SystemClock
from turnkeep.messages import Address, Item
from turnkeep.outbound.parking import PARKING_RULES
from turnkeep.settings import Settings
from turnkeep.simulator.exchanges import ExchangeLedger
from turnkeep.store import store_of
from turnkeep.store.contract import Store
from turnkeep.store.values import Policies, Policy


@dataclass(slots=True)
class _Place:
    """A process of the product, with its own line to the store."""

    program: Program
    line: TcpProxy | None
    port: int = 0


@dataclass(slots=True)
class _Counted:
    deaths: int = 0
    acts: Counter[str] = field(default_factory=Counter)
    """What was broken how often."""
    ended: list[str] = field(default_factory=list)


async def rage(plan: Plan, tell: Callable[[str], None]) -> Judgement:
    """One storm and its verdict; `tell` is given lines of progress."""
    async with AsyncExitStack() as stack:
        folder = plan.folder
        if folder is None:
            made = tempfile.TemporaryDirectory(prefix="turnkeep-storm-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(made))
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise StormError(f"{folder} is not empty: the ledgers of two storms do not go together")
        storm = Storm(plan, folder.resolve(), tell, stack)
        stack.callback(storm.bury)
        return judge(await storm.run())


class Storm:
    """One storm from beginning to end."""

    def __init__(self, plan: Plan, folder: Path, tell: Callable[[str], None], stack: AsyncExitStack) -> None:
        self._plan = plan
        self._folder = folder
        self._clock_file = folder / "clock"
        self._disk = folder / "disk"
        self._tell = tell
        self._stack = stack
        self._dice = self._source("nemesis")
        self._counted = _Counted()
        self._workers: list[_Place] = []
        self._gateways: list[_Place] = []
        self._lines: list[TcpProxy] = []
        self._redis: Replication | None = None
        self._later: set[asyncio.Task[None]] = set()
        self._programs: list[Program] = []
        self._storming = True
        self._hook = Hook(self._source("receiver"))
        self._begun_at = asyncio.get_running_loop().time()

    def bury(self) -> None:
        """Let nothing outlive the storm."""
        for program in self._programs:
            program.bury()

    def _source(self, name: str) -> random.Random:
        return random.Random(f"{self._plan.seed} {name}")

    # ------------------------------------------------------------ one storm

    async def run(self) -> Books:
        await self._begin()
        senders, listeners = await self._people()
        books = Books(senders, listeners, ExchangeLedger(SystemClock()), [], {})
        async with asyncio.TaskGroup() as self._group:
            watching = [self._group.create_task(w) for w in (self._keep_alive(), self._tell_progress(books))]
            listening = [self._group.create_task(listener.listen()) for listener in listeners]
            sending = [self._group.create_task(self._send(n, sender)) for n, sender in enumerate(senders)]
            editors = [Editor(name, self._any_gateway, self._source(f"editor {name}"), pause=2.0) for name in "ab"]
            await editors[0].begin()
            self._note_task(self._poison())
            editing = [self._group.create_task(editor.edit()) for editor in editors]
            await self._break_things()
            await self._heal()
            for task in editing:
                task.cancel()
            await editors[0].end()
            await self._quiet(books, sending)
            for task in (*watching, *listening, *sending):
                task.cancel()
        await self._close_books(books)
        return books

    async def _begin(self) -> None:
        plan = self._plan
        self._http = await self._stack.enter_async_context(aiohttp.ClientSession())
        await self._stack.enter_async_context(self._hook.open())
        model_port = free_port()
        self._model = f"http://{HOST}:{model_port}"
        await self._start_store()
        model = self._program("model", self._model_command(model_port), {})
        model.start()
        tools = write_tools_file(self._folder / "storm_tools.py", self._folder / "effects.jsonl")
        self._tools = tools
        self._workers = [await self._worker(f"worker-{n}") for n in range(plan.workers)]
        self._gateways = [await self._gateway(f"gateway-{n}") for n in range(plan.gateways)]
        for place in self._places:
            place.program.start()
        await model.answers(model_port)
        async with asyncio.TaskGroup() as group:
            for place in self._workers:
                _ = group.create_task(place.program.says(WORKS))
            for place in self._gateways:
                _ = group.create_task(place.program.answers(place.port))
        await self._sim("POST", "faults", [{**fault, "times": None} for fault in MODEL_FAULTS])

    def _model_command(self, port: int) -> list[str]:
        return [
            sys.executable, "-m", "turnkeep.simulator", "--port", str(port), "--key", KEY, "--seed",
            str(self._plan.seed), "--first", "40", "--token", "15", "--unbounded", "--ledger",
            str(self._folder / "model.jsonl"),
        ]  # fmt: skip

    async def _start_store(self) -> None:
        if self._plan.store == "redis":
            wire = await self._proxy(0)

            def new(name: str, command: list[str]) -> Program:
                return self._program(name, command, {})

            self._redis = Replication(new, self._folder, wire, self._source("redis"))
            await self._redis.start()

    def _program(self, name: str, command: list[str], environment: Mapping[str, str]) -> Program:
        base = {"PATH": os.defpath, "HOME": str(self._folder), "PYTHONPATH": str(CHECKOUT)}
        program = Program(name, command, self._folder, {**base, **environment})
        self._programs.append(program)
        return program

    async def _proxy(self, port: int) -> TcpProxy:
        proxy = await self._stack.enter_async_context(TcpProxy(HOST, port))
        self._lines.append(proxy)
        return proxy

    async def _worker(self, name: str) -> _Place:
        line = await self._line()
        blows = {point: min(0.2, chance * max(1.0, 60 / self._plan.seconds)) for point, chance in BLOWS.items()}
        failpoints = ",".join(f"{point}:{chance:.5f}" for point, chance in blows.items())
        environment = self._environment(line) | {"TURNKEEP_FAILPOINTS": failpoints}
        command = [*self._turnkeep(), "worker", "--tools", str(self._tools), "--concurrency", "16"]
        return _Place(self._program(name, command, environment), line)

    async def _gateway(self, name: str) -> _Place:
        line, port = await self._line(), free_port()
        environment = self._environment(line) | {"TURNKEEP_PORT": str(port), **self._hook.settings}
        return _Place(self._program(name, [*self._turnkeep(), "serve", "--role", "gateway"], environment), line, port)

    async def _line(self) -> TcpProxy | None:
        return await self._proxy(self._redis.port) if self._redis is not None else None

    def _turnkeep(self) -> list[str]:
        return [sys.executable, "-m", "tests.chaos.launch", self._plan.planted or ""]

    def _environment(self, line: TcpProxy | None) -> dict[str, str]:
        store = self._store_url if line is None else f"redis://{HOST}:{line.port}/0"
        own = {
            CLOCK: str(self._clock_file),
            "TURNKEEP_STORE": store,
            "OPENAI_BASE_URL": f"{self._model}/v1",
            "TURNKEEP_LEASE": str(self._plan.lease),
        }
        return {**SETTINGS, **own, **({DISK: str(self._disk)} if line is None else STRICT)}

    @property
    def _store_url(self) -> str:
        return f"redis://{HOST}:{self._redis.port}/0" if self._redis else f"sqlite:{self._folder}/storm.db"

    async def _sim(self, method: str, what: str, body: Any = None) -> None:
        bearer = {"Authorization": f"Bearer {KEY}"}
        async with self._http.request(method, f"{self._model}/_sim/{what}", json=body, headers=bearer) as told:
            told.raise_for_status()

    # ------------------------------------------------------------ people

    async def _people(self) -> tuple[list[Sender], list[Listener]]:
        senders: list[Sender] = []
        listeners: list[Listener] = []
        self._people_lines: list[TcpProxy] = []
        for number in range(self._plan.clients):
            lines = [await self._proxy(place.port) for place in self._gateways]
            self._people_lines += lines
            doors: list[Door] = [OutsideDoor(self._http, line.port) for line in lines]
            choices = self._source(f"doors {number}")

            def any_door(doors: list[Door] = doors, choices: random.Random = choices) -> Door:
                return choices.choice(doors)

            senders += [Sender(any_door, self._source(f"sender {number} {person}")) for person in "ab"]
            listeners.append(Listener(f"c{number}", any_door, self._source(f"listener {number}")))
        return senders, listeners

    def _any_gateway(self) -> Door:
        return OutsideDoor(self._http, self._dice.choice(self._gateways).port)

    async def _poison(self) -> None:
        """On one channel there is an answer that the receiver outside never takes."""
        await Sender(self._any_gateway, self._source("poison"), repeats=0.0).send(Sent(POISONED, "a", 0, "bitter"))

    async def _send(self, place: int, sender: Sender) -> None:
        """One of two people of a channel; their messages come in bursts."""
        channel, person = f"c{place // 2}", "ab"[place % 2]
        words, number = self._source(f"words {place}"), 0
        pause = min(self._plan.clients * 2 / PER_SECOND, self._plan.seconds / 4)
        while self._storming:
            await asyncio.sleep(words.uniform(0.0, pause * 2.5) if words.random() < 0.8 else 0.0)
            if not self._storming and number > 0:
                return
            await sender.send(message(channel, person, number, words))
            number += 1
            if words.random() < 0.1:
                await sender.send_again()

    async def _quiet(self, books: Books, sending: list[asyncio.Task[None]]) -> None:
        """Wait until everything is answered and told, or nothing can be hoped for any more."""
        end = self._now + self._plan.calm
        # a channel that its receiver has failed on, in the storm too, may rest so long before it is tried again
        latest = end + PARKING_RULES.backoff.cap
        while self._now < latest:
            await asyncio.sleep(0.1)
            is_untold = not all(task.done() for task in sending) or bool(_untold(books))
            if is_untold and self._now >= end:
                return
            if not is_untold and not _unsent(books, self._hook):
                return

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    async def _tell_progress(self, books: Books) -> None:
        every = 2.0 if self._plan.seconds < 20 else 10.0
        while True:
            await asyncio.sleep(every)
            sent = sum(len(sender.sent) for sender in books.senders)
            told = sum(len(listener.ends) for listener in books.listeners)
            counted, weather = self._counted, "storm" if self._storming else "calm"
            self._tell(
                f"{self._now - self._begun_at:.0f} s | {weather} | sent {sent} | told {told} "
                f"| deaths {counted.deaths} | redis kills {self._redis.kills if self._redis else 0}"
            )

    # ------------------------------------------------------------ what goes wrong

    async def _break_things(self) -> None:
        end = self._now + self._plan.seconds
        next_kill = self._now + self._dice.uniform(0.3, 0.7) * min(45.0, self._plan.seconds)
        while self._now < end:
            await asyncio.sleep(self._dice.uniform(0.3, 1.6))
            if self._redis is not None and self._now >= next_kill:
                next_kill = self._now + self._dice.uniform(15.0, 45.0)
                self._note_task(self._redis.fail([place.line for place in self._places if place.line]))
            act = self._dice.choice(self._plan.acts)
            self._counted.acts[act] += 1
            getattr(self, f"_{act}")()
        self._storming = False

    @property
    def _places(self) -> list[_Place]:
        return [*self._workers, *self._gateways]

    def _soon(self, delay: float, act: Callable[[], object]) -> None:
        async def wait() -> None:
            await asyncio.sleep(delay)
            act()

        self._note_task(wait())

    def _note_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def _harmed_worker(self) -> _Place:
        """One that works: who has not even begun holds nothing that could be lost."""
        chosen = self._dice.choice(self._workers)
        working = [place for place in self._workers if place.program.has_said(WORKS)]
        return chosen if chosen in working or not working else working[0]

    def _kill_worker(self) -> None:
        self._harmed_worker().program.kill()

    def _kill_gateway(self) -> None:
        self._dice.choice(self._gateways).program.kill()

    def _freeze_worker(self) -> None:
        self._freeze(self._harmed_worker().program, self._plan.lease * self._dice.uniform(1.1, 2.0))

    def _freeze_gateway(self) -> None:
        self._freeze(self._dice.choice(self._gateways).program, self._plan.lease * self._dice.uniform(0.5, 1.5))

    def _freeze(self, program: Program, seconds: float) -> None:
        if program.alive and not program.frozen:
            program.freeze()
            self._soon(seconds, program.thaw)

    def _starve_worker(self) -> None:
        """No way to the store for longer than the lease, with everything held that was on its way."""
        self._starve(self._dice.choice(self._workers), self._plan.lease * self._dice.uniform(1.1, 2.0))

    def _starve_gateway(self) -> None:
        self._starve(self._dice.choice(self._gateways), self._dice.uniform(0.5, 2.0))

    def _starve(self, place: _Place, seconds: float) -> None:
        if place.line is not None:
            place.line.blackhole()
            self._soon(seconds, place.line.forward)

    def _harm_store_line(self) -> None:
        place = self._dice.choice(self._places)
        if place.line is not None:
            self._harm(place.line)

    def _harm_people(self) -> None:
        for line in self._dice.sample(self._people_lines, max(1, len(self._people_lines) // 3)):
            self._harm(line)

    def _harm(self, line: TcpProxy) -> None:
        match self._dice.choice(("delay", "cut", "cut", "lose", "lose", "blackhole")):
            case "delay":
                line.delay(self._dice.uniform(0.01, 0.1))
            case "cut":
                line.cut_all()
                return
            case "lose":
                line.cut_before_reply(times=self._dice.randint(1, 3))
            case "blackhole":
                line.blackhole()
        self._soon(self._dice.uniform(0.3, 2.0), line.forward)

    def _set_clock(self) -> None:
        """Somebody sets the clock of the machine, and it stays so until the next time."""
        self._clock_file.write_text(str(self._dice.choice(LEAPS)))

    def _promote_replica(self) -> None:
        if self._redis is not None:
            self._note_task(self._redis.promote([place.line for place in self._places if place.line]))

    def _spoil_store(self) -> None:
        if self._redis is not None:
            self._note_task(self._redis.spoil())

    def _fail_disk(self) -> None:
        """The next write or sync of whichever process fails, once."""
        if self._redis is None:
            order_failure(self._disk, self._dice.choice(FAILURES))

    def _hush_receiver(self) -> None:
        """The receiver of webhooks takes nothing for a while, as while it is deployed."""
        self._hook.is_away = True
        self._soon(self._dice.uniform(0.5, 3.0), self._unhush_receiver)

    def _unhush_receiver(self) -> None:
        self._hook.is_away = False

    def _cancel(self) -> None:
        place, channel = self._dice.choice(self._gateways), f"c{self._dice.randrange(self._plan.clients)}"

        async def cancel() -> None:
            try:
                await OutsideDoor(self._http, place.port).post(f"/api/channels/{channel}/cancel", {})
            except Gone:
                return

        self._note_task(cancel())

    async def _keep_alive(self) -> None:
        """Start again whatever has died."""
        again: dict[str, float] = {}
        while True:
            await asyncio.sleep(0.02)
            for place in self._places:
                program = place.program
                if not program.wanted or program.alive:
                    continue
                if program.name not in again:
                    self._note_end(program)
                    again[program.name] = self._now + self._dice.uniform(0.0, 0.4)
                elif self._now >= again[program.name]:
                    del again[program.name]
                    program.start()

    def _note_end(self, program: Program) -> None:
        if program.code == -9:
            self._counted.deaths += 1
        elif "Traceback" in program.log[-3000:]:
            self._counted.ended.append(f"{program.name} ended with {program.code}: {program.log[-1500:]}")

    # ------------------------------------------------------------ healing and judging

    async def _heal(self) -> None:
        """Forward everything, thaw everybody, and put workers that do not kill themselves in place of the others."""
        await self._later_over()
        withdraw_failures(self._disk)
        for line in self._lines:
            line.forward()
        for place in self._places:
            place.program.thaw()
        await self._sim("DELETE", "faults")
        if self._redis is not None:
            await self._redis.until_whole()
        for place in self._workers:
            await self._renew(place.program)

    async def _later_over(self) -> None:
        while self._later:
            await asyncio.wait(self._later)

    async def _renew(self, program: Program) -> None:
        await program.end(5.0)
        program.environment = {k: v for k, v in program.environment.items() if k != "TURNKEEP_FAILPOINTS"}
        program.start()
        await program.says(WORKS)

    async def _close_books(self, books: Books) -> None:
        self.bury_product()
        store = store_of(Settings.load(store=self._store_url), Policies(Policy()))
        await store.open()
        try:
            await self._read(store, books)
        finally:
            await store.close()
        books.model = ExchangeLedger.load(self._folder / "model.jsonl", SystemClock())
        books.deeds = read_deeds(self._folder / "effects.jsonl")
        books.delivered, books.refusals = dict(self._hook.taken), self._hook.refusals
        books.deaths, books.acts = self._counted.deaths, self._counted.acts
        if self._redis is not None:
            books.store_kills, books.unfit = self._redis.kills, self._redis.unfit
            books.failovers, books.acts["fail_over"] = self._redis.failovers, len(self._redis.failovers)
        books.fenced = sum(fenced(place.program.log_file) for place in self._workers)
        broke = [error for place in self._places for error in unexpected(place.program)]
        books.broken = [*self._counted.ended, *broke]

    def bury_product(self) -> None:
        for place in self._places:
            place.program.bury()

    async def _read(self, store: Store, books: Books) -> None:
        log = await store.read(Address("default", "assistant", EDITED), limit=1_000_000)
        books.edits = [event.text for event in log.events if event.kind == "edited"]
        counts = await store.counts()
        books.dead, books.open = counts.dead_letters, counts.open_messages
        for number in range(self._plan.clients):
            address = Address("default", "assistant", f"c{number}")
            history = await store.history(address)
            items: list[Item] = [entry.item for entry in history.entries]
            books.transcripts[address.channel] = items
            books.logs[address.channel] = ChannelLog.of(await store.read(address, limit=1_000_000))


def _unsent(books: Books, hook: Hook) -> bool:
    """Whether an end that somebody heard of has not gone to the receiver yet."""
    return not {message_id for listener in books.listeners for message_id in listener.ends} <= hook.message_ids


def _untold(books: Books) -> bool:
    ids = {message.message_id for sender in books.senders for message in sender.sent}
    return not ids <= {message_id for listener in books.listeners for message_id in listener.ends}
