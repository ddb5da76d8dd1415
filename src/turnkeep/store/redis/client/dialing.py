"""Opening connections: redis-py dials and greets, then the transport is taken over.

Connections are opened by redis-py (TLS, AUTH, SELECT, CLIENT SETNAME) without any
of its automatic retries.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Protocol

import redis.asyncio as redis
from redis import DriverInfo
from redis import __version__ as VERSION
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from turnkeep.errors import ConfigurationError, StoreMisconfigured, StoreUnavailable
from turnkeep.lean_dataclass import dataclass
from turnkeep.store.redis.client.pipe import Pipe, transport_of

CONNECT_TIMEOUT = 5.0

_CONNECTION_ERRORS = (RedisError, OSError, RuntimeError)
"""What a lost connection raises; RuntimeError is that of uvloop for a write to a closed one."""


@dataclass(frozen=True, slots=True)
class ServerAddress:
    """One server: an address, or the path of a socket."""

    host: str
    port: int = 0

    def __str__(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host


class Dialer:
    """Opens connections with the credentials and options of a URL."""

    def __init__(self, url: str) -> None:
        pool = redis.ConnectionPool.from_url(url)
        self._class: Any = pool.connection_class
        self._options: dict[str, Any] = dict(pool.connection_kwargs)
        for option in ("host", "port", "path"):
            self._options.pop(option, None)
        self._options |= {
            # Replies and messages are read in the forms of RESP2; RESP3 sends messages as a kind of
            # their own.
            "protocol": 2,
            "decode_responses": False,
            # redis-py would send again what may have happened. Whether that is
            # safe only `Link` knows.
            "retry": Retry(NoBackoff(), 0),
            "retry_on_timeout": False,
            "health_check_interval": 0,
            "socket_timeout": CONNECT_TIMEOUT,
            "socket_connect_timeout": CONNECT_TIMEOUT,
        }
        self._options.setdefault("client_name", "turnkeep")
        self.client_name: str = self._options["client_name"]
        """Under which the server lists our connections."""
        self._options["driver_info"] = DriverInfo(lib_version=VERSION)  # else it reads files at each connection

    async def dial(self, endpoint: ServerAddress) -> redis.Connection:
        """A connection ready for commands. Raises `StoreUnavailable`, `StoreMisconfigured`."""
        where = {"host": endpoint.host, "port": endpoint.port} if endpoint.port else {"path": endpoint.host}
        try:
            connection: redis.Connection = self._class(**where, **self._options)
        except (TypeError, ValueError, RedisError) as wrong:
            raise ConfigurationError(f"the Redis URL has an option that is not possible: {wrong}") from wrong
        try:
            await connection.connect()
        except (AuthenticationError, ResponseError) as refusal:
            raise StoreMisconfigured(f"Redis at {endpoint} refuses the connection: {refusal}") from refusal
        except _CONNECTION_ERRORS as loss:
            raise StoreUnavailable(f"Redis at {endpoint} cannot be reached: {loss}") from loss
        return connection

    async def ask(self, endpoint: ServerAddress, *command: str) -> Any:
        """The answer to one command, on a connection of its own."""
        connection = await self.dial(endpoint)
        try:
            return await answer(connection, *command)
        finally:
            await hang_up(connection)


async def answer(connection: redis.Connection, *command: str) -> Any:
    """Send one command on a connection of redis-py and read the answer.

    Raises `StoreUnavailable`, `StoreMisconfigured` where the ACL forbids it, and ResponseError for
    other refusals.
    """
    try:
        await connection.send_command(*command)
        return await connection.read_response()
    except NoPermissionError as refusal:
        raise StoreMisconfigured(
            f"this user of Redis may not ask {command[0]}, which turnkeep needs: {refusal}"
        ) from None
    # A refusal of Redis is a RedisError as well, but no loss.
    except ResponseError:
        raise
    except _CONNECTION_ERRORS as loss:
        raise StoreUnavailable(f"Redis did not answer {command[0]}: {loss}") from loss


async def hang_up(connection: redis.Connection) -> None:
    with contextlib.suppress(*_CONNECTION_ERRORS):
        await connection.disconnect(nowait=True)


async def open_pipe(dialer: Dialer, endpoint: ServerAddress, *, timeout: float) -> Pipe:
    """A pipe to a server that is a primary."""
    pipe = Pipe(timeout=timeout)
    await open_transport(dialer, endpoint, pipe)
    return pipe


class Taker(Protocol):
    """Who speaks on a connection that redis-py opened."""

    server: bytes
    opener: object

    def take_over(self, transport: asyncio.Transport) -> None: ...


async def open_transport(dialer: Dialer, endpoint: ServerAddress, taker: Taker) -> None:
    """Open a connection to a server that is a primary, and hand it over."""
    # redis-py dials (TLS, AUTH, SELECT, sockets of Unix), which is long and well tried; only what
    # comes after the handshake is ours.
    connection = await dialer.dial(endpoint)
    try:
        taker.server = await _identity(connection, endpoint)
    except BaseException:
        await hang_up(connection)
        raise
    writer = connection._writer
    if writer is None or writer.is_closing():
        raise StoreUnavailable(f"the connection to Redis at {endpoint} was lost at once")
    taker.opener = (connection, writer)
    # Else the finalizer of redis-py closes the transport that was taken over.
    connection._reader = connection._writer = None
    taker.take_over(transport_of(writer))


async def _identity(connection: redis.Connection, endpoint: ServerAddress) -> bytes:
    """The run id of the server. Raises `StoreUnavailable` for a replica or one that still loads."""
    try:
        info = await answer(connection, "INFO", "server")
        role = await answer(connection, "INFO", "replication")
    except ResponseError as refusal:
        raise StoreUnavailable(f"Redis at {endpoint} is not ready: {refusal}") from refusal
    # A replica answers reads, and with replica-read-only off even writes, which
    # the next sync undoes.
    if b"role:master" not in role:
        raise StoreUnavailable(f"Redis at {endpoint} is a replica, its primary is elsewhere")
    line = next((line for line in bytes(info).split(b"\r\n") if line.startswith(b"run_id:")), b"run_id:unknown")
    return line.removeprefix(b"run_id:")
