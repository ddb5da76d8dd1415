"""Where the CPU of a row goes: a sampling profile (py-spy) of the process that does its work, while it works.

Shares of the samples with the lock of the interpreter held, by package and by function. What is
compiled (uvloop, orjson, SQLite) counts for the Python function that called it.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import redis

from bench.ladder.callers import Subscriber, connect, subscribe
from bench.ladder.fanout import audience, hear
from bench.ladder.first_event import ask_product
from bench.ladder.http_runs import CLIENTS, client
from bench.ladder.peers import installed
from bench.ladder.sizes import Size
from bench.ladder.sqlite_rates import whole_turns
from bench.ladder.stack import Stack
from bench.ladder.store_life import GROUPS, POLICIES, SINGLE, live, redis_store
from bench.ladder.tokens import House, Load, warm
from turnkeep.store.sqlite import SqliteStore

TOP = 12
WARM = 2.0
"""Seconds in which a process loads what it loads once."""
PATIENCE = 120.0
_FRAME = re.compile(r"^(?P<function>.+) \((?P<file>.+?)(?::\d+)?\)$")


@dataclass(frozen=True, slots=True)
class Profile:
    """Percent of the samples; and of redis-server, calls and microseconds of a message by command."""

    title: str
    packages: Mapping[str, float]
    functions: Mapping[str, float]
    commands: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class Work:
    """What goes on while somebody looks: in which process, and what its server has to say in the end."""

    pid: int
    commands: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subject:
    """What can be profiled, and the rows that it explains."""

    title: str
    rows: tuple[int, ...]
    work: Callable[[Stack, Size], AbstractAsyncContextManager[Work]]
    """Works for as long as its block lasts."""


async def take(missed: Collection[int], size: Size) -> list[Profile]:
    """Of each subject that explains one of these rows; what cannot be looked at is left out, which is said."""
    subjects = [one for one in SUBJECTS if set(one.rows) & set(missed)]
    programs = await asyncio.to_thread(installed, "py-spy", ("py-spy",)) if subjects else None
    if programs is None:
        return []
    profiles = []
    for subject in subjects:
        say(subject.title)
        try:
            profiles.append(await look_at(subject, programs, size))
        except Exception as error:
            say(f"no profile of it: {type(error).__name__}: {error}")
    return profiles


async def look_at(subject: Subject, programs: Path, size: Size) -> Profile:
    with Stack() as stack:
        async with subject.work(stack, size) as work:
            await asyncio.sleep(WARM)
            stacks = await asyncio.to_thread(record, programs, work.pid, stack.folder / "stacks", size.of(3, 6))
    return replace(fold(stacks), title=subject.title, commands=work.commands)


def record(programs: Path, pid: int, file: Path, seconds: int) -> str:
    options = ["--format", "raw", "--duration", str(seconds), "--rate", "200", "--gil", "--output", str(file)]
    command = [str(programs / "py-spy"), "record", "--pid", str(pid), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not file.exists():
        raise RuntimeError(done.stderr.strip()[-200:])
    return file.read_text()


def say(text: str) -> None:
    print(f"bench: profile: {text}", file=sys.stderr, flush=True)


def fold(stacks: str) -> Profile:
    """Of lines `frame;frame;… count`, the shares of the innermost frames."""
    packages, functions = Counter[str](), Counter[str]()
    for line in stacks.splitlines():
        frames, _, count = line.rpartition(" ")
        if not count.isdigit() or (found := innermost(frames)) is None:
            continue
        package, place = place_of(found["file"])
        packages[package] += int(count)
        functions[f"{place} {found['function']}"] += int(count)
    return Profile("", _shares(packages), _shares(functions))


def innermost(frames: str) -> re.Match[str] | None:
    """Where the time was; what dataclasses generate has no file, and counts for who calls it."""
    for frame in reversed(frames.split(";")):
        if (found := _FRAME.match(frame)) is None or found["file"] != "<string>":
            return found
    return None


def place_of(file: str) -> tuple[str, str]:
    """The package of a file, and its path from there."""
    if "turnkeep/" in file:
        inner = file.rpartition("turnkeep/")[2]
        return f"turnkeep.{inner.partition('/')[0].removesuffix('.py')}", inner
    if "site-packages/" in file:
        return file.rpartition("site-packages/")[2].partition("/")[0].removesuffix(".py"), Path(file).name
    # py-spy shortens paths of libraries: the first part is the package, and a file alone is of Python
    package = file.partition("/")[0] if "/" in file and not file.startswith("/") else "Python"
    return package, Path(file).name


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = sum(counts.values()) or 1
    return {name: round(count / total * 100, 1) for name, count in counts.most_common(TOP)}


# ---------------------------------------------------------------- works


@asynccontextmanager
async def going_on(work: Callable[[], Any]) -> AsyncIterator[None]:
    """Again and again, until the block is left; what fails in it fails the block."""

    async def forever() -> None:
        while True:
            await work()

    task = asyncio.create_task(forever())
    try:
        yield
        if task.done():
            await task
    finally:
        task.cancel()
        await asyncio.wait([task], timeout=PATIENCE)


@asynccontextmanager
async def first_tokens(stack: Stack, size: Size) -> AsyncIterator[Work]:
    service, numbers = stack.service(model=stack.model()), count()
    async with going_on(lambda: ask_product(service.port, 20, f"p{next(numbers)}")):
        yield Work(service.process.pid)


@asynccontextmanager
async def streams(stack: Stack, size: Size, *, is_apart: bool = False) -> AsyncIterator[Work]:
    load, model = Load(size.of(50, 200), size.of(60, 100), 100), stack.model()
    door, parts = stack.apart(model) if is_apart else (service := stack.service(model=model), [service])
    await warm(House("", door, parts))
    callers = await connect(Subscriber, door.port, load.streams)
    await subscribe(callers, "t{}")
    answers = [caller.say(f"t{place}", f"mode={load.mode}") for place, caller in enumerate(callers)]
    yield Work(door.process.pid)
    await asyncio.wait_for(asyncio.gather(*answers), PATIENCE)


@asynccontextmanager
async def streams_of_a_gateway(stack: Stack, size: Size) -> AsyncIterator[Work]:
    async with streams(stack, size, is_apart=True) as work:
        yield work


@asynccontextmanager
async def one_to_many(stack: Stack, size: Size) -> AsyncIterator[Work]:
    service = stack.service(model=stack.model())
    callers = await audience(service, size.of(100, 1_000))
    async with going_on(lambda: hear(callers, "trickle-20-100")):
        yield Work(service.process.pid)


@asynccontextmanager
async def messages_on_redis(stack: Stack, size: Size) -> AsyncIterator[Work]:
    server, messages = stack.redis(), size.of(500, 2_000)
    lives: list[int] = []

    async def life() -> None:
        async with redis_store(server) as store:
            await live(store, server, SINGLE, messages)
            lives.append(messages)

    with redis.Redis(port=server.port) as link:
        await life()
        link.config_resetstat()
        lives.clear()
        work = Work(os.getpid())
        async with going_on(life):
            yield work
            work.commands = commands(link, sum(lives) or messages)


@asynccontextmanager
async def messages_on_sqlite(stack: Stack, size: Size) -> AsyncIterator[Work]:
    numbers = count()

    async def life() -> None:
        store = SqliteStore(stack.folder / f"life-{next(numbers)}.db", POLICIES)
        await store.open()
        try:
            await live(store, None, GROUPS, size.of(500, 4_000))
        finally:
            await store.close()

    async with going_on(life):
        yield Work(os.getpid())


@asynccontextmanager
async def turns_on_sqlite(stack: Stack, size: Size) -> AsyncIterator[Work]:
    model, numbers = stack.model(), count()
    async with going_on(lambda: whole_turns(stack.folder / f"turns-{next(numbers)}.db", model.port, 400)):
        yield Work(os.getpid())


@asynccontextmanager
async def runs_over_http(stack: Stack, size: Size) -> AsyncIterator[Work]:
    service, numbers = stack.service(model=stack.model()), count()

    async def several() -> None:
        number = next(numbers)
        await asyncio.gather(*[client(service.port, f"p{number}-{n}", 10) for n in range(CLIENTS)])

    async with going_on(several):
        yield Work(service.process.pid)


SUBJECTS = (
    Subject("A first token, embedded: one caller at a time", (1, 2), first_tokens),
    Subject("A token, embedded on SQLite", (3, 5), streams),
    Subject("A token in a gateway on Redis", (4, 7), streams_of_a_gateway),
    Subject("One thread and its many subscribers, embedded", (6,), one_to_many),
    Subject("The life of a message on Redis: the client", (9,), messages_on_redis),
    Subject("The life of messages on SQLite, in groups of 20", (10,), messages_on_sqlite),
    Subject("A whole turn on SQLite, with a model that says one word", (10,), turns_on_sqlite),
    Subject("A run over HTTP, embedded on SQLite", (11,), runs_over_http),
)


def commands(link: redis.Redis, messages: int) -> dict[str, tuple[float, float]]:
    """Calls and microseconds of a message, by command; what scripts cost beside the commands that they call is Lua."""
    stats: Mapping[str, Mapping[str, float]] = link.info("commandstats")
    names = {name.removeprefix("cmdstat_"): one for name, one in stats.items() if one["usec"]}
    scripts = [names.pop(name) for name in ("evalsha", "eval", "fcall") if name in names]
    inner = sum(one["usec"] for one in names.values())
    lua = (sum(one["calls"] for one in scripts), sum(one["usec"] for one in scripts) - inner)
    most = sorted(names.items(), key=lambda item: -item[1]["usec"])[:TOP]
    rows = {"Lua, without the commands that it calls": lua} | {name: (one["calls"], one["usec"]) for name, one in most}
    return {name: (round(calls / messages, 2), round(spent / messages, 1)) for name, (calls, spent) in rows.items()}
