"""`turnkeep threads export`: every thread with its transcript, as lines of JSON."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Annotated

import orjson
import typer

from turnkeep import private_file
from turnkeep.cli import context, output
from turnkeep.cli.arguments import ANY_AGE, JsonOption, OlderThan, Tenant
from turnkeep.errors import ConfigurationError
from turnkeep.settings import Settings
from turnkeep.store.contract import Store


def export(
    path: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="File to write, which must not exist; stdout without.")
    ] = None,
    *,
    older_than: OlderThan = ANY_AGE,
    tenant: Tenant = "default",
    as_json: JsonOption = False,
) -> None:
    """Write every thread with its transcript as a line of JSON."""
    settings = context.settings()
    with ExitStack() as stack:
        target = stack.enter_context(_create(path)) if path else sys.stdout.buffer
        count = asyncio.run(_export(settings, tenant, older_than, target=target))
    if path is not None:
        if as_json:
            output.emit({"file": str(path.absolute()), "threads": count})
        else:
            output.say(f"wrote {output.count(count, 'thread')} to {path}")


def _create(path: Path) -> IO[bytes]:
    """Whole conversations are for their owner alone, and replace nothing."""
    try:
        return os.fdopen(private_file.make(path), "wb")
    except FileExistsError:
        raise ConfigurationError(f"{path} exists already, give another name for the export") from None
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}, give another name") from None


async def _export(settings: Settings, tenant: str, older_than: float, *, target: IO[bytes]) -> int:
    count = 0
    async with context.attach_store(settings) as store:
        with output.progress("exporting") as step:
            async for line in _lines(store, settings, tenant, older_than=older_than):
                target.write(line)
                count += 1
                step()
    return count


async def _lines(store: Store, settings: Settings, tenant: str, *, older_than: float) -> AsyncIterator[bytes]:
    from turnkeep.doors.http.endpoint import thread_json

    # Thread by thread: a store may be larger than the memory of this machine.
    async for record in store.scan(tenant=tenant, queue=settings.queue, idle_for=older_than):
        whole = thread_json(record, in_full=True) | {"items": await context.transcript(store, record)}
        yield orjson.dumps(whole, option=orjson.OPT_APPEND_NEWLINE)
