"""What other processes did to the file: their events, wakes and nudges, and the leases of those
that are gone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from turnkeep.errors import ThreadQuarantined
from turnkeep.events import Event
from turnkeep.messages import Address
from turnkeep.store import rules_claim
from turnkeep.store.sqlite.connection import every
from turnkeep.store.sqlite.due_index import first_of_each
from turnkeep.store.sqlite.event_log import event_of
from turnkeep.store.sqlite.transaction import Transaction
from turnkeep.store.sqlite.waiters import News, Wakeups

_AT_ONCE = 1000
"""Events of others that are told with their contents; of more than that only that there are some.
"""

_SINCE = "SELECT position, thread, offset, at, kind, body FROM event WHERE position > ? ORDER BY position LIMIT ?"
# The head is asked whether it is JSON: one that is damaged must not spoil the news of all others.
_WHOSE = "SELECT tenant, queue, channel, iif(json_valid(head), head ->> 'epoch', '') FROM thread WHERE id = ?"


_LEASES = "SELECT id, owner, wake, tenant, queue, channel FROM thread WHERE owner IS NOT NULL"
_LEASEHOLDERS = (
    "SELECT owner FROM thread WHERE owner IS NOT NULL AND damaged IS NULL"
    " UNION SELECT owner FROM sink WHERE owner <> ''"
)


class _FollowedThread(NamedTuple):
    address: Address
    epoch: str


class OtherProcesses:
    """Looks at the file for this process."""

    def __init__(self, transaction: Transaction, wakeups: Wakeups) -> None:
        self._transaction = transaction
        self._connection = transaction.connection
        self._wakeups = wakeups
        self.are_there = False
        """Whether another process has the file open."""
        self._owners_at: int | None = None
        self._owes_look = False

    def may_have_written(self) -> bool:
        """Whether to look at the file. Who opens it makes a lock file beside it first: while nothing
        has come or gone there, and nobody is there, the file says what this process has written.
        """
        owners_at = self._transaction.owners.changed_at
        if owners_at != self._owners_at:
            self._owners_at = owners_at
            self.count()
            return True  # also of those who have come, written and gone since
        owed, self._owes_look = self._owes_look, False
        return self.are_there or owed

    def count(self) -> None:
        """Now and then, because one that was killed leaves its lock file behind."""
        were_there, self.are_there = self.are_there, bool(self._transaction.owners.others())
        # what they wrote before they went is to be told
        self._owes_look = self._owes_look or (were_there and not self.are_there)

    def news(self) -> News:
        """What has happened since the last look, for whoever waits for it here."""
        if not self._connection.get_autocommit():
            return self._look()
        # of one moment: between two statements a thread may go, and its row be given to another
        self._connection.execute("BEGIN")
        try:
            return self._look()
        finally:
            self._connection.execute("ROLLBACK")

    def _look(self) -> News:
        news = News()
        if self._wakeups.is_followed:
            self._read_events(news)
        else:
            # nobody here listens: it is enough to know where the log ends
            self._transaction.seen_position = self._transaction.newest("event", "position")
        if self._wakeups.is_awaited:
            for first in first_of_each(self._connection):
                news.wake(first.address.queue, first.wake)
        nudges = every(
            self._connection,
            "SELECT id, owner, tenant, queue, channel FROM nudge WHERE id > ? ORDER BY id",
            (self._transaction.nudge,),
        )
        for self._transaction.nudge, owner, *names in nudges:
            # the others read their own: rows of nudges are for all processes
            if owner in self._transaction.owners:
                news.nudges.append((owner, Address(*names)))
        return news

    def _read_events(self, news: News) -> None:
        rows = every(self._connection, _SINCE, (self._transaction.seen_position, _AT_ONCE + 1))
        # once for each thread: most of what others write is followed in their process and not here,
        # and to make events of all of it was what one more process cost the most
        threads = {row: self._followed_thread(row) for row in {row for _, row, *_ in rows[:_AT_ONCE]}}
        for position, row, offset, at, kind, body in rows[:_AT_ONCE]:
            self._transaction.seen_position = position
            if (thread := threads[row]) is not None:
                with suppress(ThreadQuarantined):  # whoever reads it is told
                    _add(news, thread.address, event_of(offset, at, kind, body, thread.epoch))
        if len(rows) > _AT_ONCE:
            self._skip(news)

    def _followed_thread(self, row: int) -> _FollowedThread | None:
        """The thread of a row, if somebody here follows it."""
        record = self._connection.execute(_WHOSE, (row,)).get
        if record is None:
            return None
        *names, epoch = record
        address = Address(*names)
        # who begins to follow now reads the log from here himself
        if not self._wakeups.follows(address):
            return None
        return _FollowedThread(address, epoch + self._transaction.setup.incarnation)

    def _skip(self, news: News) -> None:
        """Too much at once: say of each channel only that there is something."""
        start, self._transaction.seen_position = (
            self._transaction.seen_position,
            self._transaction.newest("event", "position"),
        )
        rows = every(
            self._connection,
            "SELECT DISTINCT t.tenant, t.queue, t.channel FROM event e JOIN thread t ON t.id = e.thread"
            " WHERE e.position > ?",
            (start,),
        )
        news.events += [(Address(*names), ()) for names in rows]

    def orphaned_threads(self) -> list[tuple[int, Address]]:
        """Leased threads whose owners are gone, but for those that are due already or put aside: nobody
        needs to do more for them. Also counts anew what is leased here.
        """
        leases = every(self._connection, _LEASES)
        owners, now = self._transaction.owners, self._transaction.setup.clock.now()
        dead_owners = {owner for owner in {owner for _, owner, *_ in leases} if owners.is_gone(owner)}
        self._transaction.leases = {row for row, owner, *_ in leases if owner in owners}
        return [
            (row, Address(*names))
            for row, owner, wake, *names in leases
            if owner in dead_owners and wake is not None and wake > now
        ]


def _add(news: News, address: Address, event: Event) -> None:
    """Events of one channel that follow each other go together."""
    if news.events and news.events[-1][0] == address and news.events[-1][1]:
        news.events[-1] = (address, (*news.events[-1][1], event))
    else:
        news.events.append((address, (event,)))


def release(transaction: Transaction, is_meant: Callable[[str], bool]) -> None:
    """Give back all that these owners have leased, because it is known that they are gone or about
    to go.
    """
    transaction.begin()
    for row, owner, _, *names in every(transaction.connection, _LEASES):
        if is_meant(owner):
            transaction.begin_operation()
            with suppress(ThreadQuarantined):
                _bereave(transaction, row, Address(*names), owner)
            transaction.end_operation()
    transaction.begin_operation()
    # a sink has no thread: its lease is freed by hand
    for name, owner in every(transaction.connection, "SELECT name, owner FROM sink WHERE owner <> ''"):
        if is_meant(owner):
            transaction.mark()
            transaction.connection.execute("UPDATE sink SET owner = '' WHERE name = ?", (name,))
    transaction.end_operation()
    transaction.commit()


def free(transaction: Transaction, row: int, address: Address) -> None:
    """Let the next claimant have the thread of an owner that is gone, unless that has happened."""
    thread_row = transaction.find(address)
    owner = None if thread_row is None else thread_row.thread.owner
    if owner is not None and transaction.owners.is_gone(owner):
        _bereave(transaction, row, address, owner)


def _bereave(transaction: Transaction, row: int, address: Address, owner: str) -> None:
    thread_row = transaction.find(address)
    if thread_row is not None and thread_row.row == row and thread_row.thread.owner == owner:
        rules_claim.bereave(thread_row.thread, transaction.now)
        transaction.save(thread_row)


def remove_dead_owners(transaction: Transaction) -> None:
    """Remove the lock files of owners that are gone and have no leases any more."""
    owners = transaction.owners
    if not (owners.has_dead(()) and owners.has_dead(_leaseholders(transaction))):
        return
    # a lease is taken in a transaction: while this one has the file, none is added between the look and
    # the removal; and it is written already, so that no commit that fails can bring it back
    transaction.connection.execute("BEGIN IMMEDIATE")
    try:
        owners.remove_dead(_leaseholders(transaction))
    finally:
        transaction.connection.execute("ROLLBACK")


def _leaseholders(transaction: Transaction) -> set[str]:
    return {owner for (owner,) in every(transaction.connection, _LEASEHOLDERS)}
