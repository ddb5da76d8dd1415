"""Totals over many threads, by SQL over columns and heads."""
# ruff: noqa: S608  # statements are put together from the conditions below alone

from __future__ import annotations

from dataclasses import fields
from typing import Any

from turnkeep.store.base import Counts, Stats
from turnkeep.store.records import ages
from turnkeep.store.sqlite.query import every, one
from turnkeep.store.sqlite.view import View
from turnkeep.usage import Usage

_WITHIN = "(:tenant IS NULL OR tenant = :tenant) AND (:queue IS NULL OR queue = :queue)"
_LIVING = f"{_WITHIN} AND (expires_at IS NULL OR expires_at > :now)"
_PLACE = (
    "CASE WHEN state = 'leased' THEN 'active' WHEN paused THEN 'paused' WHEN state = 'held' THEN 'held'"
    " WHEN wake IS NULL THEN 'idle' WHEN wake <= :now THEN 'waiting' ELSE 'delayed' END"
)
_LIVE = (  # whoever has open messages and is not paused wakes some time
    "SELECT * FROM thread WHERE wake IS NOT NULL UNION ALL"
    " SELECT * FROM thread WHERE paused = 1 AND wake IS NULL AND (expires_at IS NULL OR expires_at > :now)"
)
_SUMS = ("messages", "turns", "bytes", *(f"usage.{f.name}" for f in fields(Usage)))


def counts(view: View, tenant: str | None, queue: str | None) -> Counts:
    connection, values = view.connection, {"tenant": tenant, "queue": queue, "now": view.now}
    live = every(
        connection,
        f"SELECT {_PLACE} AS place, count(*), sum(open) FROM ({_LIVE}) WHERE {_WITHIN} GROUP BY place",
        values,
    )
    places = {place: count for place, count, _ in live}
    (completed, failed) = one(
        connection, f"SELECT ifnull(sum(completed), 0), ifnull(sum(failed), 0) FROM total WHERE {_WITHIN}", values
    )
    return Counts(
        active=places.get("active", 0),
        waiting=places.get("waiting", 0),
        delayed=places.get("delayed", 0),
        completed=completed,
        failed=failed,
        held=places.get("held", 0),
        paused=places.get("paused", 0),
        open_messages=sum(opened for _, _, opened in live),
        dead_letters=_count(view, f"dead WHERE {_WITHIN}", values),
        threads=_threads(view, values),
    )


def _threads(view: View, values: dict[str, Any]) -> int:
    """All of them less the few that have expired: both from an index alone."""
    return _count(view, f"thread WHERE {_WITHIN}", values) - _count(
        view, f"thread WHERE expires_at <= :now AND {_WITHIN}", values
    )


def _count(view: View, which: str, values: dict[str, Any]) -> int:
    (count,) = one(view.connection, f"SELECT count(*) FROM {which}", values)
    return int(count)


def stats(view: View, tenant: str | None, queue: str | None) -> Stats:
    """Sums over the heads; a head that cannot be read adds nothing."""
    connection, values = view.connection, {"tenant": tenant, "queue": queue, "now": view.now}
    active = [at for (at,) in every(connection, f"SELECT active_at FROM thread WHERE {_LIVING}", values)]
    sums = ", ".join(f"ifnull(sum(head ->> '$.{name}'), 0)" for name in _SUMS)
    messages, turns, size, *usage = one(
        connection, f"SELECT {sums} FROM thread WHERE {_LIVING} AND json_valid(head)", values
    )
    return Stats(
        threads=len(active),
        messages=messages,
        turns=turns,
        ages=ages(active, view.now),
        oldest=min(active, default=None),
        newest=max(active, default=None),
        storage=size,
        usage=Usage(*usage),
    )
