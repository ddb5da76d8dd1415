"""What the runs of a tenant did in each minute of an hour and each hour of a day: counts, tokens, money, waits.

Every process adds up its own figures and writes them down every few seconds, into small records
that all share. They are for people who look at charts: a process that is killed takes its last
seconds along. Money that is owed is kept exactly elsewhere (`budget`, and the usage of a thread).
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

from turnkeep.clock import Clock
from turnkeep.errors import Conflict, StoreError
from turnkeep.lean_init import lean_init
from turnkeep.store.contract import Registry
from turnkeep.store.values import Document
from turnkeep.telemetry import get_log
from turnkeep.usage import Usage

log = get_log(__name__)

Cell = dict[str, Any]
"""Figures of a stretch of time: numbers, lists of numbers and cells of cells, that all add up."""
Span = Literal["hour", "month"]

WRITTEN_EVERY = 10.0
BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds at which the buckets of a wait end; the last bucket holds what took longer."""
HOUR_KEPT, DAY_KEPT = 3 * 3_600.0, 40 * 86_400.0
TRIES = 20
"""Times that a record is written while others write it too."""
MOST_NAMES = 60
"""Models, assistants and codes of one cell; what comes after them counts as ``other``. The minutes of an hour are
names as well, and all of them fit.
"""
MOST_TENANTS = 10_000
MOST_RUNS = 1_000
"""Runs that wait to be added up."""


@lean_init
@dataclass(frozen=True, slots=True)
class RunFigures:
    """What is counted of one run when it is settled.

    `end`: completed, incomplete, cancelled, retry, split, dead, held, waiting or lost. `waits` are
    seconds: window, queue, first (token) and whole (from the first message to the answer).
    """

    tenant: str
    end: str
    messages: int = 0
    model: str = ""
    assistant: str = ""
    usage: Usage = Usage()
    code: str = ""
    waits: Mapping[str, float | None] | None = None


class Activity:
    """The figures of this process, until they are written down."""

    def __init__(self, registry: Registry, clock: Clock) -> None:
        self._registry = registry
        self._clock = clock
        self._runs: list[tuple[float, RunFigures]] = []
        self._pending: dict[tuple[str, str], Cell] = {}
        self._name = secrets.token_hex(6)
        self._numbers = itertools.count()
        self._stopping = asyncio.Event()

    def note(self, figures: RunFigures) -> None:
        self._runs.append((self._clock.now(), figures))
        # Added up when they are written: a run that ends waits for no sums.
        if len(self._runs) >= MOST_RUNS:
            self._add_runs()

    def _add_runs(self) -> None:
        runs, self._runs = self._runs, []
        for moment, figures in runs:
            day, hour, minute = _moment(int(moment) // 60)
            cell = _cell_of(figures)
            names = {"models": {figures.model: cell}} if figures.model else {}
            if figures.assistant:
                names["assistants"] = {figures.assistant: cell}
            self._add(figures.tenant, day, {"hours": {str(int(hour[-2:])): cell}, **names})
            self._add(figures.tenant, hour, {"minutes": {minute: cell}})

    def _add(self, tenant: str, name: str, figures: Cell) -> None:
        key = (tenant, name)
        # a store that is away for hours must not fill the memory: what finds no place is not counted
        if key in self._pending or len(self._pending) < 2 * MOST_TENANTS:
            _add_to(self._pending.setdefault(key, {}), figures)

    async def run(self) -> None:
        """Write down every few seconds, until `stop`, and then once more."""
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(WRITTEN_EVERY):
                    await self._stopping.wait()
            await self.save()

    def stop(self) -> None:
        # Not by cancelling: nobody would know whether the record being written has been written.
        self._stopping.set()

    async def save(self) -> None:
        """Write down what was noted. What cannot be written now is tried again the next time."""
        self._add_runs()
        for key in list(self._pending):
            figures = self._pending.pop(key)
            try:
                await self._save_one(*key, figures)
            except (StoreError, Conflict) as error:
                log.warning("activity_unsaved", error=str(error), records=len(self._pending) + 1)
                self._add(*key, figures)
                # Each record would wait for the same silence again, and a shutdown for all of them.
                if isinstance(error, StoreError):
                    return

    async def _save_one(self, tenant: str, name: str, figures: Cell) -> None:
        for _ in range(TRIES - 1):
            # another process has added its own meanwhile
            with suppress(Conflict):
                return await self._write(tenant, name, figures)
        return await self._write(tenant, name, figures)

    async def _write(self, tenant: str, name: str, figures: Cell) -> None:
        """Add to a record, once. Raises `Conflict` when somebody else did between reading and writing."""
        document = await self._registry.get("activity", tenant, name)
        body = {"figures": add_up(_figures(document), figures), "writer": self._signature()}
        ttl = HOUR_KEPT if "T" in name else DAY_KEPT
        version = document.version if document else 0
        await self._registry.put("activity", tenant, name, body, version=version, ttl=ttl)

    def _signature(self) -> str:
        """Of each write another: two processes that add equal figures to the same record would write
        the same body, and a store takes the second for a repeat of the first.
        """
        return f"{self._name}-{next(self._numbers)}"


def _figures(document: Document | None) -> Cell:
    figures = document.body.get("figures") if document else None
    return dict(figures) if isinstance(figures, Mapping) else {}


def add_up(one: Mapping[str, Any], other: Mapping[str, Any]) -> Cell:
    """The sum of two cells."""
    total: Cell = {}
    _add_to(total, one)
    _add_to(total, other)
    return total


def _add_to(total: Cell, figures: Mapping[str, Any]) -> None:
    """Have the total count these figures too. In place: every run adds to cells that hold those of all others."""
    for name, value in figures.items():
        place = name if name in total or len(total) < MOST_NAMES or not isinstance(value, dict | int) else "other"
        # By class and not as a Mapping: what adds up is our own or was read from JSON. Of another version, in another
        # form or with other buckets, the two do not add up, and a chart is no reason to stop: ours count from now on.
        before = total.get(place)
        if value.__class__ is dict:
            if before.__class__ is not dict:
                before = total[place] = {}
            _add_to(before, value)
        elif value.__class__ is list:
            if before.__class__ is not list or len(before) != len(value):
                before = total[place] = [0] * len(value)
            for number, count in enumerate(value):
                if count:
                    before[number] += count
        else:
            total[place] = before + value if isinstance(before, int | float) else value


def _cell_of(figures: RunFigures) -> Cell:
    cell: Cell = {"runs": 1, "ends": {figures.end: 1}}
    if figures.messages:
        cell["messages"] = figures.messages
    if used := figures.usage.to_json():
        cell["usage"] = used
    if figures.code:
        cell["errors"] = {figures.code: 1}
    waits = {name: _bucket(seconds) for name, seconds in (figures.waits or {}).items() if seconds is not None}
    return cell | {"waits": waits} if waits else cell


def _bucket(seconds: float) -> list[int]:
    counts = [0] * (len(BOUNDS) + 1)
    counts[bisect_left(BOUNDS, seconds)] = 1
    return counts


def quantile(counts: list[int], part: float) -> float | None:
    """The end of the bucket in which this part of the waits has ended; None without any."""
    rest = part * sum(counts)
    for count, bound in zip(counts, (*BOUNDS, float("inf")), strict=True):
        rest -= count
        if count and rest <= 0:
            return min(bound, BOUNDS[-1])
    return None


@lru_cache(maxsize=8)
def _moment(minutes: int) -> tuple[str, str, str]:
    """Day, hour and minute, as records and their cells are named, of these minutes since 1970. Many runs end in
    one minute.
    """
    moment = datetime.fromtimestamp(minutes * 60, UTC)
    return _day(moment), _hour(moment), str(moment.minute)


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _hour(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H}"


@dataclass(frozen=True, slots=True)
class Stretch:
    """One minute or hour of a series, beginning at `at` (Unix seconds)."""

    at: float
    cell: Cell


async def read_series(registry: Registry, tenant: str, *, span: Span, now: float) -> list[Stretch]:
    """The last hour by minutes, or the last 30 days by hours, oldest first; without the empty ones."""
    last = datetime.fromtimestamp(now, UTC)
    if span == "hour":
        moments = [last - timedelta(hours=1), last]
        documents = [(m.replace(minute=0), await _get(registry, tenant, _hour(m))) for m in moments]
        stretches = list(_stretches(documents, "minutes", 60.0))
        return [one for one in stretches if one.at > now - 3_600.0]
    days = [last - timedelta(days=back) for back in range(30, -1, -1)]
    documents = [(d.replace(hour=0, minute=0), await _get(registry, tenant, _day(d))) for d in days]
    return list(_stretches(documents, "hours", 3_600.0))


@dataclass(frozen=True, slots=True)
class DayOfUse:
    """What one day has used, by model and by assistant."""

    day: str
    models: Mapping[str, Cell]
    assistants: Mapping[str, Cell]
    total: Cell


async def read_days(registry: Registry, tenant: str, *, days: int, now: float) -> list[DayOfUse]:
    """The last days, oldest first; without those on which nothing ran."""
    last = datetime.fromtimestamp(now, UTC)
    result = []
    for back in range(days - 1, -1, -1):
        name = _day(last - timedelta(days=back))
        if (document := await _get(registry, tenant, name)) is not None:
            total: Cell = {}
            body = _figures(document)
            for cell in body.get("hours", {}).values():
                total = add_up(total, cell)
            result.append(DayOfUse(name, body.get("models", {}), body.get("assistants", {}), total))
    return result


async def _get(registry: Registry, tenant: str, name: str) -> Document | None:
    return await registry.get("activity", tenant, name)


def _stretches(documents: list[tuple[datetime, Document | None]], name: str, length: float) -> Iterator[Stretch]:
    for begin, document in documents:
        start = begin.replace(second=0, microsecond=0).timestamp()
        cells = _figures(document).get(name, {})
        # beside them an older version has left what came after fifty minutes, as one sum
        for number in sorted(filter(str.isdigit, cells), key=int):
            yield Stretch(start + int(number) * length, cells[number])
