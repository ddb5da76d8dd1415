"""What the AMQP door finds at the broker, or makes there: exchanges, queues, and the place for what
cannot be taken.

What exists is used as it is, whatever its type and arguments: it is asked for passively first,
because declaring it again with other arguments is refused by the broker. What is absent is created:
a direct durable exchange, quorum queues. This module needs the extra `rabbitmq`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelNotFoundEntity, InvalidFrameError
from aiormq.exceptions import ChannelAccessRefused, ChannelPreconditionFailed
from pamqp import decode

from turnkeep.lean_dataclass import dataclass
from turnkeep.settings import Settings
from turnkeep.telemetry import get_log

log = get_log(__name__)

CONNECTION_ERRORS: tuple[type[BaseException], ...] = (*CONNECTION_EXCEPTIONS, TimeoutError)
"""What ends a connection: the broker, the network, or time."""
CONNECT_TIMEOUT = 15.0
CLOSE_TIMEOUT = 5.0
RPC_TIMEOUT = 30.0
HEARTBEAT = 30
DELIVERY_LIMIT = 1_000_000
"""Of queues that we create: what cannot be taken is moved away by us, so no number of deliveries
makes it garbage.
"""

_Decoder = Callable[[bytes], tuple[int, Any]]

_OTHERWISE = re.compile(
    r"inequivalent arg '([\w-]+)' .*current is (?:none|(?:the value )?'(.*?)'(?: of type '(\w+)')?)$"
)
_MOST_ARGUMENTS = 16


@dataclass(frozen=True, slots=True)
class BrokerNames:
    """What things are called at the broker."""

    exchange: str
    queue: str
    routing_key: str

    @classmethod
    def of(cls, settings: Settings) -> BrokerNames:
        return cls(settings.exchange_name, settings.queue_name, settings.routing_key)

    @property
    def dead_exchange(self) -> str:
        return f"{self.exchange}_dlx"

    @property
    def dead_queue(self) -> str:
        return f"{self.queue}_failed"


@dataclass(frozen=True, slots=True)
class BrokerTopology:
    """What was found and what was made. `waiting` messages were in the queue then."""

    waiting: int
    consumers: int
    existing_names: tuple[str, ...]
    created_names: tuple[str, ...]


@contextlib.contextmanager
def cancellation_first() -> Iterator[None]:
    """A task that is cancelled in here ends cancelled, whatever else happens.

    When a connection fails at that moment, aiormq raises its failure in place of the
    cancellation: who tries again after failures would never end, and its process neither.
    Around calls of the library only: a task group that fails counts as a cancellation, too.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        yield
    except CONNECTION_ERRORS as error:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError from error
        raise


async def connect(url: str, name: str) -> AbstractConnection:
    """One connection, without a life of its own: when it is lost it stays lost."""
    parts = urlsplit(url)
    # The broker's own default notices a dead connection half as fast.
    if "heartbeat" not in parts.query:
        query = f"{parts.query}&heartbeat={HEARTBEAT}" if parts.query else f"heartbeat={HEARTBEAT}"
        url = parts._replace(query=query).geturl()
    try:
        with cancellation_first():
            connection: AbstractConnection = await aio_pika.connect(
                url, timeout=CONNECT_TIMEOUT, client_properties={"connection_name": name}
            )
    except InvalidFrameError as error:  # what the broker says instead of opening is told as a frame out of place
        vhost, user = identity(url)
        raise ConnectionRefusedError(f"the broker has no virtual host {vhost!r} for the user {user!r}") from error
    return connection


async def hang_up(connection: AbstractConnection) -> None:
    """Close it, or leave it to the broker that does not answer."""
    with contextlib.suppress(*CONNECTION_ERRORS):
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await connection.close()


def broker_of(url: str) -> str:
    """The URL without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def identity(url: str) -> tuple[str, str]:
    """Virtual host and user of a URL, as the broker understands it."""
    parts = urlsplit(url)
    return unquote(parts.path.removeprefix("/")) or "/", unquote(parts.username or "guest")


def _read_any_properties() -> None:
    """Let the decoder read properties that it would refuse.

    A producer may set a timestamp beyond the year 9999, a header of a type nobody knows, or Latin-1
    text; the broker takes them. The decoder raises, which ends the connection, and the same message
    comes again, for ever.
    """
    # In the decoder's own table: there is no setting, and the reader runs before any code of ours.
    for kind, instead in (("shortstr", _any_text), ("timestamp", _no_time), ("table", _no_table)):
        decode.METHODS[kind] = _forgiving(decode.METHODS[kind], instead)
    decode.TABLE_MAPPING[b"T"] = _forgiving(decode.TABLE_MAPPING[b"T"], _no_time)


def _forgiving(decoder: _Decoder, instead: _Decoder) -> _Decoder:
    def decode_or_replace(value: bytes) -> tuple[int, Any]:
        try:
            return decoder(value)
        except (ValueError, OverflowError, OSError):
            return instead(value)

    return decode_or_replace


def _any_text(value: bytes) -> tuple[int, str]:
    end = value[0] + 1
    return end, value[1:end].decode("utf-8", "replace")


def _no_time(_: bytes) -> tuple[int, None]:
    return 8, None


def _no_table(value: bytes) -> tuple[int, dict[str, Any]]:
    return int.from_bytes(value[:4], "big") + 4, {}


async def settle_topology(connection: AbstractConnection, names: BrokerNames) -> BrokerTopology:
    """Find or make exchange, queue, and the dead exchange with its queue."""
    existing_names: list[str] = []
    new_names: list[str] = []

    async def settle(what: str, name: str, absent: Callable[[AbstractChannel], Awaitable[Any]]) -> bool:
        if await _exists(connection, what, name):
            existing_names.append(name)
            return False
        # A channel of its own: a refusal closes it, and all that is still to be asked on it.
        async with connection.channel() as channel:
            await absent(channel)
        new_names.append(name)
        return True

    for exchange in (names.exchange, names.dead_exchange):
        await settle("exchange", exchange, functools.partial(_create_exchange, name=exchange))
    # Before the queue that leads there: what it drops meanwhile would be lost.
    await settle("queue", names.dead_queue, functools.partial(_create_queue, name=names.dead_queue, arguments={}))
    limits = {"x-delivery-limit": DELIVERY_LIMIT, "x-dead-letter-exchange": names.dead_exchange}
    await settle("queue", names.queue, functools.partial(_create_queue, name=names.queue, arguments=limits))
    await _bind(connection, names.queue, exchange=names.exchange, routing_key=names.routing_key)
    await _bind(connection, names.dead_queue, exchange=names.dead_exchange, routing_key=names.routing_key)
    waiting, consumers = await _load(connection, names.queue)
    return BrokerTopology(waiting, consumers, tuple(existing_names), tuple(new_names))


async def _exists(connection: AbstractConnection, what: str, name: str) -> bool:
    """Ask on a channel of its own: the broker closes it when the answer is no."""
    try:
        async with connection.channel() as channel:
            if what == "exchange":
                await channel.get_exchange(name)
            else:
                await channel.get_queue(name)
    except ChannelNotFoundEntity:
        return False
    except ChannelAccessRefused:
        log.warning("amqp_look_refused", what=what, name=name, hint="it is taken to be there")
    return True


async def _create_exchange(channel: AbstractChannel, *, name: str) -> None:
    await channel.declare_exchange(name, type="direct", durable=True, timeout=RPC_TIMEOUT)


async def _create_queue(channel: AbstractChannel, *, name: str, arguments: Mapping[str, Any]) -> None:
    # A classic queue lives on one node, and what is in it is gone while that node is away.
    kind = {"x-queue-type": "quorum", **arguments}
    await channel.declare_queue(name, durable=True, arguments=kind, timeout=RPC_TIMEOUT)


async def _bind(connection: AbstractConnection, queue: str, *, exchange: str, routing_key: str) -> None:
    """Bind; it changes nothing where it is bound. Who may not bind has to have done it."""
    try:
        async with connection.channel() as channel:
            await (await channel.get_queue(queue, ensure=False)).bind(exchange, routing_key, timeout=RPC_TIMEOUT)
    except ChannelAccessRefused:
        log.warning("amqp_binding_refused", queue=queue, exchange=exchange, hint="bind it, or let this user do it")


async def _load(connection: AbstractConnection, queue: str) -> tuple[int, int]:
    async with connection.channel() as channel:
        result = (await channel.get_queue(queue)).declaration_result
    return result.message_count or 0, result.consumer_count or 0


@dataclass(frozen=True, slots=True)
class Sight:
    """What somebody saw who only looked.

    `kind` is the type of the queue; empty if there is none, or it is not told.
    """

    kind: str
    waiting: int
    consumers: int
    parked_count: int
    absent: tuple[str, ...]


async def inspect(settings: Settings) -> Sight:
    """What is at the broker now; nothing is made.

    Raises one of `CONNECTION_ERRORS` when the broker is away or refuses us.
    """
    names = BrokerNames.of(settings)
    connection = await connect(settings.rabbitmq_url or "", "turnkeep doctor")
    async with connection:
        entities = [("exchange", names.exchange), ("exchange", names.dead_exchange)]
        entities += [("queue", names.dead_queue), ("queue", names.queue)]
        absent = tuple([name for what, name in entities if not await _exists(connection, what, name)])
        parked_count = 0 if names.dead_queue in absent else (await _load(connection, names.dead_queue))[0]
        if names.queue in absent:
            return Sight("", 0, 0, parked_count, absent)
        waiting, consumers = await _load(connection, names.queue)
        return Sight(await _kind(connection, names.queue), waiting, consumers, parked_count, absent)


async def _kind(connection: AbstractConnection, queue: str) -> str:
    """The type of a queue that is there.

    The protocol has no question for it. A queue that is declared once more with other arguments is
    refused and stays as it is, and the refusal tells one argument that it has: they are taken over
    until it is the type that differs.
    """
    arguments: dict[str, Any] = {"x-queue-type": "quorum"}
    for _ in range(_MOST_ARGUMENTS):
        try:
            async with connection.channel() as channel:
                await channel.declare_queue(queue, durable=True, arguments=arguments, timeout=RPC_TIMEOUT)
            return str(arguments["x-queue-type"])
        except ChannelPreconditionFailed as error:
            difference = _OTHERWISE.search(str(error))
        except ChannelAccessRefused:
            return ""
        if difference is None:
            return ""
        name, value, type_ = difference.groups()
        if name == "x-queue-type":
            return value or "classic"
        if not name.startswith("x-"):
            return "classic"  # only these can be exclusive or not durable
        if value is None:
            arguments.pop(name, None)
        else:
            arguments[name] = _argument(value, type_)
    return ""


def _argument(value: str, type_: str | None) -> str | int | bool:
    if type_ == "bool":
        return value == "true"
    return int(value) if type_ != "longstr" and value.isdigit() else value


_read_any_properties()
