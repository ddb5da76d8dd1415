"""What operations see inside the writer: threads, of memory or of the file, and one act to store what
changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import apsw

from turnkeep.errors import LeaseLost, ThreadNotFound
from turnkeep.events import Event
from turnkeep.messages import Address
from turnkeep.store.ids import new_dead_id, new_epoch, new_thread_id
from turnkeep.store.log_bounds import TRIM_EVERY
from turnkeep.store.operations import operations_of
from turnkeep.store.records import is_over
from turnkeep.store.sqlite import event_log, history, outbox, rows
from turnkeep.store.sqlite.batch import EVENT, MESSAGE_ID, RUN, TOTAL, Batch
from turnkeep.store.sqlite.codec import encode
from turnkeep.store.sqlite.due_index import DueIndex, TenantShares
from turnkeep.store.sqlite.outbox import OpenSink, open_sinks
from turnkeep.store.sqlite.owners import Owners
from turnkeep.store.sqlite.rows import ThreadRow, letter_to_json
from turnkeep.store.sqlite.thread_cache import ThreadCache
from turnkeep.store.sqlite.view import Setup, View
from turnkeep.store.sqlite.waiters import News
from turnkeep.store.thread import AcceptedId, Out, Thread
from turnkeep.store.values import Claim

FORGOTTEN_HEAD = '"forgotten"'
"""In the place of a result that held what was said."""

SYNC_MARK = "REPLACE INTO meta (name, value) VALUES ('synced', ?)"
"""Nobody reads it. Only a commit that wrote something is synced, and with it the whole log before it."""


class Transaction(View):
    """One group of operations; used again for the next."""

    def __init__(self, connection: apsw.Connection, setup: Setup, owners: Owners) -> None:
        super().__init__(connection, setup)
        self.owners = owners
        self._batch = Batch()
        self._pending: set[Address] = set()
        """Threads of which the file does not say everything yet."""
        self._newest_row: int | None = None
        self.due = DueIndex(self)
        self.shares = TenantShares(self, self._batch)
        self.news = News()
        self.outlook_queues: tuple[Sequence[str] | None] | tuple[()] = ()
        """Of which queues is told with the news when the next thread wakes; empty: of none."""
        self.needs_sync = False
        """Whether something of this group must outlive the machine, though its kind asks for no sync."""
        self.began_at = setup.clock.now()
        """When this life of the file began for this process."""
        self.leases: set[int] = set()
        """Rows of threads that owners of this process have leased."""
        self.seen_position = self.nudge = 0
        """The newest position of the log, and the newest nudge, that were told here."""
        self.has_erased = False
        """Since the log was emptied last, which still holds what was erased."""
        self.is_behind = True
        """Somebody else has written since it was told here what others did."""
        self._threads = ThreadCache(connection, owners)
        self._is_marked = False
        self._events_before = 0
        self._seen_before = 0
        self._seen_at_mark = 0
        self._sinks: tuple[OpenSink, ...] | None = None
        self._has_past_ids: bool | None = None
        """Whether ids of threads that have ended are remembered, once that was looked up."""

    def see_all(self) -> None:
        """What is in the file now is old news."""
        self.seen_position = self.newest("event", "position")
        self.nudge = self.newest("nudge", "id")

    def newest(self, table: str, column: str) -> int:
        value: int | None = self.connection.execute(
            f"SELECT max({column}) FROM {table}"  # noqa: S608  # our own names
        ).get
        return value or 0

    def begin(self) -> None:
        # the lock at once: who begins to read and writes later is refused, without any wait, once
        # somebody else wrote
        self.file.execute("BEGIN IMMEDIATE")
        # the lock is ours from here: what is changed now is changed as the file has it
        self.look()
        self._seen_before = self.seen_position
        self.news = News()
        self.outlook_queues = ()
        self.needs_sync = False

    @property
    def connection(self) -> apsw.Connection:
        """On which the file says all that was put until now."""
        if self._batch.has_own:
            self.mark()
            self._batch.take_in()
        self.write_batch()
        return self.file

    def write_batch(self) -> None:
        """Have the file say what the operations before this one have put."""
        if self._batch.is_empty:
            return
        if not self._batch.has_own:
            self._pending.clear()
        position = self._batch.write(self.file)
        if position is not None:
            self.seen_position = position

    def commit(self) -> News:
        self.write_batch()
        for queues in self.outlook_queues:
            self.news.outlook = (queues, self.due.earliest(queues))
        self.file.execute("COMMIT")
        self._seen_before = self.seen_position
        return self.news

    def roll_back(self) -> None:
        """Take the whole group back."""
        # a full disk or want of memory makes SQLite roll back by itself
        if not self.file.get_autocommit():
            self.file.execute("ROLLBACK")
        self._batch.forget()
        self.seen_position = self._seen_before
        self._threads.clear()
        self.forget()

    def look(self) -> None:
        """Forget what somebody else may have changed since the last look. Of a thread in memory it is
        asked when it is needed.
        """
        if self._threads.look():
            self.is_behind = True
            self.forget()

    def forget(self) -> None:
        self._newest_row = None
        self.due.forget()
        self.shares.forget()
        self._sinks = self._has_past_ids = None

    def require_sync(self) -> None:
        """Have the disk hold what the file says, though this operation changes nothing of it."""
        self.mark()
        self.file.execute(SYNC_MARK, (self.now,))

    def begin_operation(self) -> None:
        self.now = self.setup.clock.now()
        self._threads.begin_operation()
        self._is_marked = False
        self._events_before = len(self.news.events)

    def end_operation(self) -> None:
        if self._is_marked:
            self.file.execute("RELEASE operation")
        self._batch.take_in()

    def undo_operation(self) -> None:
        """Take one operation back; the others of the group stay."""
        self._threads.undo_operation()
        del self.news.events[self._events_before :]
        if self._is_marked:
            self.file.execute("ROLLBACK TO operation")
            self.file.execute("RELEASE operation")
            self.seen_position = self._seen_at_mark
        if self._is_marked or self._batch.has_own:
            self.due.forget()
            self.shares.forget()
            self._sinks = None
        self._batch.take_back()

    def mark(self) -> None:
        """Before the first write of an operation: from here it can be taken back alone."""
        # a savepoint costs two statements, and most operations write by the batch alone
        if not self._is_marked:
            self.write_batch()
            self._seen_at_mark = self.seen_position
            self.file.execute("SAVEPOINT operation")
            self._is_marked = True

    def find(self, address: Address) -> ThreadRow | None:
        """The thread of this address, if there is one; one that has expired is deleted when met."""
        thread_row = self._threads.get(address) or self._load(address)
        if thread_row is None:
            return None
        if is_over(thread_row.thread, self.policy(thread_row), self.now):
            self.erase(thread_row)
            return None
        return thread_row

    def _load(self, address: Address) -> ThreadRow | None:
        if address.names_thread:
            # it may be in memory under the address that it was made under
            row_address = rows.find(self._seen_with(address), address)
            return None if row_address is None else self.at(row_address.row, row_address.address)
        thread_row = rows.load_channel(self._seen_with(address), address, self.setup.incarnation)
        if thread_row is not None:
            self._threads.keep(thread_row)
        return thread_row

    def at(self, row: int, address: Address) -> ThreadRow:
        """The thread of a row. Raises `ThreadQuarantined`."""
        thread_row = self._threads.get(address)
        if thread_row is None:
            thread_row = rows.load(self._seen_with(address), row, self.setup.incarnation)
            self._threads.keep(thread_row)
        return thread_row

    def _seen_with(self, address: Address) -> apsw.Connection:
        """The file, when it says all of the threads that this address may name."""
        is_pending = address in self._pending or (address.names_thread and self._pending)
        return self.connection if is_pending else self.file

    def find_accepted(self, thread_row: ThreadRow, message_id: str) -> AcceptedId | None:
        """What is remembered of a message id."""
        if accepted_id := thread_row.accepted_ids.get(message_id):
            return accepted_id
        if not thread_row.row:
            return None
        connection = self.connection if self._batch.holds(MESSAGE_ID, (thread_row.row, message_id)) else self.file
        return rows.load_known(connection, thread_row.row, message_id, self.now)

    def recall(self, address: Address) -> ThreadRow | None:
        """What memory has of a thread, which may be old by now: for a guess of the event loop."""
        return self._threads.recall(address)

    def get(self, address: Address) -> ThreadRow:
        thread_row = self.find(address)
        if thread_row is None:
            raise ThreadNotFound(f"there is no thread on channel {address.channel!r}")
        return thread_row

    def find_or_new(self, address: Address) -> ThreadRow:
        """A new thread is not stored before something of it is."""
        thread_row = self.find(address)
        if thread_row is not None:
            return thread_row
        ids = self.setup.ids
        epoch = new_epoch(ids)
        thread = Thread(address, new_thread_id(ids, address), self.now, self.now, epoch + self.setup.incarnation)
        return ThreadRow(0, thread, epoch, is_new=True)

    def claimed_thread(self, claim: Claim) -> ThreadRow:
        thread_row = self.find(claim.address)
        if thread_row is None or thread_row.thread.thread_id != claim.thread_id:
            raise LeaseLost(f"the thread of run {claim.run_id} was deleted")
        return thread_row

    def may_claim_again(self, thread: Thread) -> bool:
        """Whether a claim of this thread may be lost when the machine stops, and its owner with it:
        nothing but the same claim is missing then.
        """
        # of any other state a claim ends something: it counts a death, or a decision comes too late
        if thread.state != "waiting":
            return False
        # what was here before this life of the file may be what ended the one before: its deaths have
        # to be counted
        first = thread.inbox[0]
        return not first.deaths and first.message.arrival > self.began_at

    def drop(self, thread_row: ThreadRow) -> None:
        """Forget changes in memory that are not to be stored."""
        self._threads.drop(thread_row.thread.address)

    def accepted_before(self, thread_row: ThreadRow, message_id: str) -> AcceptedId | None:
        """What is remembered of an id on this channel, of an earlier thread too."""
        if accepted_id := self.find_accepted(thread_row, message_id):
            return accepted_id
        thread = thread_row.thread
        # it is older than any id that is still remembered of a thread before it
        if thread.created_at <= self.now - self.policy(thread_row).dedupe:
            return None
        # only statements of their own write these, so the file always says them; and only the end of
        # a thread adds one, so for this one it is looked up once, and where no thread has ended never
        if self._has_past_ids is None:
            self._has_past_ids = rows.has_any_past_id(self.file)
        if thread_row.has_past is None:
            thread_row.has_past = self._has_past_ids and rows.has_past_ids(self.file, thread.address)
        if not thread_row.has_past:
            return None
        return rows.load_past_id(self.file, thread.address, message_id, self.now)

    def save(self, thread_row: ThreadRow) -> None:
        """Store a thread and all that a rule added to it."""
        thread, policy, batch = thread_row.thread, self.policy(thread_row), self._batch
        out = thread.take_out()
        if not thread_row.row:
            thread_row.row = self._new_row()
            self._threads.keep(thread_row)
        self._pending.add(thread.address)
        if out.entries:
            history.append(batch, thread_row, out.entries)
            if history.is_beyond(thread, policy):
                self.mark()
                history.cut(self.connection, thread_row, policy)
        self._put_head(thread_row)
        rows.put_messages(batch, thread_row, out)
        rows.put_known(batch, thread_row, out.accepted_ids.items(), self.find_accepted)
        self._append(thread_row, out.events)
        self._store_ends(thread_row, out)
        # by steps: to look at the bounds for each event would make a long run dearer by the token
        if _is_long(thread, len(out.events)) or (out.run and out.run.started_at < self.now - policy.log_age):
            self.mark()
            event_log.trim(self.connection, thread_row, policy, self.now)
        if out.nudge is not None:
            self._nudge(out.nudge, thread.address)

    def _new_row(self) -> int:
        """The lock of the group is ours, so nobody else gives this number."""
        newest = self.newest("thread", "id") if self._newest_row is None else self._newest_row
        self._newest_row = newest + 1
        return self._newest_row

    def _put_head(self, thread_row: ThreadRow) -> None:
        thread = thread_row.thread
        rows.put_head(self._batch, thread_row, self.policy(thread_row))
        if thread.address not in self._threads:
            self._threads.keep(thread_row)
        wake = thread.wake
        if wake != thread_row.wake:
            thread_row.wake = wake
            self.due.mark_changed(thread.address)
        if wake is not None:
            self.news.wake(thread.address.queue, wake)
        if thread.owner in self.owners:
            self.leases.add(thread_row.row)
        else:
            self.leases.discard(thread_row.row)

    def _store_ends(self, thread_row: ThreadRow, out: Out) -> None:
        """Dead letters, a finished run, and totals."""
        address = thread_row.thread.address
        for place, letter in enumerate(out.dead):
            dead_id = new_dead_id(self.setup.ids, address, self.now, place)
            body = encode(letter_to_json(replace(letter, dead_id=dead_id)))
            self.mark()
            self.connection.execute(
                "INSERT INTO dead (dead_id, tenant, queue, thread_id, body, channel) VALUES (?, ?, ?, ?, ?, ?)",
                (dead_id, address.tenant, address.queue, letter.thread_id, body, address.channel),
            )
        if out.run is not None:
            self._batch.add(RUN, (thread_row.row, encode(out.run)))
            # a few too many cost less than a search for the oldest with every run
            if thread_row.thread.turns % rows.RUNS_SLACK == 0:
                self.mark()
                rows.cut_runs(self.connection, thread_row.row, self.policy(thread_row))
        if out.completed_count or out.failed_count:
            self._batch.add(TOTAL, (address.tenant, address.queue, out.completed_count, out.failed_count))

    def publish(self, thread_row: ThreadRow) -> None:
        """Store new events of a run and nothing else: the head stays as it is (see `rows`)."""
        thread = thread_row.thread
        events = thread.take_out().events
        self._pending.add(thread.address)
        self._append(thread_row, events)
        if _is_long(thread, len(events)):
            self.mark()
            event_log.trim(self.connection, thread_row, self.policy(thread_row), self.now)

    def _append(self, thread_row: ThreadRow, events: Sequence[Event]) -> None:
        if not events:
            return
        if self.sinks:
            self.mark()
            event_rows = event_log.append(self.connection, thread_row, events)
            self.seen_position = event_rows[-1][0]
            is_sent = outbox.send(self.connection, thread_row, self.sinks, event_rows, now=self.now)
            # of a sink that another process has opened since this group began
            self.needs_sync = self.needs_sync or is_sent
        else:
            for event in events:
                self._batch.add(EVENT, (thread_row.row, *event_log.row_of(event)))
        self.news.events.append((thread_row.thread.address, events))

    def _nudge(self, owner: str, address: Address) -> None:
        """Tell an owner: here after the commit, elsewhere by a row that its process finds."""
        # an owner of this process hears it on the event loop; a row would only come back to us a
        # look later
        if owner in self.owners:
            self.news.nudges.append((owner, address))
            return
        self.mark()
        self.connection.execute(
            "INSERT INTO nudge (owner, tenant, queue, channel, at) VALUES (?, ?, ?, ?, ?)",
            (owner, address.tenant, address.queue, address.channel, self.now),
        )

    def erase(self, thread_row: ThreadRow) -> None:
        """Delete a thread with everything that is kept by its row."""
        self.erase_row(thread_row.row, thread_row.thread.address)

    def erase_row(self, row: int, address: Address) -> None:
        self.mark()
        thread_id = self.connection.execute("SELECT thread_id FROM thread WHERE id = ?", (row,)).get
        # callers name a thread by its channel or by its id, and results are kept under the name
        # they used
        for name in (address.channel, thread_id):
            self._forget_results(replace(address, channel=name))
        rows.leave_ids(self.connection, row, address, now=self.now, policy=self.setup.policies.of(address.queue))
        rows.erase(self.connection, row)
        self.has_erased = True
        self._has_past_ids = None
        self._threads.drop(address)
        self.leases.discard(row)
        self.due.mark_changed(address)

    def _forget_results(self, address: Address) -> None:
        """Results that are kept for a repeat hold messages, calls and summaries; that they were
        done stays known.
        """
        first = operations_of(address)
        self.connection.execute(
            "UPDATE operation SET result = ? WHERE id > ? AND id < ? AND substr(result, 1, 1) = '{'",
            (FORGOTTEN_HEAD, first, f"{first}g"),  # what follows is hexadecimal
        )

    def quarantine(self, row: int, address: Address) -> None:
        """Nobody claims this thread again; its stored state stays for whoever looks at it."""
        self.mark()
        # without a wake it is in no index that claims and waiting workers look at
        self.connection.execute("UPDATE thread SET damaged = 1, wake = NULL WHERE id = ?", (row,))
        # a rule may have begun to change it
        self._threads.drop(address)
        self.due.mark_changed(address)

    @property
    def sinks(self) -> tuple[OpenSink, ...]:
        if self._sinks is None:
            self._sinks = open_sinks(self.file)
        return self._sinks

    @property
    def tells_receivers_of_runs(self) -> bool:
        """Whether what runs say goes to a receiver outside, and not only how they end."""
        return any(not sink.selection.finals for sink in self.sinks)

    def sinks_changed(self) -> None:
        self._sinks = None


def _is_long(thread: Thread, new_count: int) -> bool:
    """Whether the log has grown past the next multiple of `TRIM_EVERY`."""
    return thread.top // TRIM_EVERY != (thread.top - new_count) // TRIM_EVERY
