"""The checks of `turnkeep doctor`: each looks at one thing and says how it is, in one sentence."""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import aiohttp
import apsw

from turnkeep.cli import context, output, server_note, service_tools, version
from turnkeep.clock import SystemClock
from turnkeep.composition import endpoint_of
from turnkeep.errors import StoreMisconfigured, TurnkeepError
from turnkeep.models.anthropic import VERSION
from turnkeep.pricing.catalog import Catalog
from turnkeep.settings import Settings, misspelt
from turnkeep.store.contract import Store
from turnkeep.store.sinks import SinkRecord

if TYPE_CHECKING:
    from turnkeep.auth.api_keys import Key
    from turnkeep.broker import Sight
    from turnkeep.tools.sandbox import SandboxReport

ROUND_TRIPS = 5

PATIENCE = 8.0
"""Seconds in which the model's server has to answer."""

LATE = 60.0
"""Seconds after which an event that waits for a sink is worth a word."""

A_LONG_LOG = 100_000_000
"""Bytes of a log that does not shrink as it should."""

A_WEEK = 7 * 86_400.0

State = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Finding:
    """How one thing is."""

    name: str
    state: State
    sentence: str

    def to_json(self) -> dict[str, str]:
        return {"name": self.name, "state": self.state, "sentence": self.sentence}


def ok(name: str, sentence: str) -> Finding:
    return Finding(name, "ok", sentence)


def warning(name: str, sentence: str) -> Finding:
    return Finding(name, "warning", sentence)


def failure(name: str, sentence: str) -> Finding:
    return Finding(name, "failure", sentence)


async def examine(settings: Settings, *, offline: bool) -> AsyncIterator[Finding]:
    """All checks, one after the other. What stands in the way of one does not end the others."""
    for check in (_names, _versions, _extras, _descriptors, _sandbox):
        for finding in check(settings):
            yield finding
    async for finding in _doors(settings):
        yield finding
    for one in (_tools, _model if not offline else _model_offline, _server):
        yield await _try(one, settings)
    async for finding in _rabbitmq(settings):
        yield finding
    async for finding in _store(settings):
        yield finding


async def _try(check: Callable[[Settings], Awaitable[Finding]], settings: Settings) -> Finding:
    try:
        return await check(settings)
    except TurnkeepError as error:
        return failure(check.__name__.strip("_").removesuffix("_offline"), str(error))


# ---------------------------------------------------------------- this machine


def _names(_: Settings) -> Iterator[Finding]:
    """A setting that is not spelt as it is called is not heard, and nobody else would say so."""
    for name, closest in misspelt(context.environment()):
        hint = f"did you mean {closest}?" if closest else "unset it"
        yield warning("spelling", f"{name} is set and is no setting: {hint}")


def _versions(settings: Settings) -> Iterator[Finding]:
    from turnkeep.store.sqlite.connection import check_version

    yield ok("version", f"turnkeep {version()}, Python {sys.version.split()[0]}")
    library = apsw.sqlite_lib_version()
    try:
        check_version(library)
    except StoreMisconfigured as error:
        yield failure("sqlite", str(error))
    else:
        yield ok("sqlite", f"SQLite {library}")


async def _doors(settings: Settings) -> AsyncIterator[Finding]:
    """Whether others can come in, by the rule that the server starts by, and what their tokens are signed with."""
    from turnkeep.auth.api_keys import ApiKeys, Key

    path, keys = context.sqlite_path(settings), list[Key]()
    if path is None or path.exists():
        try:
            async with context.attach_store(settings) as store:
                keys = await ApiKeys(store).list()
        except TurnkeepError:
            yield failure("access", "whether there are keys cannot be seen while the store cannot be used")
            return
    yield _access(settings, keys)
    if settings.takes_tokens:
        yield await _tokens(settings)


def _access(settings: Settings, keys: Sequence[Key]) -> Finding:
    from turnkeep.auth.guard import asks_for_credentials

    place = f"{settings.host}:{settings.port}"
    try:
        asks = asks_for_credentials(settings, has_keys=bool(keys))
    except TurnkeepError as error:
        return failure("access", str(error))
    if asks:
        valid = sum(key.is_valid(SystemClock().now()) for key in keys)
        if not valid and not settings.takes_tokens and settings.start_token is None:
            return warning("access", f"{place} asks for credentials and there are none: turnkeep keys create")
        return ok("access", f"{place} asks for credentials ({output.count(valid, 'valid key')})")
    if not (settings.is_loopback and not settings.hosts):
        return warning("access", f"{place} is reached from elsewhere, and everybody may do everything there")
    reach = "every user and every program of this machine may read, send and decide there"
    if settings.allow_bash:
        reach += ", and has a shell of yours through execute_bash"
    if keys or settings.takes_tokens:
        return warning("access", f"{place} asks nobody, though there are credentials: TURNKEEP_AUTH=off; {reach}")
    return ok("access", f"{place} asks nobody: {reach}; turnkeep dev --token and turnkeep keys create close it")


async def _tokens(settings: Settings) -> Finding:
    """Algorithm and kind of the keys, so that nobody takes one for the other."""
    from turnkeep.auth.guard import tokens_of

    try:
        tokens = tokens_of(settings)
        description = await tokens.describe() if tokens else ""
    except TurnkeepError as error:
        return failure("tokens", str(error))
    if settings.jwt_issuer is None and settings.jwt_secret is None:
        return warning("tokens", f"{description}: set TURNKEEP_JWT_ISSUER, or all who share these keys may come in")
    return ok("tokens", description)


def _extras(settings: Settings) -> Iterator[Finding]:
    needs = [
        ("redis", "redis", settings.store_url.partition(":")[0] not in ("sqlite", "memory")),
        ("rabbitmq", "aio_pika", settings.rabbitmq_url is not None),
        ("jwt", "jwt", settings.takes_tokens),
        ("otel", "opentelemetry.sdk", settings.otel_endpoint is not None),
    ]
    for extra, module, used in needs:
        if used and not _is_installed(module):
            yield failure("extras", f"{extra} is set but not installed, run: python -m pip install 'turnkeep[{extra}]'")


def _descriptors(settings: Settings) -> Iterator[Finding]:
    """Where the system gives a process fewer than its connections want, they are fewer than is set."""
    from turnkeep.doors.peers import most_connections, raise_descriptors

    most = most_connections(settings.max_connections, raise_descriptors())
    if settings.max_connections and most < settings.max_connections:
        yield warning(
            "descriptors",
            f"a process may have {most} connections here, not the {settings.max_connections} of "
            "TURNKEEP_MAX_CONNECTIONS: raise its limit of open files (`ulimit -Hn`, LimitNOFILE of systemd)",
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _sandbox(settings: Settings) -> Iterator[Finding]:
    try:
        from turnkeep.tools.sandbox import probe
    except ImportError:
        return
    report = probe(settings.sandbox)
    if report.refusal is not None:
        state = failure if settings.allow_bash else ok
        yield state(
            "sandbox", report.refusal if settings.allow_bash else f"execute_bash is off (here {_short(report)})"
        )
        return
    say = warning if settings.sandbox == "outside" or (settings.allow_bash and report.root) else ok
    root = "; run as an ordinary user, not as root" if say is warning and report.root else ""
    yield say("sandbox", f"execute_bash would run under {report.description}{root}")


def _short(report: SandboxReport) -> str:
    return (report.refusal or "").partition(";")[0]


async def _tools(settings: Settings) -> Finding:
    return ok("tools", ", ".join(service_tools.names(settings, context.environment())) or "none are set")


# ---------------------------------------------------------------- who answers


def today() -> date:
    return datetime.fromtimestamp(SystemClock().now(), UTC).date()


async def _model_offline(settings: Settings) -> Finding:
    if settings.uses_simulator:
        names = "OPENAI_API_KEY, OPENAI_BASE_URL or ANTHROPIC_API_KEY"
        return warning("model", f"the built-in simulator answers: set {names}")
    catalog = Catalog.load(settings.price_file)
    name = settings.model or catalog.default
    for notice in catalog.check(name, today()):
        return failure("model", str(notice)) if notice.kind == "gone" else warning("model", str(notice))
    return ok("model", f"{name} at {endpoint_of(settings).base_url}")


async def _model(settings: Settings) -> Finding:
    """What the catalogue says, and whether the server takes our key."""
    finding = await _model_offline(settings)
    if settings.uses_simulator or finding.state == "failure":
        return finding
    refusal = await _ask_server(settings)
    return refusal or finding


async def _ask_server(settings: Settings) -> Finding | None:
    """Ask the server for its models: what is wrong, None if nothing is."""
    endpoint = endpoint_of(settings)
    base, key = endpoint.base_url.rstrip("/"), endpoint.api_key
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    if not settings.uses_openai:
        headers |= {"anthropic-version": VERSION, "x-api-key": key}
    variable = "OPENAI_API_KEY" if settings.uses_openai else "ANTHROPIC_API_KEY"
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(f"{base}/models", proxy=settings.model_proxy) as response,
        ):
            status = response.status
    except TimeoutError:
        return failure("model", f"{base} does not answer within {PATIENCE:.0f} s")
    except (aiohttp.ClientError, ValueError) as error:
        return failure("model", f"{base} cannot be reached: {error}")
    if status in (401, 403):
        return failure("model", f"{base} refuses the key ({status}): correct {variable}")
    return failure("model", f"{base} answers {status}, try again later") if status >= 500 else None


async def _server(settings: Settings) -> Finding:
    if settings.url is not None:
        if await asyncio.to_thread(server_note.answers, settings.url):
            return ok("server", f"the server at {settings.url} (TURNKEEP_URL) answers")
        return warning("server", f"the server at {settings.url} does not answer: start it, or unset TURNKEEP_URL")
    url = await asyncio.to_thread(server_note.find, settings)
    if url is None:
        return ok("server", "none is running with this store")
    readiness = await _readiness(url)
    if isinstance(readiness, str):
        return failure("server", f"the server at {url} runs and cannot use its store ({readiness}): {STORE_LOST}")
    if readiness.get("full"):
        return warning("server", f"the server at {url} had no room for all connections a moment ago: {FULL}")
    return ok("server", f"a server with this store listens on {url}")


STORE_LOST = "if the file was deleted or replaced while it is open, put it back or start the server again"


FULL = "see who comes (`connection_delayed` in its log), raise TURNKEEP_MAX_CONNECTIONS or its limit of open files"


async def _readiness(url: str) -> dict[str, Any] | str:
    """What a server of this machine says of itself, or why it is not ready."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/readyz") as response:
            if response.status != HTTPStatus.OK:
                return f"status {response.status}"
            body = await response.json(content_type=None)
            return body if isinstance(body, dict) else {}
    except (TimeoutError, aiohttp.ClientError, ValueError) as error:
        return type(error).__name__


# ---------------------------------------------------------------- the broker


async def _rabbitmq(settings: Settings) -> AsyncIterator[Finding]:
    """What the AMQP door will find: nothing is made by looking."""
    if settings.rabbitmq_url is None or not _is_installed("aio_pika"):
        return
    from turnkeep.broker import CONNECTION_ERRORS, broker_of, look

    broker = broker_of(settings.rabbitmq_url)
    try:
        sight = await look(settings)
    except CONNECTION_ERRORS as error:
        yield failure("rabbitmq", f"{broker} cannot be used: {type(error).__name__}: {error}, correct RABBITMQ_URL")
        return
    for finding in _broker_findings(settings, sight, broker):
        yield finding


def _broker_findings(settings: Settings, sight: Sight, broker: str) -> Iterator[Finding]:
    names = f"queue {settings.queue_name} at {broker}"
    if settings.queue_name in sight.absent:
        yield ok("rabbitmq", f"there is no {names} yet, a quorum queue is made at the first start")
    else:
        kind = f"a {sight.kind} queue" if sight.kind else "a queue whose type is not told"
        load = f"{sight.waiting:,} waiting, {output.count(sight.consumers, 'consumer')}"
        state = failure if sight.kind == "stream" else ok
        yield state("rabbitmq", f"{names} is {kind}: {load}" + STREAM * (sight.kind == "stream"))
    if sight.parked_count:
        what = f"{output.count(sight.parked_count, 'message')} of {settings.queue_name}"
        yield warning("rabbitmq parked", f"{what} could not be taken, the reasons stand in their headers")
    parts = urlsplit(settings.rabbitmq_url or "")
    if parts.password in (None, "guest") and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        yield warning("rabbitmq user", f"{broker} is asked as guest with the default password, give it one of its own")


STREAM = "; a stream keeps what was taken, so it is no queue to take messages from: set QUEUE_NAME to another"


# ---------------------------------------------------------------- the store


async def _store(settings: Settings) -> AsyncIterator[Finding]:
    path = context.sqlite_path(settings)
    try:
        if path is not None and not path.exists():
            yield _can_be_made(path)
            return
        async with context.attach_store(settings) as store:
            yield await _engine(settings, store)
            for reason in (await store.check()).get("rebuilt", ()):
                yield warning("damage", f"{reason}: look for who writes to this Redis, or at its disk")
            if not settings.store_url.startswith(("memory:", "sqlite:")):
                yield await _network(settings, store)
            async for finding in _contents(settings, store):
                yield finding
            for finding in _sinks(await store.sinks(), await store.now()):
                yield finding
    except TurnkeepError as error:
        yield failure("store", str(error))


def _sinks(records: Sequence[SinkRecord], now: float) -> Iterator[Finding]:
    """What does not reach the outside. What fell out at a bound is told for a week."""
    for record in records:
        name = record.name
        if record.lost and now - (record.lost_at or 0.0) < A_WEEK:
            fell = f"{output.count(record.lost, 'event')} fell out, the last at {output.moment(record.lost_at)}"
            yield failure("sinks", f"{name}: {fell}: its receiver was away for longer than the bound holds")
        if record.parked:
            what = f"{output.count(record.parked, 'event')} parked, {record.given_up} given up"
            yield warning("sinks", f"{name}: {what}, see `turnkeep sinks parked {name}`")
        if record.waiting and now - (record.oldest_at or now) > LATE:
            behind = output.span(now - (record.oldest_at or now))
            yield warning("sinks", f"{name}: the oldest event waits for {behind}: its receiver takes nothing")


def _can_be_made(path: Path) -> Finding:
    """Nothing is made by looking."""
    from turnkeep.store.sqlite.file_identity import require_whole

    require_whole(path)
    nearest = next(parent for parent in path.parents if parent.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK):
        return ok("store", f"{path} does not exist yet and can be made")
    return failure("store", f"{path} cannot be made: {nearest} is no directory that can be written, set TURNKEEP_STORE")


async def _engine(settings: Settings, store: Store) -> Finding:
    facts = await store.check()
    if settings.store_url.startswith("memory:"):
        return warning("store", f"memory: loses {facts['loses']}")
    bytes_ = f", {output.size(int(facts['bytes']))}" if "bytes" in facts else ""
    about = f"{facts['engine']}, {facts['durability']}{bytes_}"
    if (log := int(facts.get("log_bytes", 0))) > A_LONG_LOG:
        return warning(
            "store",
            f"the log of changes has {output.size(log)} and cannot shrink: another program keeps reading an old state"
            f" of {context.place(settings)}, end it",
        )
    return ok("store", f"{context.place(settings)} can be written ({about}); may lose {facts['loses']}")


async def _network(settings: Settings, store: Store) -> Finding:
    """Whether leases can be renewed in time: a renewal is one way to the store and back, and may be lost once."""
    loop, slowest = asyncio.get_running_loop(), 0.0
    for _ in range(ROUND_TRIPS):
        start = loop.time()
        await store.now()
        slowest = max(slowest, loop.time() - start)
    lease = settings.lease_duration
    if slowest > lease / 20:
        advice = f"set TURNKEEP_LEASE to {max(lease, math.ceil(slowest * 20)):.0f} or more"
        return warning("network", f"the store answers after {slowest:.2f} s, slow for a lease of {lease:g} s: {advice}")
    return ok("network", f"the store answers within {slowest * 1000:.0f} ms, the lease is {lease:g} s")


async def _contents(settings: Settings, store: Store) -> AsyncIterator[Finding]:
    for circuit in await store.circuits():
        since = output.moment(circuit.opened_at)
        yield failure("circuits", f"nobody answers at {circuit.endpoint} since {since}: {circuit.fault.details}")
    counts = await store.counts(queue=settings.queue)
    if counts.dead_letters:
        what = output.count(counts.dead_letters, "dead letter")
        yield warning("dead letters", f"{what} wait for a person: turnkeep queue dead list")
    else:
        yield ok("dead letters", "none")
    yield await _assistant(settings, store)


async def _assistant(settings: Settings, store: Store) -> Finding:
    from turnkeep.assistants import Assistants

    catalog = Catalog.load(settings.price_file)
    assistants = Assistants(store, model=settings.model or catalog.default, instructions=settings.instructions)
    assistant_id = settings.openai_assistant_id
    if assistant_id is not None and await store.get("assistant", "default", assistant_id) is None:
        return warning(
            "assistant", f"OPENAI_ASSISTANT_ID={assistant_id} does not exist, it is made anew at the next start"
        )
    assistant = await (assistants.get("default", assistant_id) if assistant_id else assistants.default("default"))
    if assistant is None:
        return ok("assistant", "none yet, one is made at the first start")
    for notice in [] if settings.uses_simulator else catalog.check(assistant.model, today()):
        return warning("assistant", f"{assistant.assistant_id}: {notice}")
    return ok("assistant", f"{assistant.assistant_id} with {assistant.model}")
