"""Fixtures that every ring may use: sizes, proofs, real servers, a browser; see CONTRIBUTING.md."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import logging
import math
import os
import secrets
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.daily_share import DailyShare, daily_shares, share_of_engines
from tests.patience import PATIENCE, TEST_ENDS
from tests.services import (
    RabbitServer,
    RedisServer,
    rabbit_program,
    redis_program,
    valkey_program,
)
from tests.services.forks import ForkServer, made_folder
from tests.services.process import folder_in_memory
from tests.services.programs import REQUIRED, absent, program
from tests.services.rings import RINGS, WAITS, only_waits
from tests.services.warming import warm_up
from turnkeep.store.redis import RedisStore

FULL = os.environ.get("TURNKEEP_PROVE") == "1"

hypothesis.settings.register_profile("reduced", deadline=None, max_examples=30, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.register_profile("full", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("full" if FULL else "reduced")

_OURS = ("TURNKEEP_", "OPENAI_", "RABBITMQ_", "REDIS_", "WEBSOCKET_", "OPENWEATHER_")
_NAMED = ("QUEUE_NAME", "ROUTING_KEY", "EXCHANGE_NAME")
_KEPT = ("TURNKEEP_PROVE", "TURNKEEP_REQUIRE_SERVICES", "TURNKEEP_TEST_REDIS", "TURNKEEP_TEST_RABBITMQ")

for _name in list(os.environ):  # the settings of the developer's shell are not those of the tests
    if (_name.startswith(_OURS) or _name in _NAMED) and _name not in _KEPT:
        del os.environ[_name]

# A server of a machine that is busy, or whose disk is, may say nothing for seconds. Who tests what becomes of silence
# gives a limit of its own.
RedisStore.timeout = PATIENCE

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the programs that tests interrupt must hear it

MARKED_BY_FIXTURE = {
    "redis": {"redis_installed", "redis_server", "redis_process", "valkey_server", "valkey_process"},
    "rabbit": {"rabbit_installed", "rabbit_server", "rabbit_process"},
    "browser": {"chromium_path"},
    "prove": {"proof", "size"},  # who has two sizes is to be run at the large one somewhere
}
ONLY_IN_PROVE = "only_in_prove"
LONGEST_NAME = 100
"""Letters of a text that names a row of a test."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark by the fixtures used; keep all tests of the heavy broker on one worker, so that one broker starts."""
    late = {item for item in items if not is_daily(item)}
    if FULL:
        for item in late:
            item.add_marker(ONLY_IN_PROVE)
    else:  # taken out, not skipped: a skip is a failure where everything is demanded
        config.hook.pytest_deselected(items=[item for item in items if item in late])
        items[:] = [item for item in items if item not in late]
    for item in items:
        used = set(getattr(item, "fixturenames", ()))
        for mark, fixtures in MARKED_BY_FIXTURE.items():
            if used & fixtures:
                item.add_marker(mark)
        if item.get_closest_marker("rabbit") and not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group("rabbit"))


@pytest.hookimpl(trylast=True)  # hypothesis has begun
def pytest_sessionstart(session: pytest.Session) -> None:
    worker: dict[str, Any] = getattr(session.config, "workerinput", {})
    if worker:
        ForkServer.folder = Path(worker["forks"])
        number = int(worker["workerid"].removeprefix("gw"))
        warm_up(session.config, number % worker["workercount"], worker["workercount"])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """All workers share the process that forks programs. Of a whole run some collect a part alone."""
    if ForkServer.folder is None:
        ForkServer.folder = made_folder()
    node.workerinput["forks"] = str(ForkServer.folder)
    worker = node.workerinput
    number = int(worker["workerid"].removeprefix("gw"))
    if may_collect_parts(node.config) and only_waits(number, worker["workercount"]):
        worker[WAITS] = True


def is_whole(config: pytest.Config) -> bool:
    """Whether nobody said which tests to run."""
    option = config.option
    is_chosen = option.keyword or option.markexpr or getattr(option, "lf", False)
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not is_chosen


def may_collect_parts(config: pytest.Config) -> bool:
    """Whether who gives out tests is ours, who alone bears that a worker has not all of them."""
    return config.getoption("dist") == "loadgroup" and is_whole(config)


@pytest.hookimpl
def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out what another worker collects."""
    if WAITS not in getattr(config, "workerinput", {}):
        return None
    return f"{collection_path.relative_to(config.rootpath).as_posix()}/".startswith(RINGS) or None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    from tests.services.scheduling import RingScheduling

    return RingScheduling(config, log) if config.getoption("dist") == "loadgroup" else None


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Collector, name: str, obj: object) -> list[pytest.Item] | None:
    """Make no tests of a contract suite that are not for today: each worker would make them all, to take them out."""
    is_test = isinstance(collector, pytest.Class) and inspect.isfunction(obj) and name.startswith("test_")
    return [] if is_test and not FULL and not is_of_today(collector, name) else None


@pytest.hookimpl
def pytest_make_parametrize_id(val: object) -> str | None:
    """Name a row by the beginning of a long text: a million letters would go from each worker, and with each report."""
    if not isinstance(val, str | bytes) or len(val) <= LONGEST_NAME:
        return None
    beginning = val[:LONGEST_NAME]
    text = beginning if isinstance(beginning, str) else beginning.decode("latin-1")
    return f"{text.encode('unicode_escape').decode()}... {len(val)} long"


@pytest.hookimpl(trylast=True)  # all tables are there, those of fixtures too
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Take of the rows of a test those of every day. The whole tables say it, whatever is collected of them: a row that
    is named, or that failed last, is of today or not as ever. `callspec.indices` number all rows of a test.
    """
    share, calls = share_of_rows(metafunc)
    daily = share.takes_rows([row._idlist for row in calls]) if calls else []
    for row, is_daily_row in zip(calls, daily, strict=True):
        if not is_daily_row:
            row.marks.append(pytest.mark.only_in_prove.mark)


def share_of_rows(metafunc: pytest.Metafunc) -> tuple[DailyShare, Sequence[Any]]:
    """What is said of its rows, and of which of them. If nothing is: above the contract, where of those that are for
    every day some name another engine alone, one of the engines.
    """
    said = next((share for share in daily_shares(metafunc.definition) if share.rows > 1), None)
    if said is not None:
        return said, metafunc._calls
    calls = [row for row in metafunc._calls if all(mark.name != ONLY_IN_PROVE for mark in row.marks)]
    name = metafunc.definition.nodeid
    is_contract = name.startswith("tests/contract/")
    share = None if is_contract else share_of_engines(name, [row._idlist for row in calls])
    return (share, calls) if share else (DailyShare(), [])


def is_daily(item: pytest.Item) -> bool:
    """Whether a test is for every day, and not for `prove` alone."""
    return is_of_today(item, getattr(item, "originalname", "")) and item.get_closest_marker(ONLY_IN_PROVE) is None


def is_of_today(node: pytest.Item | pytest.Collector, name: str) -> bool:
    """Whether a test of that name is among those that are tried every day."""
    return all(share.takes_test(name) for share in daily_shares(node))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Spare the garbage collector what stays to the end: it would look at thousands of tests again and again, here for
    a third of the time and in each test for some of it.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """End what waits in vain at the line where it waits, shortly before the limit of the whole test would end it from
    outside, where nothing is seen but an event loop.
    """
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.obj = bounded(item.obj, 0.9 * time_limit(item))


def time_limit(item: pytest.Item) -> float:
    """Seconds that pytest-timeout gives a test."""
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0] if marker else item.config.getoption("timeout") or item.config.getini("timeout") or 300)


def bounded(function: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    @functools.wraps(function)
    async def run(*arguments: Any, **named: Any) -> None:
        # hours pass at once in a loop that moves its time, and one that would hang says so
        loop, waits = asyncio.get_running_loop(), list[str]()
        is_timed = abs(loop.time() - time.monotonic()) < 60
        limit = asyncio.timeout(seconds if is_timed else None)
        # just before, as the limit ends what others wait for, too
        look = loop.call_later(0.95 * seconds, lambda: waits.extend(waits_of_tasks())) if is_timed else None
        TEST_ENDS.set(loop.time() + seconds if is_timed else math.inf)
        try:
            async with limit:
                await function(*arguments, **named)
        except TimeoutError as error:
            if not limit.expired():
                raise
            text = f"after {seconds:.0f} s this test still waits, at the last line above, and beside it:\n"
            raise TimeoutError(text + "\n".join(waits)) from error
        finally:
            if look is not None:
                look.cancel()

    return run


def waits_of_tasks() -> Iterator[str]:
    """Where each task waits: at the line of what it awaits at last."""
    for task in asyncio.all_tasks():
        waiting: Any = task.get_coro()
        while (inner := getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)) is not None:
            if not hasattr(inner, "cr_frame") and not hasattr(inner, "ag_frame"):
                break
            waiting = inner
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None)
        where = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}" if frame else repr(waiting)
        yield f"  {task.get_name()}: {where}"


# ---------------------------------------------------------------- sizes and proofs


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where everything is demanded nothing may be left out, for whatever reason."""
    report = yield
    if report.passed and hasattr(item.config, "workerinput"):  # three such reports of each test are sent and read
        report.sections, report.keywords = [], {}
    if REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid}: {reason} (TURNKEEP_REQUIRE_SERVICES=1 forbids to skip)"
    return report


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A verb that runs in this process configures logging for all of it: the tests behind it would read no line."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)  # the loggers remember whether they are heard; this makes them ask again


@pytest.fixture(scope="session")
def size() -> Callable[[int, int], int]:
    """`size(small, full)`: the small number in the everyday run, the full one in `dev.py prove`."""
    return lambda small, full: full if FULL else small


@pytest.fixture
def proof(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`proof(name, figures)`: one line of figures, printed now and again at the end of the run."""

    def tell(name: str, figures: str) -> None:
        request.node.user_properties.append(("proof", f"{name}: {figures}"))
        if FULL:
            print(f"\nPROVE {name}: {figures}", flush=True)

    return tell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for group in terminalreporter.stats.values() for report in group]
    properties = [pair for report in reports for pair in getattr(report, "user_properties", ())]
    lines = dict.fromkeys(value for key, value in properties if key == "proof")
    if lines:
        terminalreporter.section("figures at full size" if FULL else "figures at reduced size")
    for line in lines:
        terminalreporter.write_line(f"PROVE {line}")
    ended = [report for report in reports if getattr(report, "when", "") == "call"]
    if tried := [value for report in ended for key, value in report.user_properties if key == "attempts"]:
        terminalreporter.write_line(f"attempts {sum(n for n, _ in tried)} | leaks {sum(n for _, n in tried)}")


@pytest.fixture
def memory_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for stores that are not asked what a disk keeps: every day their syncs cost nothing."""
    if FULL:  # figures are those of a disk
        yield tmp_path_factory.mktemp("store")
        return
    with folder_in_memory() as folder:
        yield folder


# ---------------------------------------------------------------- real servers


@pytest.fixture(scope="session")
def redis_installed() -> str:
    """For tests that start servers of their own: the Redis (else Valkey) program; skips or fails without one."""
    return redis_program() or absent("redis-server")


@pytest.fixture(scope="session")
def rabbit_installed() -> str:
    """For tests that start brokers of their own: the RabbitMQ script; skips or fails without one."""
    return rabbit_program() or absent("rabbitmq-server")


@pytest.fixture(scope="session")
def redis_process(redis_installed: str) -> Iterator[RedisServer]:
    """One Redis for all tests of this worker (`redis-server`, else a Valkey), append-only, never evicting."""
    with RedisServer(program=redis_installed) as server:
        yield server


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    """The shared Redis, running and empty. To kill or reconfigure one, start a `RedisServer` of your own."""
    return redis_process.fresh()


@pytest.fixture(scope="session")
def valkey_process() -> Iterator[RedisServer]:
    """One Valkey for all tests of this worker."""
    with RedisServer(program=valkey_program() or absent("redis-server")) as server:
        yield server


@pytest.fixture
def valkey_server(valkey_process: RedisServer) -> RedisServer:
    """The shared Valkey, running and empty."""
    return valkey_process.fresh()


@pytest.fixture(scope="session")
def rabbit_process(rabbit_installed: str) -> Iterator[RabbitServer]:
    """One RabbitMQ for all tests of this worker."""
    with RabbitServer(program=rabbit_installed) as server:
        yield server


@pytest.fixture
def rabbit_server(rabbit_process: RabbitServer) -> RabbitServer:
    """The shared RabbitMQ, running; what earlier tests declared is still there, so take names from `amqp_name`."""
    rabbit_process.start()
    return rabbit_process


@pytest.fixture
def amqp_name() -> str:
    """A prefix for exchanges and queues that no other test uses."""
    return f"t{secrets.token_hex(6)}"


@pytest.fixture(scope="session")
def chromium_path() -> Path:
    """The browser of this machine, for playwright's `executable_path` (with `--no-sandbox` as root)."""
    return Path(program("chromium"))


@pytest.fixture(scope="session")
def bubblewrap() -> str:
    """For tests whose tools run in the sandbox."""
    return program("bwrap")


@pytest.fixture(scope="session")
def nginx() -> str:
    """For tests that put a real proxy before the service, with a configuration of their own."""
    return program("nginx")
