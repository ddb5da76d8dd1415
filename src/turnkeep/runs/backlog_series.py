"""How much waited, minute by minute of an hour and hour by hour of a month: the most that was seen in each.

Whoever is alive looks, worker or gateway: a backlog grows where nobody works. They share small
records as `activity` does; of a minute that somebody else has noted only a larger figure is noted
again. For people who look at charts: a lost figure is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from turnkeep.errors import Conflict, StoreError
from turnkeep.messages import DEFAULT_TENANT
from turnkeep.runs.activity import DAY_KEPT, HOUR_KEPT, Span
from turnkeep.store.contract import Registry, Store
from turnkeep.store.values import Counts, Document
from turnkeep.telemetry import get_log

log = get_log(__name__)

Sample = dict[str, int]
"""The largest counts of a stretch: open messages, threads that wait, seconds of the oldest."""

EVERY = 30.0
"""Seconds between two looks."""
MOST_CHARTED_TENANTS = 100
"""Tenants that one process looks at: the first that it took messages in for."""
NAMES = ("open_messages", "waiting", "delayed", "held", "oldest_wait")


class BacklogSeries:
    """Looks at how much waits, for the tenants of one process and queue."""

    def __init__(self, store: Store, queue: str, tenants: Mapping[str, object]) -> None:
        self._store = store
        self._queue = queue
        self._tenants = tenants
        """Those that messages came for."""

    async def run(self) -> None:
        """Look every half a minute, until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            await self.look()

    async def look(self) -> None:
        for tenant in [*dict.fromkeys([DEFAULT_TENANT, *self._tenants])]:
            try:
                counts = await self._store.counts(tenant=tenant, queue=self._queue)
                moment = datetime.fromtimestamp(await self._store.now(), UTC)
                await self._note(tenant, _hour(moment), str(moment.minute), counts, ttl=HOUR_KEPT)
                await self._note(tenant, _day(moment), str(moment.hour), counts, ttl=DAY_KEPT)
            # the next look comes soon, and of two who write at once the other saw the same
            except (StoreError, Conflict) as error:
                log.debug("backlog_unnoted", error=str(error))

    async def _note(self, tenant: str, name: str, place: str, counts: Counts, *, ttl: float) -> None:
        document = await self._store.get("activity", tenant, name)
        samples = _samples(document)
        before = samples.get(place, {})
        largest = {name: max(before.get(name, 0), getattr(counts, name)) for name in NAMES}
        # compared as it is written: with the zeros it would differ from what it was, and be written at each look
        sample = {name: count for name, count in largest.items() if count}
        if sample == before:
            return
        samples[place] = sample
        version = document.version if document else 0
        await self._store.put("activity", tenant, name, {"backlog": samples}, version=version, ttl=ttl)


async def read_backlog(registry: Registry, tenant: str, *, span: Span, now: float) -> Mapping[float, Sample]:
    """By the beginning of each minute of the last hour, or each hour of the last 30 days, in which
    something waited.
    """
    last = datetime.fromtimestamp(now, UTC)
    if span == "hour":
        last_hour = last.replace(minute=0, second=0, microsecond=0)
        places = [(begin, _hour(begin), 60.0) for begin in (last_hour - timedelta(hours=1), last_hour)]
        earliest = now - 3_600.0
    else:
        today = last.replace(hour=0, minute=0, second=0, microsecond=0)
        days = [today - timedelta(days=back) for back in range(30, -1, -1)]
        places, earliest = [(begin, _day(begin), 3_600.0) for begin in days], 0.0
    series: dict[float, Sample] = {}
    for begin, name, length in places:
        document = await registry.get("activity", tenant, name)
        series |= {begin.timestamp() + int(place) * length: sample for place, sample in _samples(document).items()}
    return {at: sample for at, sample in sorted(series.items()) if at > earliest}


def _samples(document: Document | None) -> dict[str, Sample]:
    """Those of a record, by minute or hour. What another version has left in another form does not count."""
    backlog = document.body.get("backlog") if document else None
    places = backlog.items() if isinstance(backlog, Mapping) else ()
    return {
        place: {name: count for name, count in sample.items() if isinstance(count, int)}
        for place, sample in places
        if place.isdigit() and isinstance(sample, Mapping)
    }


def _hour(moment: datetime) -> str:
    return f"backlog-{moment:%Y-%m-%dT%H}"


def _day(moment: datetime) -> str:
    return f"backlog-{moment:%Y-%m-%d}"
