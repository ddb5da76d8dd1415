"""The doors to other systems, open beside the listening ones when they are set: AMQP in; relay,
replies, webhooks out.

None of them is a condition of anything: while one is away, messages come in by the other doors and
runs go on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from turnkeep.application import Application
from turnkeep.errors import ConfigurationError, StoreError
from turnkeep.outbound.forwarder import Forwarder, ForwardRules, SinkReceiver, close_abandoned, selection, sink_name
from turnkeep.outbound.relay import Relay

if TYPE_CHECKING:
    from turnkeep.doors.amqp.consumer import AmqpDoor

SINK_KINDS = ("relay", "reply", "webhook")
LAST_WORDS = 5.0
"""Seconds in which receivers may take what is left at the end; the next process goes on from there."""
HANGING_UP = 10.0
"""Seconds that a door may take to end; more than it waits for any goodbye."""


@contextlib.asynccontextmanager
async def outside(application: Application) -> AsyncIterator[None]:
    """Everything that `application.settings` names is open until the end of the block. Raises
    `ConfigurationError`.

    At the end nothing more comes in, runs end, and what they said last goes out before
    the sinks close.
    """
    settings = application.settings
    doors = [amqp_door(application)] if settings.rabbitmq_url else []
    rules = ForwardRules(lease=settings.lease_duration)  # a sink goes on as soon after a death as a run does
    forwarders = [
        Forwarder(
            application.store,
            receiver,
            queue=application.name,
            rules=rules,
            meter=application.meter,
            clock=application.clock,
        )
        for receiver in receivers(application)
    ]
    sinks = {forwarder.sink for forwarder in forwarders}
    for sink in {sink_name(kind, application.name) for kind in SINK_KINDS} - sinks:
        await close_abandoned(application.store, sink)
    for forwarder in forwarders:
        with contextlib.suppress(StoreError):  # the forwarder tries again
            await application.store.open_sink(forwarder.sink, selection(forwarder.receiver, application.name))
    async with asyncio.TaskGroup() as group:
        coming = [group.create_task(run_until_cancelled(door.run)) for door in doors]
        going = [group.create_task(run_until_cancelled(forwarder.run)) for forwarder in forwarders]
        yield
        # In before out: what is still taken in now would be answered after the sinks are gone.
        for task in coming:
            task.cancel()
        if going:
            # Runs first: sinks that ended before them left final frames to the next start, and
            # those of a store in memory to nobody.
            await application.drain()
            for forwarder in forwarders:
                forwarder.finish()
            await asyncio.wait(going, timeout=LAST_WORDS)
        for task in going:
            task.cancel()


async def run_until_cancelled(run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run what tries again after every failure, and end it when cancelled, whatever happens."""
    # A failure that comes at the same moment takes the place of a cancellation, in task groups and
    # in clients of brokers alike: whoever tries again after it would never end, and its process
    # neither.
    async with asyncio.TaskGroup() as group:
        task = group.create_task(run())
        try:
            await asyncio.wait([task])
        finally:
            while not task.done():
                task.cancel()
                await asyncio.wait([task], timeout=HANGING_UP)


def receivers(application: Application) -> list[SinkReceiver]:
    """Where events go, as set. Raises `ConfigurationError`."""
    settings = application.settings
    sinks: list[SinkReceiver] = []
    if settings.websocket_url:
        sinks.append(Relay(settings.websocket_url, application.store))
    if settings.amqp_reply_exchange:
        sinks.append(_reply_exchange(settings.rabbitmq_url, settings.amqp_reply_exchange))
    if settings.webhook_url:
        secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else ""
        if not settings.webhook_url.startswith("https:") and not settings.webhook_allow_private:
            raise ConfigurationError(
                "TURNKEEP_WEBHOOK_URL must be https, for everybody on the way reads http; "
                "TURNKEEP_WEBHOOK_ALLOW_PRIVATE=1 allows it to a receiver in your own network"
            )
        # here and not above: with aiohttp behind it
        from turnkeep.outbound.webhook import Webhook

        sinks.append(Webhook(settings.webhook_url, secret, allow_private=settings.webhook_allow_private))
    return sinks


def amqp_door(application: Application) -> AmqpDoor:
    """Raises `ConfigurationError` with the command that installs it."""
    with _rabbitmq_installed():
        from turnkeep.doors.amqp.consumer import AmqpDoor
    return AmqpDoor(application)


def _reply_exchange(url: str | None, name: str) -> SinkReceiver:
    if url is None:
        raise ConfigurationError("TURNKEEP_AMQP_REPLY_EXCHANGE needs RABBITMQ_URL, which says at which broker it is")
    with _rabbitmq_installed():
        from turnkeep.outbound.replies import ReplyExchange
    return ReplyExchange(url, name)


@contextlib.contextmanager
def _rabbitmq_installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] in ("aio_pika", "aiormq", "pamqp"):
            raise ConfigurationError(
                "the AMQP door (RABBITMQ_URL) is not installed, run: python -m pip install 'turnkeep[rabbitmq]'"
            ) from missing
        raise
