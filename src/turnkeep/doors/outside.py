"""The doors to other systems, opened beside the listening ones when they are set: AMQP in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from turnkeep.errors import ConfigurationError
from turnkeep.queue import AssistantMessageQueue

if TYPE_CHECKING:
    from turnkeep.doors.amqp import AmqpDoor


@contextlib.asynccontextmanager
async def outside(queue: AssistantMessageQueue) -> AsyncIterator[None]:
    """Everything that `queue.settings` names is open until the end of the block. Raises `ConfigurationError`."""
    doors = [amqp_door(queue)] if queue.settings.rabbitmq_url else []
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(door.run()) for door in doors]
        yield
        for task in tasks:
            task.cancel()


def amqp_door(queue: AssistantMessageQueue) -> AmqpDoor:
    """Raises `ConfigurationError` with the command that installs it."""
    try:
        from turnkeep.doors.amqp import AmqpDoor
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] in ("aio_pika", "aiormq", "pamqp"):
            raise ConfigurationError(
                "the AMQP door (RABBITMQ_URL) is not installed, run: python -m pip install 'turnkeep[rabbitmq]'"
            ) from missing
        raise
    return AmqpDoor(queue)
