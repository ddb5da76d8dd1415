"""The checks of `turnkeep doctor`: each looks at one thing and says how it is, in one sentence."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import apsw

from turnkeep.cli import context, output, server_note, service_tools, version
from turnkeep.cli.findings import Finding, failure, ok, today, warning
from turnkeep.cli.store_checks import check_store
from turnkeep.clock import SystemClock
from turnkeep.composition import endpoint_of
from turnkeep.errors import ModelError, StoreMisconfigured, TurnkeepError
from turnkeep.models.anthropic import key_headers
from turnkeep.models.http_client import Client
from turnkeep.pricing.catalog import Catalog
from turnkeep.settings import Settings, misspelt

if TYPE_CHECKING:
    from turnkeep.auth.api_keys import Key
    from turnkeep.broker import Sight
    from turnkeep.tools.sandbox import SandboxReport

PATIENCE = 8.0
"""Seconds in which the model's server has to answer."""

STORE_LOST = "if the file was deleted or replaced while it is open, put it back or start the server again"
FULL = "see who comes (`connection_delayed` in its log), raise TURNKEEP_MAX_CONNECTIONS or its limit of open files"
STREAM = "; a stream keeps what was taken, so it is no queue to take messages from: set QUEUE_NAME to another"


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
    async for finding in check_store(settings):
        yield finding


async def _try(check: Callable[[Settings], Awaitable[Finding]], settings: Settings) -> Finding:
    try:
        return await check(settings)
    except TurnkeepError as error:
        return failure(check.__name__.strip("_").removesuffix("_offline"), str(error))


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
    """Whether others can come in, by the server's own rule, and what signs their tokens."""
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

    address = f"{settings.host}:{settings.port}"
    try:
        asks = asks_for_credentials(settings, has_keys=bool(keys))
    except TurnkeepError as error:
        return failure("access", str(error))
    if asks:
        valid = sum(key.is_valid(SystemClock().now()) for key in keys)
        if not valid and not settings.takes_tokens and settings.start_token is None:
            return warning("access", f"{address} asks for credentials and there are none: turnkeep keys create")
        return ok("access", f"{address} asks for credentials ({output.count(valid, 'valid key')})")
    # names to be reached by mean a proxy in front, which brings in whoever reaches it
    if not (settings.is_loopback and not settings.hosts):
        return warning("access", f"{address} is reached from elsewhere, and everybody may do everything there")
    reach = "every user and every program of this machine may read, send and decide there"
    if settings.allow_bash:
        reach += ", and has a shell of yours through execute_bash"
    if keys or settings.takes_tokens:
        return warning("access", f"{address} asks nobody, though there are credentials: TURNKEEP_AUTH=off; {reach}")
    return ok("access", f"{address} asks nobody: {reach}; turnkeep dev --token and turnkeep keys create close it")


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
    """Whether the system gives a process as many connections as are set."""
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
        # looked for, not imported: an import takes its time and may fail for reasons of its own
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
    """Ask the server for its models, the way models are asked: what is wrong, None if nothing is."""
    endpoint = replace(endpoint_of(settings), first_event_timeout=PATIENCE)
    if not settings.uses_openai:
        endpoint = replace(endpoint, headers=key_headers(endpoint.api_key))
    client = Client(endpoint)
    try:
        # a list of models is free; a question would be paid for
        (await client.get("/models")).close()
    except ModelError as error:
        variable = "OPENAI_API_KEY" if settings.uses_openai else "ANTHROPIC_API_KEY"
        return _model_failure(error, endpoint.base_url, variable)
    finally:
        await client.close()
    return None


def _model_failure(error: ModelError, address: str, variable: str) -> Finding | None:
    """Of a refusal by its status: what it says may be about this request alone."""
    status = error.status
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return failure("model", f"{address} refuses the key ({status}): correct {variable}")
    if status is not None and status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return failure("model", f"{address} answers {status}, try again later")
    # 404 too is an answer: compatible servers need not list their models
    if status is None or status < HTTPStatus.BAD_REQUEST or status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        return failure("model", f"{address} cannot be asked: {error}")
    return None


async def _server(settings: Settings) -> Finding:
    if settings.url is not None:
        if await asyncio.to_thread(server_note.answers, settings.url):
            return ok("server", f"the server at {settings.url} (TURNKEEP_URL) answers")
        return warning("server", f"the server at {settings.url} does not answer: start it, or unset TURNKEEP_URL")
    url = await asyncio.to_thread(server_note.find, settings)
    if url is None:
        return ok("server", "none has left a note on this machine; `fleet` has all that run with this store")
    readiness = await _readiness(url)
    if isinstance(readiness, str):
        return failure("server", f"the server at {url} runs and cannot use its store ({readiness}): {STORE_LOST}")
    if readiness.get("full"):
        return warning("server", f"the server at {url} had no room for all connections a moment ago: {FULL}")
    return ok("server", f"a server with this store listens on {url}")


async def _readiness(url: str) -> dict[str, Any] | str:
    """What a server of this machine says of itself, or why it is not ready."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{url}/readyz") as response:
            if response.status != HTTPStatus.OK:
                return f"status {response.status}"
            # whatever type a proxy in between made of it
            body = await response.json(content_type=None)
            return body if isinstance(body, dict) else {}
    except (TimeoutError, aiohttp.ClientError, ValueError) as error:
        return type(error).__name__


async def _rabbitmq(settings: Settings) -> AsyncIterator[Finding]:
    """What the AMQP door will find: nothing is made by looking."""
    if settings.rabbitmq_url is None or not _is_installed("aio_pika"):
        return
    from turnkeep.broker import CONNECTION_ERRORS, broker_of, inspect

    broker = broker_of(settings.rabbitmq_url)
    try:
        sight = await inspect(settings)
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
