"""What goes with time: expired threads, old ids, old events, old records. A little at each call."""

from __future__ import annotations

from turnkeep.errors import ThreadQuarantined
from turnkeep.messages import Address
from turnkeep.store.records import is_over
from turnkeep.store.sqlite import event_log, layout, timekeeping
from turnkeep.store.sqlite.connection import every
from turnkeep.store.sqlite.transaction import Transaction

_ROWS = 10_000
"""Rows of other kinds than threads that one call removes or looks at, at most."""

_NUDGE = 60.0
_BUCKET = 60.0


def expire(tx: Transaction, limit: int) -> tuple[int, set[str]]:
    """How many threads went, and the owners that hold leases now."""
    tx.mark()
    count = _expire_threads(tx, limit)
    _trim_logs(tx, limit)
    connection, now = tx.connection, tx.now
    connection.execute(
        "DELETE FROM known WHERE (thread, message_id) IN"
        " (SELECT thread, message_id FROM known WHERE forget_at <= ? LIMIT ?)",
        (now, _ROWS),
    )
    for statement, before in (
        ("DELETE FROM redriven WHERE forget_at <= ?", now),
        ("DELETE FROM past_id WHERE forget_at <= ?", now),
        ("DELETE FROM operation WHERE until <= ?", now),
        ("DELETE FROM document WHERE expires_at <= ?", now),
        ("DELETE FROM account WHERE until <= ?", now),
        ("DELETE FROM slowed WHERE until <= ?", now),
        ("DELETE FROM bucket WHERE at <= ?", now - _BUCKET),
        ("DELETE FROM nudge WHERE at <= ?", now - _NUDGE),
    ):
        connection.execute(statement, (before,))
    timekeeping.note(connection, now)
    tx.shares.forget_silent()
    working = {owner for (owner,) in every(connection, "SELECT owner FROM thread WHERE owner IS NOT NULL")}
    return count, working


def _expire_threads(tx: Transaction, limit: int) -> int:
    """The column was written under the policy of that time: what counts is asked again."""
    over = every(
        tx.connection,
        "SELECT id, tenant, queue, channel FROM thread WHERE expires_at <= ? ORDER BY expires_at LIMIT ?",
        (tx.now, limit),
    )
    count = 0
    for row, *names in over:
        try:
            thread_row = tx.at(row, Address(*names))
        except ThreadQuarantined:
            continue
        if is_over(thread_row.thread, tx.policy(thread_row), tx.now):
            tx.erase(thread_row)
            count += 1
        else:
            tx.save(thread_row)
    return count


def _trim_logs(tx: Transaction, limit: int) -> None:
    """Events go by in the order in which they were stored; the logs of those that are old now are trimmed."""
    policies = tx.setup.policies
    age = max(policy.log_age for policy in (policies.default, *policies.queues.values()))
    start = layout.get(tx.connection, "trimmed") or 0
    old = every(
        tx.connection,
        "SELECT position, thread, at FROM event WHERE position > ? ORDER BY position LIMIT ?",
        (start, _ROWS),
    )
    threads: dict[int, None] = {}
    for position, row, at in old:
        if at >= tx.now - age or (row not in threads and len(threads) == limit):
            break
        threads[row] = None
        start = position
    for row in threads:
        _trim_log(tx, row)
    layout.put(tx.connection, "trimmed", start)


def _trim_log(tx: Transaction, row: int) -> None:
    names = tx.connection.execute("SELECT tenant, queue, channel FROM thread WHERE id = ?", (row,)).get
    try:
        thread_row = tx.at(row, Address(*names))
    except ThreadQuarantined:
        return
    event_log.trim(tx.connection, thread_row, tx.policy(thread_row), tx.now)
    tx.save(thread_row)
