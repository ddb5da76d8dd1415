"""What readers see of the file: one snapshot at one moment, in which a thread that
has expired is absent.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import apsw

from turnkeep.clock import SteadyClock
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.store.ids import Ids
from turnkeep.store.records import ages, is_over
from turnkeep.store.sqlite import rows
from turnkeep.store.sqlite.connection import every, one
from turnkeep.store.sqlite.rows import ThreadRow
from turnkeep.store.thread import AcceptedId
from turnkeep.store.values import Counts, Policies, Policy, Stats
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
# Read out of the heads: columns for them would be one more thing to write with every commit, for a
# rare look.
_SUMS = ("messages", "turns", "bytes", *(f"usage.{f.name}" for f in fields(Usage)))


@dataclass(frozen=True, slots=True)
class Setup:
    """What counts for one opened store. `incarnation` is what this life of the file
    adds to every epoch.
    """

    policies: Policies
    clock: SteadyClock
    ids: Ids
    incarnation: str


class View:
    """Threads as they are stored."""

    def __init__(self, connection: apsw.Connection, setup: Setup) -> None:
        self.file = connection
        self.setup = setup
        self.now = 0.0
        self.over: list[Address] = []
        """Threads that were met after their time."""

    @property
    def connection(self) -> apsw.Connection:
        """On which the file says all that this has to see."""
        return self.file

    def begin(self) -> None:
        self.now = self.setup.clock.now()
        self.over = []
        # deferred: all that one look reads is of one moment, and it never asks for the
        # lock of the writer
        self.connection.execute("BEGIN")

    def end(self) -> None:
        if not self.connection.get_autocommit():
            self.connection.execute("ROLLBACK")

    def policy(self, thread_row: ThreadRow) -> Policy:
        return self.setup.policies.of(thread_row.thread.address.queue)

    def find(self, address: Address) -> ThreadRow | None:
        """The thread of this address, if there is one that has
        not expired. Raises `ThreadQuarantined`.
        """
        thread_row = self._load(address)
        if thread_row is not None and is_over(thread_row.thread, self.policy(thread_row), self.now):
            self.over.append(thread_row.thread.address)
            return None
        return thread_row

    def _load(self, address: Address) -> ThreadRow | None:
        if not address.names_thread:
            return rows.load_channel(self.connection, address, self.setup.incarnation)
        row_address = rows.find(self.connection, address)
        return None if row_address is None else rows.load(self.connection, row_address.row, self.setup.incarnation)

    def find_accepted(self, thread_row: ThreadRow, message_id: str) -> AcceptedId | None:
        """What is remembered of a message id."""
        if not thread_row.row:
            return None
        return thread_row.accepted_ids.get(message_id) or rows.load_known(
            self.connection, thread_row.row, message_id, self.now
        )


# ruff: noqa: S608  # statements are put together from the conditions below alone


def counts(view: View, tenant: str | None, queue: str | None) -> Counts:
    connection, values = view.connection, {"tenant": tenant, "queue": queue, "now": view.now}
    live = every(
        connection,
        f"SELECT {_PLACE} AS place, count(*), sum(open), min(wake) FROM ({_LIVE}) WHERE {_WITHIN} GROUP BY place",
        values,
    )
    places = {place: count for place, count, *_ in live}
    oldest = min((wake for place, _, _, wake in live if place == "waiting"), default=view.now)
    (completed_count, failed_count) = one(
        connection, f"SELECT ifnull(sum(completed), 0), ifnull(sum(failed), 0) FROM total WHERE {_WITHIN}", values
    )
    return Counts(
        active=places.get("active", 0),
        waiting=places.get("waiting", 0),
        delayed=places.get("delayed", 0),
        completed=completed_count,
        failed=failed_count,
        held=places.get("held", 0),
        paused=places.get("paused", 0),
        open_messages=sum(open_count for _, _, open_count, _ in live),
        dead_letters=_count(view, f"dead WHERE {_WITHIN}", values),
        threads=_threads(view, values),
        oldest_wait=int(view.now - oldest),
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
