"""What the runs of a tenant did in each minute of an hour and each hour of a day: counts, tokens, money, waits.
What a meter is told of a run is the same, and said here too.

Every process adds up its own figures and writes them down every few seconds, into small records
that all share. They are for people who look at charts: a process that is killed takes its last
seconds along. Money that is owed is kept exactly elsewhere (`budget`, and the usage of a thread).
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from bisect import bisect_left
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal, assert_never

from turnkeep.errors import Conflict, StoreError
from turnkeep.events import TurnFault
from turnkeep.lean_dataclass import dataclass
from turnkeep.runs.outcomes import VERDICT_LABELS, Dropping, HoldVerdict, Releasing, Verdict
from turnkeep.store.contract import Registry
from turnkeep.store.values import Claim, Document, FailOutcome, Failure
from turnkeep.telemetry import Meter, get_log
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
MOST_RUNS = 100_000
"""Runs that wait to be added up: far more than a process ends between two writings. What ended before them is not
counted.
"""
RUNS_AT_ONCE = 200
"""Added up at one turn of the loop: twenty microseconds each, for which all others are held up."""
ANSWER_ENDS = ("completed", "incomplete", "cancelled")


@dataclass(frozen=True, slots=True)
class RunFigures:
    """What is counted of one run when it is settled: figures alone, for many of them wait to be added up.

    `at`: when it ended. `end`: completed, incomplete, cancelled, retry, split, dead, held, waiting or lost.
    `arrival`: of its first message; None where nobody's wait is to be counted. `first`, `seconds`: from the beginning
    of the run to its first token, and to its end.
    """

    at: float
    tenant: str
    end: str
    messages: int = 0
    model: str = ""
    assistant: str = ""
    usage: Usage = Usage()
    code: str = ""
    attempt: int = 1
    arrival: float | None = None
    due_at: float = 0.0
    claimed_at: float = 0.0
    first: float | None = None
    seconds: float = 0.0

    @property
    def waits(self) -> dict[str, float]:
        """Seconds by name: window, queue, first (token) and whole (from the first message to the answer)."""
        waits = _batch_waits(self.attempt, self.arrival, self.due_at, self.claimed_at)
        if self.end in ANSWER_ENDS:
            if self.first is not None:
                waits["first"] = self.first
            if self.arrival is not None:
                waits["whole"] = max(0.0, self.claimed_at - self.arrival) + self.seconds
        return waits


def measure_claim(meter: Meter, claim: Claim) -> None:
    """How long the batch of a claim has waited, and how big it is."""
    meter.observe("run_attempt", claim.attempt)
    arrival = claim.messages[0].arrival if claim.messages else None
    if waits := _batch_waits(claim.attempt, arrival, claim.due_at, claim.claimed_at):
        meter.observe("batch_messages", len(claim.messages))
        meter.observe("window_seconds", waits["window"])
        meter.observe("queue_wait_seconds", waits["queue"])


def _batch_waits(attempt: int, arrival: float | None, due_at: float, claimed_at: float) -> dict[str, float]:
    """Seconds that a batch was in its window, and then in the queue; empty but at its first claim."""
    # a further attempt has waited for its retry, not in the queue
    if attempt > 1 or arrival is None:
        return {}
    return {"window": max(0.0, due_at - arrival), "queue": max(0.0, claimed_at - due_at)}


def measure_run(
    meter: Meter,
    claim: Claim,
    verdict: Verdict,
    fail_outcome: FailOutcome | None,
    *,
    begun_at: float,
    first_shown_at: float | None,
) -> None:
    """How a run ended, and what the store made of a failure; times are those of the loop."""
    meter.count("runs", verdict=VERDICT_LABELS[type(verdict)])
    meter.observe("run_seconds", asyncio.get_running_loop().time() - begun_at)
    if first_shown_at is not None:
        meter.observe("first_token_seconds", first_shown_at - begun_at)
    match verdict:
        case Dropping():
            meter.count("lease_losses")
        case Releasing(reason=TurnFault() as reason):
            meter.count("waits", reason=reason.code)
        case Failure():
            meter.count("errors", code=verdict.fault.code)
            if fail_outcome == "dead":
                meter.count("dead_letters", len(claim.messages), code=verdict.fault.code)
            elif fail_outcome is not None:
                meter.count("retries", code=verdict.fault.code)


def count_unanswered(
    verdict: Failure | HoldVerdict | Releasing | Dropping, fail_outcome: FailOutcome | None
) -> tuple[str, Usage, str]:
    """End, usage and code of a run that has committed nothing, for the charts that people look at."""
    match verdict:
        case Failure():
            # a retry has its usage told by the run that ends the batch
            usage = Usage() if fail_outcome == "retry" else verdict.usage
            return fail_outcome or "lost", usage, verdict.fault.code
        case Releasing():
            return "waiting", Usage(), verdict.reason.code if verdict.reason else ""
        case HoldVerdict():
            return "held", Usage(), ""
        case Dropping():
            return "lost", Usage(), ""
    assert_never(verdict)


class Activity:
    """The figures of this process, until they are written down."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._runs: deque[RunFigures] = deque(maxlen=MOST_RUNS)
        self.note = self._runs.append
        """Count one run. Added up when they are written: a run that ends waits for no sums."""
        self._pending: dict[tuple[str, str], Cell] = {}
        self._name = secrets.token_hex(6)
        self._numbers = itertools.count()
        self._stopping = asyncio.Event()

    def _add_runs(self) -> None:
        # Those that stand in the same places first: nearly all that end within seconds.
        cells: dict[tuple[int, str, str, str], Cell] = {}
        for _ in range(min(RUNS_AT_ONCE, len(self._runs))):
            figures = self._runs.popleft()
            place = (int(figures.at) // 60, figures.tenant, figures.model, figures.assistant)
            _add_to(cells.setdefault(place, {}), _cell_of(figures))
        for (minutes, tenant, model, assistant), cell in cells.items():
            day, hour, minute = _moment(minutes)
            names = {"models": {model: cell}} if model else {}
            if assistant:
                names["assistants"] = {assistant: cell}
            self._add(tenant, day, {"hours": {str(int(hour[-2:])): cell}, **names})
            self._add(tenant, hour, {"minutes": {minute: cell}})

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
        while self._runs:
            self._add_runs()
            await asyncio.sleep(0)
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
    waits = {name: _bucket(seconds) for name, seconds in figures.waits.items()}
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
