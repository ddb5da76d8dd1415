"""Serving: one process with its doors, its worker, or both, from start to drained end.

A first SIGINT or SIGTERM drains: no new claims, sockets are asked to come back, runs end or are
given back. A second one ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from urllib.parse import unquote, urlsplit

import uvicorn
from pydantic import SecretStr
from starlette.applications import Starlette

from turnkeep.application import Application
from turnkeep.auth.guard import access_of
from turnkeep.clock import until_tick
from turnkeep.core_settings import Role
from turnkeep.doors.app import app, status_app
from turnkeep.doors.http_transport import is_no_fault_of_a_peer, transports
from turnkeep.doors.other_systems import outside
from turnkeep.doors.peers import peers_of
from turnkeep.doors.ping_wheel import PING_INTERVAL
from turnkeep.doors.port import bound, doormen, port_of
from turnkeep.doors.separation import demand_separation
from turnkeep.doors.socket.session import READ_LIMIT
from turnkeep.errors import ConfigurationError
from turnkeep.settings import Settings
from turnkeep.telemetry import get_log
from turnkeep.telemetry.redaction import know

try:
    import uvloop
except ImportError:  # not made for every system
    FAST_LOOP: Callable[[], asyncio.AbstractEventLoop] | None = None
else:
    FAST_LOOP = uvloop.new_event_loop

log = get_log(__name__)

COLLECTED_AFTER = (1_000, 10, 200)
"""Objects more than before, and collections of them, after which the next older ones are looked at:
all of them after two million, which are some hundred megabytes. Nothing here relies on it: what a
connection leaves is freed by counting.
"""


async def serve(
    application: Application,
    role: Role,
    *,
    on_start: Callable[[str], None],
    listener: socket.socket | None = None,
) -> None:
    """Serve until a signal. `on_start` gets the base URL ("" where nothing listens) once everything
    is open. `listener` is a socket that another process has bound; without it one is bound here.

    Raises `ConfigurationError` when the port is taken or the address cannot be used, and where a
    simulator would answer those who come in with credentials.
    """
    know(secrets_in(application.settings))
    if role != "gateway" and application.settings.takes_simulator_for_a_model:
        raise ConfigurationError(
            "credentials are asked for, but no model is set, so that a simulator would answer, and call every tool "
            "that a message tells it to: set OPENAI_API_KEY or OPENAI_BASE_URL, or start it with --simulator"
        )

    def announce(url: str) -> None:
        spare_collector()
        on_start(url)

    with _signals() as ending:
        if role == "worker":
            await _work(application, ending, announce, listener)
        else:
            await _listen(application, role, ending, announce, listener)


def spare_collector() -> None:
    """What is here by now stays to the end, and what outlives a young collection mostly does:
    looking at all of it again and again would stop the loop for up to a second, the more often the
    more connections come and go.
    """
    # First what is garbage by now, or it would be frozen with the rest and never given back.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTED_AFTER)


def secrets_in(settings: Settings) -> Iterator[str]:
    """Every value that nobody may read in a log: what is set as a secret, and passwords in
    addresses.
    """
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            yield value.get_secret_value()
            yield from value.get_secret_value().split()  # of two that are exchanged, each
        elif isinstance(value, str) and (password := _password_in(value)):
            yield unquote(password)
            yield password


def _password_in(text: str) -> str | None:
    try:
        return urlsplit(text).password if "://" in text else None
    except ValueError:  # a text that mentions an address
        return None


async def _work(
    application: Application,
    ending: asyncio.Event,
    on_start: Callable[[str], None],
    listener: socket.socket | None = None,
) -> None:
    application.role = "worker"
    application.start_worker()
    with contextlib.ExitStack() as stack:
        listener = listener or port_of(application.settings, "worker")
        if listener is not None:
            stack.enter_context(listener)
        async with application:
            await demand_separation(application)
            if listener is not None:
                await _answer(application, status_app, listener, ending, on_start)
            else:
                on_start("")
                await application.lives_until(ending)


async def _listen(
    application: Application,
    role: Role,
    ending: asyncio.Event,
    on_start: Callable[[str], None],
    listener: socket.socket | None = None,
) -> None:
    application.role = role
    if role == "all":
        application.start_worker()
    with listener or bound(application.settings.host, application.settings.port) as door:
        async with application:
            await demand_separation(application)
            # Only beside doors: a worker delivers nothing to the outside.
            with_doors = partial(app, own_application=False)
            await _answer(application, with_doors, door, ending, on_start, beside=outside)


def nothing_beside(_: Application) -> contextlib.AbstractAsyncContextManager[None]:
    return contextlib.nullcontext()


async def _answer(
    application: Application,
    make_app: Callable[..., Starlette],
    listener: socket.socket,
    ending: asyncio.Event,
    on_start: Callable[[str], None],
    *,
    beside: Callable[[Application], contextlib.AbstractAsyncContextManager[None]] = nothing_beside,
) -> None:
    """What is made of an open application, on a listening socket."""
    peers = peers_of(application.settings, application.meter)
    http, ws = transports(peers)
    asgi_app = make_app(application, access=await access_of(application.settings, application.store))
    asgi_app.state.peers = peers
    logging.getLogger("uvicorn.error").addFilter(is_no_fault_of_a_peer)
    server = _UvicornServer(
        uvicorn.Config(
            asgi_app,
            http=http,
            ws=ws,
            ws_max_size=max(READ_LIMIT, application.settings.max_frame_bytes),
            ws_per_message_deflate=False,
            ws_ping_interval=PING_INTERVAL,
            # The queue is open before anybody can connect: a lifespan would be a second
            # one to open it.
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            forwarded_allow_ips=list(application.settings.proxies),
            timeout_graceful_shutdown=5,
            backlog=2048,
        )
    )
    async with beside(application), server.closed_in_the_end(), asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=doormen(listener)))
        await server.listening.wait()
        host, port = listener.getsockname()[:2]
        on_start(f"http://{host if ':' not in host else f'[{host}]'}:{port}")
        await application.lives_until(ending)
        # Before the server stops: uvicorn would close sockets with 1012 in its own
        # time, without a reason.
        if asgi_app.state.sockets is not None:
            asgi_app.state.sockets.close()
        server.end()


class _UvicornServer(uvicorn.Server):
    """Says when it listens; signals are ours to take."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._ending = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()

    @contextlib.asynccontextmanager
    async def closed_in_the_end(self) -> AsyncIterator[None]:
        """Who is cancelled, or fails, ends no server in its own way: its sockets would listen on."""
        try:
            yield
        finally:
            for one in getattr(self, "servers", ()):
                one.close()

    async def main_loop(self) -> None:
        """Once a second, for the date in its headers. Its own loop looks ten times whether it is to
        end, which is most of what an idle gateway costs.
        """
        for tick in itertools.count(step=10):
            if await self.on_tick(tick):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until_tick(1.0)):
                    await self._ending.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.contextmanager
def _signals() -> Iterator[asyncio.Event]:
    """Set on the first SIGINT or SIGTERM; the second one ends the process at once."""
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()

    def end(number: signal.Signals) -> None:
        if ending.is_set():
            # Nothing is cleaned up: what was accepted is durable, and a clean end is what has just
            # not come.
            os._exit(128 + number)
        log.info("shutting_down", signal=number.name)
        ending.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, end, number)
    try:
        yield ending
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def listening(application: Application, role: Role = "all") -> AsyncIterator[str]:
    """The same, inside of a running program: yields the base URL, and ends without a signal."""
    ending, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        group.create_task(_listen(application, role, ending, url.set_result))
        yield await url
        ending.set()


def run(main: Callable[[], object]) -> None:
    """Run a coroutine function on the fastest loop there is."""
    with asyncio.Runner(loop_factory=FAST_LOOP) as runner:
        runner.run(main())  # type: ignore[arg-type]
