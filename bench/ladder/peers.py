"""Peers that do the same work, in the same run (`--peers`): each is installed into `.dev/peers` the first time.

Streams: LiteLLM's proxy and a graph on LangGraph's development server, which pass on what the model says; Chainlit,
which shows it in a chat. Queues: the seeds' recipe on BullMQ, and DBOS, whose workflows are as durable as our turns.
Left out, because they need a PostgreSQL server, which the tests of this repository do not have: procrastinate.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp

from bench.ladder.figures import Figure, percentile, ratio
from bench.ladder.queue_life import bullmq, node_with_packages
from bench.ladder.sizes import Size
from bench.ladder.stack import HERE, Part, Stack, cost, cpu_now, environment, free_port
from bench.ladder.store_life import BURSTS, POLICIES, SINGLE, live, redis_store
from bench.ladder.tokens import House, Load, flow, open_callers, warm
from turnkeep.store.sqlite import SqliteStore

ROOT = HERE.parents[1]
FOLDER = ROOT / ".dev" / "peers"
PROGRAMS = HERE / "peer_programs"
PATIENCE = 120.0
TOKEN = re.compile(rb'"content": ?"[^"]')


@dataclass(frozen=True, slots=True)
class StreamingPeer:
    """A server that passes on what the model says, as server-sent events."""

    name: str
    packages: tuple[str, ...]
    command: Callable[[Place], Sequence[str | Path]]
    path: str = ""
    body: Mapping[str, object] = field(default_factory=dict)
    """Empty: it is called by `chainlit_caller`."""

    @property
    def word(self) -> str:
        return self.name.partition(" ")[0].lower()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer runs: its programs, a folder to write to, its port, and the model that it asks."""

    programs: Path
    folder: Path
    port: int
    model: str


def litellm_command(place: Place) -> Sequence[str | Path]:
    config = place.folder / "litellm.yaml"
    asked = {"model": "openai/gpt-4o-mini", "api_key": "sk-bench", "api_base": place.model}
    permitted = {"dangerously_permit_weak_or_unset_master_key": True}  # reached from this machine alone
    models = [{"model_name": "bench", "litellm_params": asked}]
    config.write_text(json.dumps({"model_list": models, "general_settings": permitted}))
    return [place.programs / "litellm", "--config", config, "--host", "127.0.0.1", "--port", str(place.port)]


def langgraph_command(place: Place) -> Sequence[str | Path]:
    shutil.copy(PROGRAMS / "langgraph_app.py", place.folder)
    config = place.folder / "langgraph.json"
    config.write_text(json.dumps({"dependencies": ["."], "graphs": {"bench": "./langgraph_app.py:graph"}}))
    options = ["--port", str(place.port), "--no-browser", "--no-reload", "--n-jobs-per-worker", "100"]
    return [place.programs / "langgraph", "dev", "--config", config, "--host", "127.0.0.1", *options]


def chainlit_command(place: Place) -> Sequence[str | Path]:
    shutil.copy(PROGRAMS / "chainlit_app.py", place.folder)
    return [
        place.programs / "chainlit",
        "run",
        place.folder / "chainlit_app.py",
        "--port",
        str(place.port),
        "--headless",
    ]


HELLO = [{"role": "user", "content": "hello"}]
STREAMING = (
    StreamingPeer("LiteLLM proxy", ("litellm[proxy]",), litellm_command, "/v1/chat/completions",
                  {"model": "bench", "stream": True, "messages": HELLO}),
    StreamingPeer("LangGraph dev server", ("langgraph-cli[inmem]", "langgraph", "langchain-openai"), langgraph_command,
                  "/runs/stream", {"assistant_id": "bench", "stream_mode": ["messages-tuple"],
                                   "input": {"messages": HELLO}}),
    StreamingPeer("Chainlit", ("chainlit", "openai"), chainlit_command),
)  # fmt: skip


async def measure(size: Size) -> list[Figure]:
    figures = await streams(size)
    figures += await queues(size)
    return figures


def installed(name: str, packages: Sequence[str]) -> Path | None:
    """The programs of a peer, in an environment of its own; None where it cannot be had, which is said."""
    folder = FOLDER / name.partition(" ")[0].lower()
    stamp = folder / "installed"
    if not stamp.exists():
        print(f"bench: installing {name} into {folder.relative_to(ROOT)} (once)", file=sys.stderr, flush=True)
        uv = shutil.which("uv") or str(ROOT / ".dev" / "boot" / "bin" / "uv")
        python = folder / "bin" / "python"
        for command in ([uv, "venv", "-q", "--allow-existing", "--python", sys.executable, folder],
                        [uv, "pip", "install", "-q", "--python", python, *packages]):  # fmt: skip
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
            if done.returncode:
                leave_out(name, f"it cannot be installed: {done.stderr.strip()[-200:]}")
                return None
        stamp.touch()
    return folder / "bin"


def leave_out(name: str, reason: str) -> None:
    print(f"bench: {name} is left out: {reason}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------- streams


async def streams(size: Size) -> list[Figure]:
    load = Load(size.of(10, 50), size.of(20, 60), 100)
    found: dict[str, list[Mapping[str, float]]] = {}
    late: dict[str, list[float]] = {}
    with Stack() as stack:
        model = stack.model()
        pump, ours = stack.program("pump", str(model.port)), stack.service(model=model)
        houses = [House("pump", pump, [pump]), House("turnkeep, embedded", ours, [ours])]
        for house in houses:
            await warm(house)
        callers = {house.name: await open_callers(house, load.streams) for house in houses}
        asked = f"http://127.0.0.1:{model.port}/{load.mode}/v1"
        peers = [(peer, part) for peer in STREAMING if (part := await start(stack, peer, asked)) is not None]
        for _ in range(size.rounds):
            for house in houses:
                result = await flow(house, callers[house.name], load)
                found.setdefault(house.name, []).append(result.whole)
                late.setdefault(house.name, []).append(percentile(result.firsts, 0.5))
            for peer, part in list(peers):
                try:
                    spent, firsts = await flow_of(peer, part, load)
                except (aiohttp.ClientError, RuntimeError, subprocess.SubprocessError) as error:
                    leave_out(peer.name, f"{type(error).__name__}: {error}"[:200])
                    peers.remove((peer, part))
                    found.pop(peer.name, None)
                    late.pop(peer.name, None)
                    continue
                found.setdefault(peer.name, []).append(spent)
                late.setdefault(peer.name, []).append(percentile(firsts, 0.5))
    figures = [
        ratio(3, f"peers: CPU of a token / byte pump, {name}", rounds, found["pump"])
        for name, rounds in found.items()
        if name != "pump"
    ]
    figures += [
        Figure(1, f"peers: added to the first token, p50 at {load.streams} streams, {name}", "ms",
               tuple((ours - floor) * 1e3 for ours, floor in zip(firsts, late["pump"], strict=True)))
        for name, firsts in late.items() if name != "pump"
    ]  # fmt: skip
    return figures


async def start(stack: Stack, peer: StreamingPeer, model: str) -> Part | None:
    programs = await asyncio.to_thread(installed, peer.name, peer.packages)
    if programs is None:
        return None
    place = Place(programs, stack.folder / peer.word, free_port(), model)
    place.folder.mkdir()
    env = {**environment({"BENCH_MODEL": model}), "NO_COLOR": "1"}
    begun = stack.start(peer.word, peer.command(place), cwd=place.folder, env=env)
    part = replace(begun, port=place.port)
    end, reason = time.monotonic() + PATIENCE, ""
    while time.monotonic() < end and part.process.poll() is None:
        try:
            await several_streams(peer, part, 1)
        except (aiohttp.ClientError, RuntimeError, subprocess.SubprocessError) as error:
            reason = f"{type(error).__name__}: {error}"[:200]
            await asyncio.sleep(1.0)
        else:
            return part
    reason = reason or part.log.read_text(errors="replace").strip()[-200:]
    leave_out(peer.name, f"it does not answer: {reason}")
    return None


async def flow_of(peer: StreamingPeer, part: Part, load: Load) -> tuple[Mapping[str, float], list[float]]:
    before = cpu_now([part])
    streams = await several_streams(peer, part, load.streams)
    tokens = sum(count for count, _ in streams)
    if tokens < 0.9 * load.streams * load.tokens:  # some put several into one
        raise RuntimeError(f"{peer.name}: {tokens} of {load.streams * load.tokens} tokens came")
    return cost(before, cpu_now([part]), load.streams * load.tokens), [first for _, first in streams]


async def several_streams(peer: StreamingPeer, part: Part, count: int) -> list[tuple[int, float]]:
    """Of each: how many tokens came, and seconds until the first."""
    if not peer.body:
        command = [
            str(FOLDER / peer.word / "bin" / "python"),
            str(PROGRAMS / "chainlit_caller.py"),
            str(part.port),
            str(count),
        ]
        done = await asyncio.to_thread(
            subprocess.run, command, check=True, capture_output=True, text=True, timeout=PATIENCE
        )
        return [(one["tokens"], one["first"]) for one in json.loads(done.stdout)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        return list(await asyncio.gather(*[one_stream(http, peer, part.port) for _ in range(count)]))


async def one_stream(http: aiohttp.ClientSession, peer: StreamingPeer, port: int) -> tuple[int, float]:
    """How many tokens came, and seconds until the first."""
    begun_at, first, count = time.perf_counter(), 0.0, 0
    async with http.post(f"http://127.0.0.1:{port}{peer.path}", json=peer.body) as answer:
        if answer.status != 200:
            raise RuntimeError(f"{peer.name} answered {answer.status}")
        async for event in events(answer.content):
            if TOKEN.search(event):
                count += 1
                first = first or time.perf_counter() - begun_at
    if not count:
        raise RuntimeError(f"{peer.name} said nothing")
    return count, first


async def events(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    rest = b""
    async for data in content.iter_any():
        *whole, rest = (rest + data.replace(b"\r\n", b"\n")).split(b"\n\n")
        for event in whole:
            yield event


# ---------------------------------------------------------------- queues


async def queues(size: Size) -> list[Figure]:
    count = size.of(500, 3_000)
    recipe: dict[str, list[Mapping[str, float]]] = {}
    ours: dict[str, list[Mapping[str, float]]] = {}
    node, dbos = node_with_packages(), await asyncio.to_thread(installed, "DBOS", ("dbos",))
    for _ in range(size.rounds):
        for shape in (SINGLE, BURSTS):
            with Stack() as stack:
                redis = stack.redis()
                async with redis_store(redis) as store:
                    ours.setdefault(shape.name, []).append((await live(store, redis, shape, count)).cpu)
                if node:
                    program = ["seed_recipe.mjs", str(shape.burst)]
                    spent = await asyncio.to_thread(bullmq, node, stack.redis(), count, *program)
                    recipe.setdefault(shape.name, []).append(spent)
        if dbos:
            async with sqlite_life(count // 3) as (spent, folder):
                ours.setdefault("SQLite", []).append(spent)
                command = [str(dbos / "python"), str(PROGRAMS / "dbos_app.py"), str(count // 3), str(folder)]
                done = await asyncio.to_thread(
                    subprocess.run, command, cwd=folder, check=True, capture_output=True, text=True, timeout=PATIENCE
                )
                recipe.setdefault("SQLite", []).append(json.loads(done.stdout.splitlines()[-1]))
    names = {"SQLite": "peers: life of a message on SQLite / workflow of DBOS on SQLite"}
    return [
        ratio(9, names.get(name, f"peers: life of a message on Redis / the seeds' recipe, {name}"), ours[name], rounds)
        for name, rounds in recipe.items()
    ]


@asynccontextmanager
async def sqlite_life(count: int) -> AsyncIterator[tuple[Mapping[str, float], Path]]:
    with Stack() as stack:
        store = SqliteStore(stack.folder / "ours.db", POLICIES)
        await store.open()
        try:
            yield (await live(store, None, SINGLE, count)).cpu, stack.folder
        finally:
            await store.close()
