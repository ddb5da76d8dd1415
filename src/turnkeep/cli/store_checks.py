"""What `turnkeep doctor` sees in the store: its engine, its way, its content, its sinks."""

from __future__ import annotations

import asyncio
import math
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from turnkeep.cli import context, output
from turnkeep.cli.findings import Finding, failure, ok, today, warning
from turnkeep.errors import TurnkeepError
from turnkeep.fleet import ProcessRecord, list_processes
from turnkeep.pricing.catalog import Catalog
from turnkeep.settings import Settings
from turnkeep.store.contract import Store
from turnkeep.store.sinks import SinkRecord
from turnkeep.store.values import Counts

ROUND_TRIPS = 5

LATE = 60.0
"""Seconds after which an event that waits for a sink is worth a word."""

A_LONG_LOG = 100_000_000
"""Bytes of a log that does not shrink as it should."""

A_WEEK = 7 * 86_400.0


async def check_store(settings: Settings) -> AsyncIterator[Finding]:
    """Whether the store can be used, and what in it waits for a person. Changes nothing in it."""
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
            counts = await store.counts(queue=settings.queue)
            for finding in _fleet(await list_processes(store), counts, await store.now()):
                yield finding
    except TurnkeepError as error:
        yield failure("store", str(error))


def _fleet(records: Sequence[ProcessRecord], counts: Counts, now: float) -> Iterator[Finding]:
    """Who runs with this store, whoever has ended without a word, and whether anybody answers."""
    alive = [record for record in records if not record.is_silent(now)]
    for record in records:
        if record.is_silent(now):
            silence = output.span(now - record.renewed_at)
            yield warning("fleet", f"{record.role} {record.host}:{record.pid} was last heard of {silence} ago")
    answering = sum(record.slots > 0 for record in alive)
    waiting = counts.waiting + counts.delayed
    if waiting and not answering:
        yield warning("fleet", f"{output.count(waiting, 'thread')} wait and nobody answers: start `turnkeep worker`")
    roles = ", ".join(f"{number} {role}" for role, number in sorted(Counter(one.role for one in alive).items()))
    yield ok("fleet", f"{roles} (turnkeep workers)" if alive else "no process runs with this store")


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
    # a reader that never ends its transaction holds back every checkpoint of SQLite's log
    if (log := int(facts.get("log_bytes", 0))) > A_LONG_LOG:
        return warning(
            "store",
            f"the log of changes has {output.size(log)} and cannot shrink: another program keeps reading an old state"
            f" of {context.store_location(settings)}, end it",
        )
    return ok("store", f"{context.store_location(settings)} can be written ({about}); may lose {facts['loses']}")


async def _network(settings: Settings, store: Store) -> Finding:
    """Whether leases are renewed in time: one way to the store and back, which may be lost once."""
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
