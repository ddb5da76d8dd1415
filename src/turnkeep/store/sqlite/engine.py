"""What every part of the engine stands on: the opened file, its writer and its readers."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import apsw

from turnkeep.clock import Clock, SteadyClock, SystemClock
from turnkeep.errors import StoreUnavailable, ThreadQuarantined
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.store.ids import Ids, random_ids
from turnkeep.store.record_cache import RevisionCount
from turnkeep.store.sqlite import layout, passage_index, rows
from turnkeep.store.sqlite.backup import owners_of
from turnkeep.store.sqlite.connection import at_open, check_version, connect_to_read, connect_to_write, empty_log
from turnkeep.store.sqlite.file_identity import BALLAST, Ballast, FileIdentity, make_file, require_local
from turnkeep.store.sqlite.once import Once
from turnkeep.store.sqlite.operation_queue import WriteKind
from turnkeep.store.sqlite.other_processes import release, remove_dead_owners
from turnkeep.store.sqlite.owners import Owners
from turnkeep.store.sqlite.reader import ReaderPool
from turnkeep.store.sqlite.rows import ThreadRow
from turnkeep.store.sqlite.transaction import Transaction
from turnkeep.store.sqlite.view import Setup, View
from turnkeep.store.sqlite.waiters import Wakeups
from turnkeep.store.sqlite.writer import Writer
from turnkeep.store.values import Policies

T = TypeVar("T")

# More than one, so that a long look (a scan, a page of history) does not hold up a short one.
READERS = 2

_DEFAULTS = Policies()

_Handles = tuple[Transaction, list[View], bool]
"""What writes, what reads, and whether the log is known to have no hole."""


@dataclass(frozen=True, slots=True)
class OpenFile:
    """Everything that lives from `open` to `close`, in the process that opened it."""

    process: int
    wakeups: Wakeups
    writer: Writer
    reader: ReaderPool
    transaction: Transaction
    views: list[View]
    ballast: Ballast


class Engine(RevisionCount):
    """Opens and closes the file, and takes operations to its threads."""

    engine = "sqlite"

    def __init__(
        self,
        path: Path | str,
        policies: Policies = _DEFAULTS,
        *,
        clock: Clock | None = None,
        ids: Ids = random_ids,
        ballast: int = BALLAST,
        allow_network_filesystem: bool = False,
    ) -> None:
        """`ballast` is how many bytes are kept free for runs in progress to end on a full disk.

        A path that is a link counts as the file it leads to: the log of changes and the locks of
        owners are named after it, so all who open one file have to find the same ones.
        """
        self._given_path = Path(path).absolute()
        self.path = self._given_path.resolve()
        self._allow_network = allow_network_filesystem
        self.policies = policies
        # the time of day may be set while we run: leases, windows and expiries go
        # by seconds that pass
        self.clock = SteadyClock(clock or SystemClock())
        self._ids = ids
        self._ballast = ballast
        self._open_file: OpenFile | None = None

    async def open(self) -> None:
        """Make the file if there is none, free the leases of owners that are gone,
        and begin to write.
        """
        wakeups = Wakeups(self.clock)
        ballast = Ballast(owners_of(self.path) / "ballast", self._ballast)
        transaction, views, is_whole = await self._prepare_in_thread()
        try:
            await asyncio.to_thread(ballast.fill)
            # the path as it was given: a link that is made to lead elsewhere is a replaced file as well
            identity = await asyncio.to_thread(FileIdentity, self._given_path)
            writer = Writer(transaction, wakeups, identity=identity, path=self.path, ballast=ballast)
            reader = ReaderPool(views, identity, self.path)
        except BaseException as error:
            _let_go(transaction.owners, _connections(transaction, views))
            if isinstance(error, OSError):
                raise StoreUnavailable(f"the store {self.path} cannot be opened: {error}, open it again") from error
            raise
        # a process that was killed cannot say whether its last sync failed: then nothing is added
        # before the log is new
        writer.may_have_a_hole = not is_whole
        self._open_file = OpenFile(os.getpid(), wakeups, writer, reader, transaction, views, ballast)
        writer.start()
        reader.start()
        try:
            await self.catch_up()
        except BaseException:
            await self.close()
            raise

    async def _prepare_in_thread(self) -> _Handles:
        """Opening migrates, writes the log into the file and waits for locks: seconds, so not on the event loop."""
        opening = asyncio.get_running_loop().run_in_executor(None, self._prepare)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # its thread goes on, and nobody else knows what it has opened and locked by then
            opening.add_done_callback(_let_go_of)
            raise

    def _prepare(self) -> _Handles:
        check_version(apsw.sqlite_lib_version())
        if not self._allow_network:
            require_local(self.path)
        make_file(self.path)
        owners = Owners(owners_of(self.path))
        connections: list[apsw.Connection] = []
        try:
            # before the file is opened: another process that looks at its users meanwhile has to
            # see this one
            owners.hold(f"store {secrets.token_hex(8)}")
            connections.append(connect_to_write(self.path))
            layout.prepare(connections[0], self.path, owners)
            passage_index.require_module(connections[0])
            # marked as open while nobody is there: whoever had it was killed
            was_killed = layout.is_open(connections[0]) and not owners.others()
            incarnation = layout.begin_life(connections[0], lambda: self._ids("epoch"))
            layout.agree_on_time(connections[0], self.clock, is_first=not owners.others())
            # it may have been killed behind a failed sync: only a log that is begun anew has no hole then
            is_whole = empty_log(connections[0]) or not was_killed
            connections += [connect_to_read(self.path) for _ in range(READERS)]
            setup = Setup(self.policies, self.clock, self._ids, incarnation)
            transaction = Transaction(connections[0], setup, owners)
            # who follows asks for a position of its own: telling the whole log as news
            # would be for nobody
            transaction.see_all()
            # leases in a backup are of owners of another time, whose lock files are not here to say
            # that they are gone
            if layout.was_restored(connections[0]):
                release(transaction, lambda _: True)
        except BaseException as error:
            _let_go(owners, connections)
            if isinstance(error, apsw.Error):
                raise at_open(error, self.path) from error
            raise
        return transaction, [View(connection, setup) for connection in connections[1:]], is_whole

    async def close(self) -> None:
        """Do what waits, and let go of the file and of all leases: the next to open it may have
        them at once.
        """
        open_file, self._open_file = self._open_file, None
        # a forked child has the handles and none of the threads; the locks are the parent's, and
        # stay with it
        if open_file is None or open_file.process != os.getpid():
            return
        open_file.wakeups.close()
        await open_file.writer.stop()
        await open_file.reader.stop()
        await asyncio.to_thread(_finish, open_file)

    def use(self) -> OpenFile:
        """Raises `StoreUnavailable` before `open`, after `close`, and in a forked process."""
        open_file = self._open_file
        if open_file is None:
            raise StoreUnavailable("the store is closed")
        if open_file.process != os.getpid():
            raise StoreUnavailable(
                f"the store was opened in another process ({open_file.process}), open one after the fork instead"
            )
        return open_file

    def write(
        self, act: Callable[[Transaction], T], kind: WriteKind = "plain", once: Once | None = None
    ) -> Coroutine[Any, Any, T]:
        return self.use().writer.run(act if once is None else once.once(act), kind)

    async def read_from(self, look: Callable[[View], T]) -> T:
        """Look at the file as it is now; a thread that has expired is deleted when met."""
        # a reader cannot delete; the writer looks again before it does, so what
        # was used meanwhile stays
        value, over = await self.use().reader.run(look)
        for address in over:
            await self.write(partial(_expire, address=address), "ending")
        return value

    def change(
        self,
        address: Address,
        rule: Callable[[Transaction, ThreadRow], T],
        kind: WriteKind = "plain",
        *,
        once: Once | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Apply a rule to a thread that has to be there, and store it."""
        return self.write(lambda tx: _apply(tx, tx.get(address), rule), kind, once)

    def change_or_make(
        self, address: Address, rule: Callable[[Transaction, ThreadRow], T], *, once: Once | None = None
    ) -> Coroutine[Any, Any, T]:
        """Apply a rule to a thread that is made if need be, and store it."""
        return self.write(lambda tx: _apply(tx, tx.find_or_new(address), rule), once=once)

    def change_if_there(
        self,
        address: Address,
        rule: Callable[[Transaction, ThreadRow], T],
        absent: T,
        *,
        kind: WriteKind = "plain",
        once: Once | None = None,
    ) -> Coroutine[Any, Any, T]:
        """Apply a rule to a thread, if there is one, and store it."""

        def act(tx: Transaction) -> T:
            thread_row = tx.find(address)
            return absent if thread_row is None else _apply(tx, thread_row, rule)

        return self.write(act, kind, once)

    def catch_up(self) -> Coroutine[Any, Any, None]:
        """Return when all that others have done until now was told here."""
        return self.write(_nothing, "ending")

    async def resolve(self, address: Address) -> Address:
        """The address of the thread that this one means."""
        # any other name is the channel itself: no look at the file for nearly every call
        if not address.names_thread:
            return address
        row_address = await self.read_from(lambda view: rows.find(view.connection, address))
        return address if row_address is None else row_address.address


def _apply(tx: Transaction, thread_row: ThreadRow, rule: Callable[[Transaction, ThreadRow], T]) -> T:
    result = rule(tx, thread_row)
    # not reached by a rule that raised: it changed the thread in memory only, which
    # `undo_operation` forgets
    tx.save(thread_row)
    return result


def _expire(tx: Transaction, address: Address) -> None:
    """Delete the thread if its time is over."""
    with suppress(ThreadQuarantined):
        tx.find(address)


def _nothing(tx: Transaction) -> None:
    """Each group begins with a look at what others did."""


def _finish(open_file: OpenFile) -> None:
    transaction, connection = open_file.transaction, open_file.transaction.connection
    # when it fails the next life has other epochs, which costs subscribers a snapshot
    with suppress(apsw.Error, OSError):
        layout.note_time(connection, transaction.setup.clock.now())
        # with the owners go their locks, and a lock that is absent says nothing to others
        release(transaction, transaction.owners.__contains__)
        remove_dead_owners(transaction)
        if not open_file.writer.may_have_a_hole:
            layout.end_life(connection, transaction.owners)
    # the last to leave takes the ballast along: one file stays
    if not transaction.owners.others():
        open_file.ballast.free()
    _let_go(transaction.owners, _connections(transaction, open_file.views))


def _let_go_of(opening: asyncio.Future[_Handles]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        transaction, views, _ = opening.result()
        _let_go(transaction.owners, _connections(transaction, views))


def _connections(transaction: Transaction, views: list[View]) -> list[apsw.Connection]:
    return [transaction.file, *(view.connection for view in views)]


def _let_go(owners: Owners, connections: list[apsw.Connection]) -> None:
    # the writer's is the first, so it closes last: the last to close writes the log into the file
    # and removes it
    for connection in reversed(connections):
        connection.close()
    owners.let_go()
