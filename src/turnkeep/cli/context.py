"""What verbs open: settings, the store, the tools, and the queue of a house of their own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dotenv import dotenv_values

from turnkeep.cli import output
from turnkeep.env_file import DEFAULT
from turnkeep.errors import NotFound
from turnkeep.messages import Address, item_to_json
from turnkeep.settings import Settings
from turnkeep.store.contract import Store
from turnkeep.store.values import ThreadRecord

DEFAULT_PATH = ".turnkeep/turnkeep.db"

env_file: ContextVar[Path | None] = ContextVar("turnkeep_env_file", default=None)
"""The file of settings that the command line vouches for; None: `.env`, for which nobody does."""


def settings(**options: Any) -> Settings:
    """What is set, with the options of the command line before all else.

    Raises `ConfigurationError`.
    """
    values = {name: value for name, value in options.items() if value is not None}
    file = env_file.get()
    return Settings.load(**values) if file is None else Settings.load_named(file, **values)


def environment() -> Mapping[str, str]:
    """Where `${NAME}` of a tools file is looked up: the environment before the file of settings."""
    values = {name: value for name, value in dotenv_values(env_file.get() or DEFAULT).items() if value}
    return {**values, **os.environ}  # noqa: TID251 - the names are those of the file, not settings of ours


def quiet(config: Settings) -> None:
    """Log what is wrong and nothing else, beside the result of a verb."""
    from turnkeep.telemetry import configure_logging

    level = config.log_level if config.log_level == "debug" else "error"
    configure_logging(level=level, format=config.log_format)


def sqlite_path(config: Settings) -> Path | None:
    """The file of an embedded store; None for any other engine."""
    scheme, _, rest = config.store_url.partition(":")
    return Path(rest.removeprefix("//") or DEFAULT_PATH).absolute() if scheme == "sqlite" else None


def store_location(config: Settings) -> str:
    """Where the data is, without a password."""
    if (path := sqlite_path(config)) is not None:
        return str(path)
    if config.store_url.startswith("memory:"):
        return "memory of this process (nothing is kept)"
    parts = urlsplit(config.store_url)
    return f"{parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl()} ({config.redis_prefix}…)"


@asynccontextmanager
async def attach_store(config: Settings, *, create: bool = False) -> AsyncIterator[Store]:
    """The store, beside whoever else has it open.

    A file that does not exist is not made unless `create`: then nothing is found, and a
    remark says why.
    """
    from turnkeep.composition import policies
    from turnkeep.store import open_store, store_of

    quiet(config)
    path = sqlite_path(config)
    if path is not None and not path.exists() and not create:
        output.note(f"there is no store at {path} yet")
        # empty and not absent: a verb that reads need not ask whether there is one
        store = open_store("memory:", policies(config))
    else:
        store = store_of(config, policies(config))
        if config.store_url.startswith("memory:"):
            output.note("the store is memory: and ends with this command; set TURNKEEP_STORE to keep something")
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def existing(store: Store, address: Address) -> ThreadRecord:
    """The thread of a channel. Raises `NotFound`."""
    record = await store.thread(address)
    if record is None:
        raise NotFound(f"there is no thread on channel {address.channel!r}, list them with `turnkeep threads list`")
    return record


async def transcript(store: Store, record: ThreadRecord, limit: int | None = None) -> list[dict[str, Any]]:
    """The newest entries of a transcript, oldest first, as JSON."""
    history = await store.history(record.address)
    left_out = 0 if limit is None else max(0, len(history.entries) - limit)
    return [{**item_to_json(e.item), "turn": e.turn, "at": e.at} for e in history.entries[left_out:]]
