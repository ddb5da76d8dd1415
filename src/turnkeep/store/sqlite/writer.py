"""The one thread of a process that writes: all operations that wait become one transaction.

Each operation is taken back alone when it raises; its future resolves after the commit. A group
that holds nothing but what may be lost with the machine (deltas, the pace of requests) commits
without waiting for the disk.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

import apsw

from turnkeep.errors import OutcomeUnknown, StoreError, StoreFull, StoreUnavailable, ThreadQuarantined
from turnkeep.messages import Address
from turnkeep.store.sqlite.connection import LOG_LIMIT, at_commit, connect_to_write, empty_log, meaning, no_text
from turnkeep.store.sqlite.file_identity import Ballast, FileIdentity
from turnkeep.store.sqlite.operation_queue import ALL_KINDS, ActResult, Call, Operation, OperationQueue, WriteKind
from turnkeep.store.sqlite.other_processes import OtherProcesses, free, remove_dead_owners
from turnkeep.store.sqlite.transaction import SYNC_MARK, Transaction
from turnkeep.store.sqlite.waiters import News, Wakeups
from turnkeep.telemetry import get_log

T = TypeVar("T")
log = get_log(__name__)

_NOTHING_GIVEN: tuple[tuple[()]] = ((),)

_REFUSABLE: frozenset[WriteKind] = frozenset(("plain", "urgent", "beginning"))
_WITHOUT_SYNC: frozenset[WriteKind] = frozenset(("soft", "beginning"))
_WITH_SYNC_BEHIND: frozenset[WriteKind] = frozenset(("soft", "beginning", "urgent"))
"""Kinds that other processes may see before the disk has them."""
_NO_KINDS: frozenset[WriteKind] = frozenset()

CAPACITY = 10_000
PATIENCE = 30.0
MOST_LOG = 1_000_000_000
"""Bytes of the log of changes; beyond them nothing new is taken in. It cannot shrink while an old
state is read.
"""
HOLE_PATIENCE = 1.0
"""Seconds that a group waits for readers to let the log be begun anew."""
COMPLAINT = 60.0
"""Seconds between two log lines that say that leases and news of others cannot be looked at."""
# SQLite tells nobody what another process commits, so somebody has to look: seconds between two
# looks while a subscriber or a lease here depends on it, else, while nobody else has the file open,
# and for what has time.
_LIVE, _IDLE, _ALONE, _SWEEP = 0.005, 0.05, 0.2, 1.0


class Writer:
    """Takes operations on the event loop, and does them in its thread."""

    def __init__(
        self, transaction: Transaction, wakeups: Wakeups, *, identity: FileIdentity, path: Path, ballast: Ballast
    ) -> None:
        self._transaction = transaction
        self._others = OtherProcesses(transaction, wakeups)
        self._wakeups = wakeups
        self._identity = identity
        self._path = path
        self._ballast = ballast
        # what waits is bounded by CAPACITY, where one can wait without a thread
        self._queue = OperationQueue()
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        self._turned_away: deque[asyncio.Future[None]] = deque()
        self._exit: asyncio.Future[None] = self._loop.create_future()
        self._is_stopping = False
        self._synchronous = "full"
        self._owes_sync = False
        """Something was committed that no sync was waited for."""
        self._must_sync = False
        """A sync failed that somebody waited for: nobody is answered before another one."""
        self._has_freed = False
        self.log_bytes = 0
        """Of the log of changes, as it was a moment ago."""
        self.may_have_a_hole = False
        """A write or sync failed, here or in a process that was killed. The disk may lack what the
        machine shows of the log, and all that is added behind the hole would be lost with it: so
        nothing is added before the log was written into the file and begun anew.
        """
        self._next_look = self._next_sweep = 0.0
        self._next_complaint = 0.0
        self._thread = threading.Thread(target=self._work, name="turnkeep-sqlite-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Operations that wait for their commit."""
        return self._waiting

    async def run(self, act: Callable[[Transaction], T], kind: WriteKind = "plain") -> T:
        """Do this in the next group; returns after its commit."""
        [value] = await self.run_each(act, _NOTHING_GIVEN, kind)
        return value

    async def run_each(
        self, act: Callable[..., T], arguments: Collection[tuple[Any, ...]], kind: WriteKind = "plain"
    ) -> list[T]:
        """Do this with each of these, which happens or not by itself. Returns when the last has ended,
        and raises the first error there was.
        """
        if self._waiting >= CAPACITY:
            await self._room()
        if self._is_stopping:
            raise StoreUnavailable("the store is closed")
        if not arguments:
            return []
        self._waiting += len(arguments)
        call = Call(self._loop.create_future(), len(arguments))
        for place, values in enumerate(arguments):
            self._queue.put(Operation(act, values, kind, call, place))
        return await call.future

    async def _room(self) -> None:
        """Wait until fewer operations wait."""
        room: asyncio.Future[None] = self._loop.create_future()
        self._turned_away.append(room)
        try:
            async with asyncio.timeout(PATIENCE):
                await room
        except TimeoutError:
            raise StoreUnavailable(f"{CAPACITY} operations wait for the store {self._path}, send less") from None

    async def stop(self) -> None:
        """Do what waits, then end."""
        self._is_stopping = True
        if self._thread.is_alive():
            self._queue.end()
            await self._exit

    def _settle(self, results: Sequence[ActResult], news: News) -> None:
        self._waiting -= len(results)
        for operation, value, error in results:
            operation.call.settle(operation.place, value, error)
        self._wakeups.tell(news)
        self._let_in(CAPACITY - self._waiting)

    def _let_in(self, count: int) -> None:
        """Wake so many of those who wait outside, first come first."""
        while count > 0 and self._turned_away:
            room = self._turned_away.popleft()
            # who gave up must not use up the turn of the next
            if not room.done():
                room.set_result(None)
                count -= 1

    def _end(self) -> None:
        if not self._exit.done():
            self._exit.set_result(None)

    def _work(self) -> None:
        try:
            while (group := self._queue.gather(self._next_look - time.monotonic())) is not None:
                if group:
                    self._write(group)
                self._try_to_look_around()
            if self._owes_sync:
                # others may have the file open, and would not do it for us
                with suppress(apsw.Error):
                    self._sync()
        finally:
            self._call(self._end)

    def _try_to_look_around(self) -> None:
        try:
            self._look_around()
        except Exception as error:  # looked at again in a moment
            self._note_error(error)
            # a disk that stays full, or a fault of ours, comes back with every look
            if (now := time.monotonic()) < self._next_complaint:
                return
            self._next_complaint = now + COMPLAINT
            if isinstance(error, (apsw.Error, StoreError)):
                log.warning("store_look_failed", path=str(self._path), reason=str(error))
            else:
                log.exception("store_look_failed", path=str(self._path))

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        with suppress(RuntimeError):  # the event loop is gone, nobody waits any more
            self._loop.call_soon_threadsafe(function, *arguments)

    def _write(self, group: list[Operation], *, is_open: bool = True) -> None:
        """One transaction for all; when that fails, one for each, so that only those
        fail that have to. Others may join an open group.
        """
        is_committing = False
        try:
            self._begin(group)
            results = [self._perform(operation) for operation in group]
            # who came meanwhile waits for no sync of his own: a worker that claims what is accepted here, say
            kinds = self._joining_kinds(group) if is_open else _NO_KINDS
            while kinds and (newcomers := self._queue.join(group, kinds)):
                results += [self._perform(operation) for operation in newcomers]
            self._transaction.write_batch()
            # until here nothing was done for certain; a commit that fails leaves open what a crash
            # would keep
            is_committing = True
            news = self._transaction.commit()
        except apsw.Error as error:
            self._note_error(error)
            self._undo()
            self._try_again(group, error, is_committing=is_committing)
        except Exception as error:
            self._undo()
            self._blame(group, error)
        else:
            self._answer(results, news)

    def _begin(self, group: Sequence[Operation]) -> None:
        # a file that was deleted or replaced takes every write, and nobody finds them again; it
        # costs a microsecond
        self._identity.check()
        self._close_hole()
        self._set_sync("normal" if self._is_synced_behind(group) else "full")
        self._transaction.begin()
        # the lock is ours from here: what is told of others now is all of it, in the order in which
        # it was committed
        self._tell_of_others()

    def _is_synced_behind(self, group: Sequence[Operation]) -> bool:
        """Whether this may be in the file before it is on the disk, if it is not lost altogether."""
        # deltas come with every token, and the final event says again what they said; a claim that is
        # lost is made again, for whoever had it died with the machine. A receiver outside takes back
        # nothing, and others read from the commit on: what it is told has its sync in the commit
        return (
            all(operation.kind in _WITH_SYNC_BEHIND for operation in group)
            and not self._transaction.tells_receivers_of_runs
        )

    def _joining_kinds(self, group: Sequence[Operation]) -> frozenset[WriteKind]:
        """Who may come into a group that has begun: nobody who would have to wait for a sync that it does
        not make, or makes too late for him.
        """
        if self._synchronous == "full":
            return ALL_KINDS
        return _WITH_SYNC_BEHIND if _is_urgent(group) else _NO_KINDS

    def _set_sync(self, synchronous: str) -> None:
        # before the transaction: SQLite does not change it within one
        if synchronous != self._synchronous:
            self._transaction.connection.execute(f"PRAGMA synchronous = {synchronous}")
            self._synchronous = synchronous

    def _answer(self, results: Sequence[ActResult], news: News) -> None:
        """Tell the callers of a group that was committed. Who needs the disk to have it, hears after a
        sync; a worker asks its model meanwhile.
        """
        is_synced = self._synchronous == "full"
        self._owes_sync = self._owes_sync or not is_synced
        needs_sync = self._must_sync or (not is_synced and self._transaction.needs_sync)
        if not (needs_sync or is_synced):
            early = [result for result in results if result[0].kind in _WITHOUT_SYNC]
            if len(early) < len(results):
                needs_sync = True
                results = [result for result in results if result[0].kind not in _WITHOUT_SYNC]
                if early:
                    # what wakes, with the claim that has ended some of it; what was said when it is there for good
                    self._call(self._settle, early, News(wakes=news.wakes, nudges=news.nudges, outlook=news.outlook))
                    news = News(events=news.events)
        self._call(self._settle, self._after_sync(results) if needs_sync else results, news)

    def _after_sync(self, results: Sequence[ActResult]) -> Sequence[ActResult]:
        try:
            self._sync()
        except apsw.Error as error:
            self._must_sync = True
            self._note_error(error)
            failure = OutcomeUnknown(str(meaning(error, self._path)))
            return [(operation, None, refusal or failure) for operation, _, refusal in results]
        return results

    def _sync(self) -> None:
        """Have the disk hold all that was committed until now."""
        self._set_sync("full")
        self._transaction.connection.execute(SYNC_MARK, (self._transaction.now,))
        self._owes_sync = self._must_sync = False

    def _note_error(self, error: BaseException) -> None:
        # only these: a full disk or a lock leaves no doubt about what was written
        self.may_have_a_hole = self.may_have_a_hole or isinstance(error, apsw.IOError)

    def _close_hole(self) -> None:
        """On a fresh connection, whose pages come from the file. Linux tells each failed sync once:
        a sync of the same pages that succeeds afterwards says nothing, only writing them elsewhere
        does.
        """
        if not self.may_have_a_hole:
            return
        with closing(connect_to_write(self._path, patience=HOLE_PATIENCE)) as fresh:
            if not empty_log(fresh, patience=HOLE_PATIENCE):
                raise StoreUnavailable(
                    "a sync of the disk failed, or may have before a process was killed, and another program keeps the"
                    f" log of {self._path} from being written anew: end what reads the store, or start again"
                )
        self.may_have_a_hole = False

    def _perform(self, operation: Operation) -> ActResult:
        # the last moment at which nothing of it is done, and nobody waits for it
        if operation.call.future.cancelled():
            return operation, None, None
        if operation.kind in _REFUSABLE and (refusal := self._refusal()) is not None:
            return operation, None, refusal
        self._transaction.begin_operation()
        try:
            value = operation.act(self._transaction, *operation.arguments)
        # of the file and not of this operation: `_write` takes the group back and tries each alone
        except apsw.Error:
            raise
        except UnicodeEncodeError as error:
            self._transaction.undo_operation()
            return operation, None, no_text(error)
        except Exception as error:
            self._transaction.undo_operation()
            return operation, None, error
        self._transaction.end_operation()
        return operation, value, None

    def _refusal(self) -> StoreError | None:
        """Why nothing new is taken in now, though runs may go on."""
        # deleting gives pages back to the file and not room to the disk, so free
        # pages count as room
        if not (self._ballast.is_there or self._has_freed):
            return StoreFull(f"the disk of {self._path} is full, free some space or forget threads")
        if self.log_bytes > MOST_LOG:
            return StoreUnavailable(
                f"the log of {self._path} has {self.log_bytes:,} bytes, because another program keeps reading an old"
                " state of the store: end that program"
            )
        return None

    def _look_at_room(self) -> None:
        self._ballast.fill()
        self._has_freed = not self._ballast.is_there and self._ballast.is_made_up_for(self._transaction.connection)
        with suppress(OSError):
            self.log_bytes = os.stat(f"{self._path}-wal").st_size
        if self.log_bytes > LOG_LIMIT and empty_log(self._transaction.connection):
            self.log_bytes = 0

    def _try_again(self, group: Sequence[Operation], error: apsw.Error, *, is_committing: bool) -> None:
        # the ballast is given up at the moment of need, not before: what came in until then found
        # real room
        has_room_now = isinstance(error, apsw.FullError) and self._ballast.free()
        self._has_freed = self._has_freed and not isinstance(error, apsw.FullError)
        # a lock or a broken disk treats one operation no better than all: trying each would be
        # patience times 512
        is_hopeless = isinstance(error, apsw.BusyError | apsw.IOError)
        if is_hopeless or (len(group) == 1 and not has_room_now):
            self._fail(group, (at_commit if is_committing else meaning)(error, self._path))
            return
        for operation in group:
            self._write([operation], is_open=False)

    def _blame(self, group: Sequence[Operation], error: Exception) -> None:
        """What a row holds is met when it is written, for all of a group together: each is tried
        alone, so that only the one fails whose row it was.
        """
        # a file that is gone, or a log that nobody can write anew, treats one operation no better than all
        if len(group) == 1 or isinstance(error, StoreUnavailable):
            self._fail(group, no_text(error) if isinstance(error, UnicodeEncodeError) else error)
            return
        for operation in group:
            self._write([operation], is_open=False)

    def _undo(self) -> None:
        with suppress(apsw.Error):
            self._transaction.roll_back()

    def _fail(self, group: Sequence[Operation], error: Exception) -> None:
        self._call(self._settle, [(operation, None, error) for operation in group], News())

    def _look_around(self) -> None:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _ALONE  # also when it fails: or the thread would do nothing else
            if self._others.may_have_written():
                self._transaction.look()
                self._tell_of_others()
            self._next_look = now + self._rest()
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP
            # first, whatever fails then: so that a machine that stops loses a second of it at most
            if self._owes_sync:
                self._close_hole()
                self._sync()
            self._look_at_room()
            # listing a folder and asking for locks is most of what a process costs that does nothing
            if self._transaction.owners.may_have_changed():
                self._transaction.owners.renew()
                self._others.count()
                self.sweep()
            # the log still has the old pages: what was forgotten could be read from it
            # until it is cut
            if self._transaction.has_erased:
                self._transaction.has_erased = not empty_log(self._transaction.connection)

    def _rest(self) -> float:
        """Seconds until the next look."""
        if not self._others.are_there:
            return _ALONE
        # an owner of leases waits for nudges, which other processes leave in the file
        return _LIVE if self._wakeups.is_followed or self._transaction.leases else _IDLE

    def _tell_of_others(self) -> None:
        if self._transaction.is_behind:
            news = self._others.news()
            # not before: news that could not be read are read with the next look
            self._transaction.is_behind = False
            self._call(self._wakeups.tell, news)

    def sweep(self) -> None:
        """Free the leases of owners that are gone, and then remove what says that they are."""
        if threads := self._others.orphaned_threads():
            self._free(threads)
        remove_dead_owners(self._transaction)

    def _free(self, threads: Sequence[tuple[int, Address]]) -> None:
        try:
            self._set_sync("full")
            self._transaction.begin()
            for row, address in threads:
                self._transaction.begin_operation()
                with suppress(ThreadQuarantined):
                    free(self._transaction, row, address)
                self._transaction.end_operation()
            news = self._transaction.commit()
        except BaseException:
            self._undo()
            raise
        self._call(self._wakeups.tell, news)


def _is_urgent(group: Sequence[Operation]) -> bool:
    return any(operation.kind == "urgent" for operation in group)
