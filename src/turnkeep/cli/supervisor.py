"""`turnkeep serve --processes N`: so many processes on one listening socket, kept alive.

The parent answers nobody. It binds the socket, starts children that accept on it, starts one again
that dies, and passes signals on: the first SIGINT or SIGTERM drains all, a second ends them at once,
SIGHUP exchanges one after the other, so that a new tools file, `.env` or version is taken up while
the others serve. A child whose parent has gone drains by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import field
from typing import Any, Literal

from turnkeep.backoff import Backoff
from turnkeep.cli import ENV_FILE, context, server_note
from turnkeep.cli.exit_codes import FAILED
from turnkeep.cli.inheritance import Inheritance
from turnkeep.cli.running_service import RunningService
from turnkeep.doors.port import port_of
from turnkeep.errors import ConfigurationError
from turnkeep.lean_dataclass import dataclass
from turnkeep.settings import Settings
from turnkeep.telemetry import configure_logging, get_log
from turnkeep.telemetry.siblings import LONGEST_LINE, SIBLING_PATIENCE
from turnkeep.telemetry.snapshots import Snapshot, merge

log = get_log(__name__)

AGAIN = Backoff(delay=0.5, cap=30.0)
HEALTHY = 60.0
"""Seconds after which a child that has died is no longer taken for one that cannot live."""
GRACE = 10.0
"""Seconds beyond the drain that a child gets to end."""
START_PATIENCE = 60.0
"""Seconds that a child gets to open everything."""

Service = Mapping[str, Any]


@dataclass(eq=False, slots=True)
class Child:
    """A process, and what it has said."""

    slot: int
    process: asyncio.subprocess.Process
    writer: asyncio.StreamWriter
    opening: asyncio.Future[Service]
    """What it serves, once everything is open."""
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    last: Snapshot = field(default_factory=Snapshot)
    giving: dict[int, asyncio.Future[Snapshot]] = field(default_factory=dict)

    def send(self, line: Mapping[str, Any]) -> None:
        if not self.writer.is_closing():
            self.writer.write(json.dumps(line).encode() + b"\n")

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            self.process.send_signal(number)


class Supervisor:
    """Keeps `count` children of this command running. `tell` is called once with what they serve."""

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        *,
        listener: socket.socket | None,
        drain: float,
        tell: Callable[[Service], None],
    ) -> None:
        self._command = command
        self._count = count
        self._listener = listener
        self._drain = drain
        self._tell = tell
        self._children: set[Child] = set()
        """All that live, also those that are on their way out."""
        self._slots: dict[int, Child] = {}
        """Who serves, by place."""
        self._stopping = asyncio.Event()
        self._reload = asyncio.Event()
        self._numbers = itertools.count()
        self._past = Snapshot()
        """What those have measured that have ended."""

    async def run(self) -> int:
        """Until a signal; the exit code."""
        self._take_signals()
        async with asyncio.TaskGroup() as group:
            self._group = group
            if (code := await self._begin()) is not None:
                self._stop(signal.SIGTERM)
            group.create_task(self._reload_when_asked())
            keeping = [group.create_task(self._keep(slot)) for slot in self._slots]
            await self._stopping.wait()
            await asyncio.wait(keeping, timeout=self._drain + GRACE)
            for child in self._children:
                log.error("process_killed", slot=child.slot, reason="it did not end in time")
                child.signal(signal.SIGKILL)
        return code or 0

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)

    def _stop(self, number: signal.Signals) -> None:
        log.info("shutting_down", signal=number.name, processes=len(self._children))
        self._stopping.set()
        self._reload.set()
        for child in self._children:  # of a second signal a child makes what it makes of one of its own
            child.signal(signal.SIGTERM)

    # ------------------------------------------------------------ children

    async def _begin(self) -> int | None:
        """All children, open; or the code of the one that could not, with which the service ends.

        The first goes ahead: what is wrong is said once, and the store is made by one.
        """
        for slots in (range(1), range(1, self._count)):
            for slot in slots:
                self._slots[slot] = await self._start(slot)
            for slot in slots:
                child = self._slots[slot]
                if not await self._opens(child) and not self._stopping.is_set():
                    return child.process.returncode or FAILED
        if not self._stopping.is_set():
            self._tell(self._slots[0].opening.result())
        return None

    async def _start(self, slot: int) -> Child:
        ours, theirs = socket.socketpair()
        inheritance = Inheritance(theirs, self._listener)
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                *inheritance.words(),
                pass_fds=inheritance.files,
                stdin=asyncio.subprocess.DEVNULL,
                # Ctrl-C reaches the parent alone, which asks the children to drain
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=ours, limit=LONGEST_LINE)
        child = Child(slot, process, writer, asyncio.get_running_loop().create_future())
        self._children.add(child)
        self._group.create_task(self._listen(child, reader))
        if self._stopping.is_set():  # it was not there yet when the others were told
            child.signal(signal.SIGTERM)
        return child

    async def _opens(self, child: Child) -> bool:
        """Whether it has opened everything, once it has, or has ended, or had time enough."""
        ending = self._group.create_task(child.ended.wait())
        await asyncio.wait((child.opening, ending), timeout=START_PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        return child.opening.done()

    async def _listen(self, child: Child, reader: asyncio.StreamReader) -> None:
        with suppress(OSError, ValueError):
            while line := await reader.readline():
                self._handle(child, json.loads(line))
        await child.process.wait()
        child.writer.close()
        self._children.discard(child)
        self._past = merge(self._past, [child.last.at_the_end()])
        child.ended.set()

    async def _keep(self, slot: int) -> None:
        """Start the process of this place again whenever it dies, the later the more often, until all are to end."""
        failures, loop = 0, asyncio.get_running_loop()
        while True:
            child, begun_at = self._slots[slot], loop.time()
            await child.ended.wait()
            if self._stopping.is_set():
                return
            if self._slots[slot] is not child:  # it was exchanged
                continue
            failures = 1 if loop.time() - begun_at > HEALTHY else failures + 1
            pause = AGAIN.ceiling(failures) if failures > 1 else 0.0
            log.error("process_died", slot=slot, code=child.process.returncode, again_in=pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            if self._stopping.is_set():
                return
            self._slots[slot] = await self._start(slot)

    # ------------------------------------------------------------ reload

    async def _reload_when_asked(self) -> None:
        while not self._stopping.is_set():
            await self._reload.wait()
            self._reload.clear()
            for slot in self._slots:
                if self._stopping.is_set() or not await self._exchange(slot):
                    break

    async def _exchange(self, slot: int) -> bool:
        """A new process in this place; the old one drains once the new one is open. False: it cannot open."""
        child = await self._start(slot)
        if not await self._opens(child):
            child.signal(signal.SIGKILL)
            log.error("reload_failed", slot=slot, reason="the new process did not open, those of before go on")
            return False
        former, self._slots[slot] = self._slots[slot], child
        former.signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(former.ended.wait(), self._drain + GRACE)
        except TimeoutError:
            former.signal(signal.SIGKILL)
        log.info("process_exchanged", slot=slot, pid=child.process.pid)
        return True

    # ------------------------------------------------------------ measurements

    def _handle(self, child: Child, line: Mapping[str, Any]) -> None:
        if "service" in line and not child.opening.done():
            child.opening.set_result(line["service"])
        if "end" in line:
            child.last = Snapshot.from_json(line["end"])
        if "snapshot" in line:
            child.last = Snapshot.from_json(line["snapshot"])
            if (giving := child.giving.pop(line.get("of", -1), None)) is not None and not giving.done():
                giving.set_result(child.last)
        if "ask" in line:
            self._group.create_task(self._gather(child, line["ask"]))

    async def _gather(self, asker: Child, number: int) -> None:
        """What all the others have measured; of one that does not answer, what it said last."""
        others = [child for child in self._children if child is not asker]
        answers = [self._ask(child) for child in others]
        if answers:
            await asyncio.wait(answers, timeout=SIBLING_PATIENCE)
        snapshots = [*(child.last for child in others), self._past]
        asker.send({"of": number, "others": [one.to_json() for one in snapshots]})

    def _ask(self, child: Child) -> asyncio.Future[Snapshot]:
        number = next(self._numbers)
        future: asyncio.Future[Snapshot] = asyncio.get_running_loop().create_future()
        child.giving[number] = future
        child.send({"give": number})
        return future


def run(
    settings: Settings,
    role: Literal["all", "gateway", "worker"],
    arguments: Sequence[str],
    tell: Callable[[RunningService], None],
) -> int:
    """`settings.processes` processes of `turnkeep serve` with these arguments, until a signal; the exit code.

    Raises `ConfigurationError` where the port is taken, and for a store in the memory of one process.
    """
    if settings.store_url.startswith("memory:"):
        raise ConfigurationError("several processes share nothing in memory: set TURNKEEP_STORE or REDIS_URL")
    configure_logging(level=settings.log_level, format=settings.log_format)
    env_file = context.env_file.get()
    env_option = [] if env_file is None else [ENV_FILE, str(env_file)]
    command = [sys.executable, "-m", "turnkeep", "serve", *env_option, *arguments]
    with contextlib.ExitStack() as stack:
        listener = port_of(settings, role)
        if listener is not None:
            stack.enter_context(listener)

        def announce(fields: Service) -> None:
            service = RunningService.of_fields(fields)
            if service.url and role != "worker":
                server_note.leave(settings, service.url, stack)
            tell(service)

        supervisor = Supervisor(command, settings.processes, listener=listener, drain=settings.drain, tell=announce)
        return asyncio.run(supervisor.run())
