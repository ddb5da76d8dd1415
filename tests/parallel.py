"""Tests on several processes at once: one collects them, then forks its workers.

pytest-xdist starts each worker anew, and each imports and collects everything, which was the tenth part of all the
processor time of a run, and in a fresh clone, where each also rewrites the asserts of every file, the fifth. A fork
has all that at once.

Guarantees: each test runs once; those of one `worker_group` on the same worker, in their order; fixtures of a module
live as long as its unit, those of the session as long as its worker. A worker that dies is the failure of the test
that it was in, and another one goes on behind that.
"""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import random
import signal
import tempfile
import threading
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

import pytest
from _pytest._io import TerminalWriter
from _pytest.capture import FDCapture, FDCaptureBinary

SMALL = ("tests/unit/", "tests/runs/", "tests/contract/")
"""Rings of thousands of tests that take some milliseconds each: they compute, where the others wait."""
TOGETHER = 25
"""So many of them are one unit: less is talked about, and their module is set up seldom."""

Unit = tuple[int, ...]
"""Tests by their places in the collection, which one worker runs one after the other."""


def units_of(items: Sequence[pytest.Item]) -> deque[Unit]:
    """What is long comes first, so that nothing long is left at the end; what computes comes last."""
    units: dict[str, list[int]] = {}
    seen: Counter[str] = Counter()
    for place, item in enumerate(items):
        units.setdefault(unit_of(item, seen), []).append(place)
    return deque(map(tuple, sorted(units.values(), key=lambda unit: rank(items[unit[0]], len(unit)))))


def unit_of(item: pytest.Item, seen: Counter[str]) -> str:
    if group := item.get_closest_marker("worker_group"):
        return str(group.args[0])
    if not item.nodeid.startswith(SMALL) or item.get_closest_marker("slow"):
        return item.nodeid
    module = item.nodeid.partition("::")[0]
    seen[module] += 1
    return f"{module} {(seen[module] - 1) // TOGETHER}"


def rank(first: pytest.Item, number: int) -> tuple[bool, bool, int]:
    is_small = first.nodeid.startswith(SMALL) and not first.get_closest_marker("worker_group")
    return is_small, not first.get_closest_marker("slow"), -number


@dataclass(eq=False)
class Worker:
    """A process that runs tests, as the one knows it that collected them."""

    number: int
    pid: int
    connection: Connection
    unit: deque[int] = field(default_factory=deque)
    """What of its unit it has not begun."""
    place: int | None = None
    """The test that it is in, or was in last."""
    complaint: str = ""
    """What broke it, if Python could say so."""

    @property
    def begins_at_the_end(self) -> bool:
        """What computes goes on beside what waits: one worker for each processor."""
        return self.number < (os.cpu_count() or 1)


def message_of(connection: Connection) -> tuple[str, Any] | None:
    """What a worker says; None if it is no more."""
    try:
        what, content = connection.recv()
    except (EOFError, ConnectionResetError):
        return None
    return what, content


class Parallel:
    """The plugin of the process that collects."""

    def __init__(self, config: pytest.Config, number: int) -> None:
        self._config = config
        self._number = number
        self._workers: list[Worker] = []
        self._units: deque[Unit] = deque()
        self._forks = 0

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        if session.testsfailed or session.config.option.collectonly or not session.items:
            return None  # for pytest to say why there is nothing to run
        self._units = units_of(session.items)
        try:
            for number in range(min(self._number, len(self._units))):
                self._fork(session, number)
            while self._workers:
                self._listen(session)
        finally:
            for worker in self._workers:
                os.kill(worker.pid, signal.SIGKILL)
                os.waitpid(worker.pid, 0)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        return True

    def _fork(self, session: pytest.Session, number: int) -> None:
        # what a library runs beside us would be missing in a fork, with all locks that it has just taken
        assert threading.active_count() == 1, f"collecting has started threads: {threading.enumerate()}"
        ours, theirs = multiprocessing.Pipe()
        base = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        pid = os.fork()
        if pid == 0:
            for worker in self._workers:  # else nobody would hear that another one has ended
                worker.connection.close()
            ours.close()
            become_worker(session, theirs, base / f"worker{self._forks}")
        theirs.close()
        self._forks += 1
        self._workers.append(Worker(number, pid, ours))

    def _listen(self, session: pytest.Session) -> None:
        workers = {worker.connection: worker for worker in self._workers}
        for connection in wait(list(workers)):
            worker = workers[connection]  # type: ignore[index]
            if message := message_of(worker.connection):
                self._hear(session, worker, *message)
            else:
                self._bury(session, worker)
            if session.shouldfail or session.shouldstop:
                self._units.clear()
                with contextlib.suppress(OSError):  # it breaks off behind the test that it is in
                    worker.connection.send(None)

    def _hear(self, session: pytest.Session, worker: Worker, what: str, content: Any) -> None:
        hook = self._config.hook
        match what:
            case "idle":
                unit = self._next_unit(worker)
                worker.unit = deque(unit or ())
                with contextlib.suppress(OSError):  # that it is gone is heard next
                    worker.connection.send(unit)
            case "begins":
                worker.place = worker.unit.popleft()
                item = session.items[worker.place]
                hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            case "report":
                report = hook.pytest_report_from_serializable(config=self._config, data=content)
                hook.pytest_runtest_logreport(report=report)
            case "ends":
                item = session.items[content]
                hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
            case "broken":
                worker.complaint = content
            case "warning":
                text, options = content
                message = warnings.WarningMessage(UserWarning(text), UserWarning, "", 0)
                hook.pytest_warning_recorded.call_historic(kwargs={"warning_message": message, **options})

    def _next_unit(self, worker: Worker) -> Unit | None:
        if not self._units:
            return None
        return self._units.pop() if worker.begins_at_the_end else self._units.popleft()

    def _bury(self, session: pytest.Session, worker: Worker) -> None:
        self._workers.remove(worker)
        worker.connection.close()
        code = os.waitstatus_to_exitcode(os.waitpid(worker.pid, 0)[1])
        if code == 0:
            return
        if worker.place is None:
            raise RuntimeError(f"a worker ended with {code} before its first test {worker.complaint}")
        item = session.items[worker.place]
        text = f"its worker ended with {code} (a signal, if negative) in this test, or behind it {worker.complaint}"
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", text, "call")
        self._config.hook.pytest_runtest_logreport(report=report)
        if worker.unit:
            self._units.appendleft(tuple(worker.unit))
        if self._units:
            self._fork(session, worker.number)


# ---------------------------------------------------------------- in the fork


def become_worker(session: pytest.Session, connection: Connection, folder: Path) -> NoReturn:
    """Run what is given until there is nothing more, and leave nothing behind."""
    code = 1
    try:
        stand_alone(session, folder)
        reporter = Reporter(session.config, connection)
        session.config.pluginmanager.register(reporter)
        for unit in units_given(connection):
            reporter.run(session, unit)
        reporter.end(session)
        atexit._run_exitfuncs()  # and no waiting for threads, as Python would: what a test has left behind may hang
        code = 0
    except KeyboardInterrupt:
        code = 130  # the one that collected heard it too, and says so
    except BaseException:
        connection.send(("broken", traceback.format_exc()))
    finally:
        os._exit(code)


def stand_alone(session: pytest.Session, folder: Path) -> None:
    """Share nothing with other workers that one of them would change."""
    atexit._clear()
    random.seed()
    folder.mkdir(0o700)
    session.config._tmp_path_factory._basetemp = folder  # type: ignore[attr-defined]
    plugins = session.config.pluginmanager
    plugins.unregister(plugins.getplugin("terminalreporter"))
    plugins.register(NoTerminal(), "terminalreporter")
    capturing: Any = plugins.getplugin("capturemanager")._global_capturing
    for stream in (capturing.out, capturing.err):
        if isinstance(stream, FDCapture | FDCaptureBinary):
            capture_alone(stream)


class NoTerminal:
    """Takes what plugins write to the terminal beside their reports: all workers would write into one line."""

    def __init__(self) -> None:
        self._tw = TerminalWriter(open(os.devnull, "w"))  # noqa: SIM115 - open to the end of the process


def capture_alone(stream: FDCapture | FDCaptureBinary) -> None:
    """Into a file of our own: of the one that was open all workers would share the place, and cut it for each other.
    It is put in its place, as some libraries have taken `sys.stderr` for good when they were imported.
    """
    with tempfile.TemporaryFile(buffering=0) as own:
        os.dup2(own.fileno(), stream.tmpfile.fileno(), inheritable=False)
        os.dup2(own.fileno(), stream.targetfd)


def units_given(connection: Connection) -> Iterator[Unit]:
    while True:
        connection.send(("idle", None))
        unit = connection.recv()
        if unit is None:
            return
        yield unit


class Reporter:
    """Runs tests, and tells the process that collected them what came of it."""

    def __init__(self, config: pytest.Config, connection: Connection) -> None:
        self._config = config
        self._connection = connection
        self._last: pytest.Item | None = None

    def run(self, session: pytest.Session, unit: Iterable[int]) -> None:
        items = [session.items[place] for place in unit]
        for place, item, following in zip(unit, items, [*items[1:], session], strict=True):
            if self._connection.poll():  # nobody wants more
                return
            self._last = item
            self._connection.send(("begins", None))
            # a next item that is the session: what belongs to modules ends, what belongs to the session stays
            self._config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self._connection.send(("ends", place))

    def end(self, session: pytest.Session) -> None:
        """Take down the fixtures of the session; an error there is one of the last test, as ever with pytest."""
        if self._last is not None:
            call = pytest.CallInfo.from_call(lambda: session._setupstate.teardown_exact(None), when="teardown")
            if call.excinfo:
                report = self._config.hook.pytest_runtest_makereport(item=self._last, call=call)
                self._config.hook.pytest_runtest_logreport(report=report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
        self._connection.send(("report", data))

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str, location: object
    ) -> None:
        text = f"{warning_message.category.__name__}: {warning_message.message}"
        self._connection.send(("warning", (text, {"when": when, "nodeid": nodeid, "location": location})))
