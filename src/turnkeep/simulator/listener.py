"""The simulator behind uvicorn: on a port, with connections that can be reset and a door that can
be shut, or inside of one process, where nobody else can reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from turnkeep.simulator.admission import Admission
from turnkeep.simulator.api import Simulator
from turnkeep.simulator.frames import ClientGone
from turnkeep.simulator.options import Options, StreamPace

GRACE = 5.0
KEEP_ALIVE = 120  # longer than clients keep idle connections, so that none is closed under a request
DEV_LEDGER = 10_000


Dial = Callable[[], Awaitable[socket.socket]]
"""Makes a connection that is open already."""

_LOG = logging.getLogger("turnkeep.simulator.server")


@contextlib.asynccontextmanager
async def serve(
    simulator: Simulator, host: str = "127.0.0.1", port: int = 0, *, key: str | None = None
) -> AsyncIterator[str]:
    """Listen, and yield the base URL (it ends in ``/v1``). On leaving
    every connection is dropped at once.

    With a key, whoever does not show it as a bearer is refused, on the routes under ``/_sim/`` too.
    """
    server = _PortListener(simulator, host, port, key=key)
    url = await server.open()
    try:
        yield url
    finally:
        await server.close()


@contextlib.asynccontextmanager
async def inside(simulator: Simulator) -> AsyncIterator[Dial]:
    """Answer in this process alone: each call of what is yielded is a pair of sockets, one end of
    which is answered.

    There is no port and no file, so no other user, page or program of this machine can come in.
    """
    server = _SimulatorServer(_config(simulator.app))
    await server.begin([])
    try:
        yield server.dial
    finally:
        await server.close()


def run(
    host: str = "127.0.0.1",
    port: int = 8090,
    *,
    seed: int = 0,
    pace: StreamPace | None = None,
    options: Options | None = None,
    key: str,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM whoever shows the key. `announce` is told the base URL
    once it answers.
    """
    run_options = options or Options(ledger_limit=DEV_LEDGER)
    simulator = Simulator(seed=seed, pace=pace or StreamPace.lively(), options=run_options)

    async def main() -> None:
        async with serve(simulator, host, port, key=key) as url:
            await _until_signal(lambda: announce(url) if announce else _say(url, key))

    # The loop that uvicorn would choose: the fastest that is installed.
    with asyncio.Runner(loop_factory=_config(simulator.app).get_loop_factory()) as runner:
        runner.run(main())


async def _until_signal(announce: Callable[[], None]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    announce()
    await stop.wait()


def new_key() -> str:
    """A key that cannot be guessed, and by which a client sees that it speaks to a simulator."""
    return f"sk-simulator-{secrets.token_urlsafe(24)}"


def _say(url: str, key: str) -> None:
    sys.stdout.write(f"simulator listening on {url}\nkey: {key}\n")
    sys.stdout.flush()


def _config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
    )


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Whether a record tells of more than a loop that ends."""
    error = record.exc_info[1] if record.exc_info else None
    # Starlette hands the trace of its lifespan on as text.
    return not isinstance(error, asyncio.CancelledError) and "asyncio.exceptions.CancelledError" not in record.msg


# A program that ends without `close` cancels what runs in it: uvicorn takes that for a mistake of the
# application, and every script would end in a trace.
_LOG.addFilter(_is_no_cancellation)


class _Connection(H11Protocol):
    """A connection that the application can write chunks to and drop (see `frames.Wire`)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _LOG
        self.access_log = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "wire": self}

    def check(self) -> None:
        if self.transport.is_closing():
            raise ClientGone

    def write(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def drain(self) -> None:
        if self.flow.write_paused:
            await self.flow.drain()

    def drop(self, *, reset: bool) -> None:
        if not reset:
            self.transport.close()
            return
        sock = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError, TypeError, AttributeError):
            twin = socket.socket(fileno=socket.dup(sock.fileno()))
            with twin:  # linger zero is a property of the connection, not of the descriptor
                twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class _SimulatorServer(uvicorn.Server):
    """uvicorn without its signal handlers and its ticking loop."""

    async def begin(self, sockets: list[socket.socket]) -> None:
        self.config.load()
        self.lifespan = self.config.lifespan_class(self.config)
        self.lifespan.logger = _LOG
        await self.startup(sockets=sockets)

    async def close(self) -> None:
        self._stop_listening()
        # Cut at once, whatever is being streamed: nobody who closes a simulator waits for its
        # clients.
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if tasks := list(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=GRACE)
        for task in tasks:
            task.cancel()
        await self.lifespan.shutdown()

    async def dial(self) -> socket.socket:
        theirs, ours = socket.socketpair()
        for end in (theirs, ours):
            end.setblocking(False)
        # For uvicorn as if it had come through a port, which is why there is no second server.
        await asyncio.get_running_loop().connect_accepted_socket(self._connection, ours)
        return theirs

    def _connection(self) -> asyncio.Protocol:
        return _Connection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    def _stop_listening(self) -> None:
        for server in self.servers:
            server.close()


class _PortListener(_SimulatorServer):
    """A server on a port, with a door that can be shut for a while."""

    def __init__(self, simulator: Simulator, host: str, port: int, *, key: str | None) -> None:
        super().__init__(_config(Admission(simulator.app, host=host, key=key)))
        self._simulator = simulator
        self._host = host
        self._port = port
        self._sockets: list[socket.socket] = []

    async def open(self) -> str:
        self._sockets = [_listen(self._host, self._port)]
        # Remembered for `_reopen`: after a refusal the same port has to answer again.
        self._port = self._sockets[0].getsockname()[1]
        await self.begin(self._sockets)
        self._simulator.door = self
        name = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{name}:{self._port}/v1"

    async def close(self) -> None:
        self._simulator.door = None
        await super().close()

    async def refuse(self, seconds: float) -> None:
        """Refuse connections for a while, and drop those that carry no request."""
        self._stop_listening()
        for connection in list(self.server_state.connections):
            # Whoever has a request goes on: to refuse concerns new connections.
            if connection.cycle is None or connection.cycle.response_complete:  # type: ignore[union-attr]
                connection.transport.abort()
        await asyncio.sleep(seconds)
        # Closed meanwhile? Then the port may belong to somebody else by now.
        if self._simulator.door is self:
            await self._reopen()

    async def _reopen(self) -> None:
        self._sockets = [_listen(self._host, self._port)]
        loop = asyncio.get_running_loop()
        self.servers = [await loop.create_server(self._connection, sock=self._sockets[0])]

    def _stop_listening(self) -> None:
        super()._stop_listening()
        # Closed, not merely left alone: the kernel would go on filling its backlog, and clients
        # would wait instead of being refused.
        for sock in self._sockets:
            sock.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, so that asyncio sets TCP_NODELAY
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock
