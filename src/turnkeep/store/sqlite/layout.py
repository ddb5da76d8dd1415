"""The tables, made in a new file, checked in an old one, changed when they are of an older layout;
and the lives and the time of the file.

The time of a store file is one for all processes of this machine, and nobody can set it: it goes on
with the seconds since the machine was started, which all processes count alike; what is added to
them is in the file. So a time of day that is set moves nothing while anybody works. With the next
first opening the store catches up with a time of day that has run ahead a little (a machine without
a clock of its own learns the time after its start); a leap by more is not believed before the
machine is started again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path

import apsw

from turnkeep import clock as clocks
from turnkeep import private_file
from turnkeep.clock import SteadyClock
from turnkeep.errors import StoreMisconfigured
from turnkeep.store.sqlite import passage_index
from turnkeep.store.sqlite.connection import connect_to_read
from turnkeep.store.sqlite.file_identity import sync_folder
from turnkeep.store.sqlite.owners import Owners
from turnkeep.store.values import LAYOUT

APPLICATION = 0x7475726E
"""Marks the file as ours ("turn")."""

_STRANGE = (
    "SELECT iif(type = 'table', 'a virtual table', 'a ' || type) FROM sqlite_schema"
    " WHERE type IN ('trigger', 'view') OR (type = 'table' AND rootpage = 0 AND sql <> ?) LIMIT 1"
)
"""What would run within our own statements; but for our index of what was said."""

Step = Callable[[apsw.Connection], None]

_BOOT_ID = clocks.BOOT_ID

CATCH_UP = 86_400.0
"""Far less than what is kept for a time is kept: threads, and the ids of messages."""


def _script(name: str) -> str:
    return resources.files("turnkeep.store.sqlite").joinpath(name).read_text()


def _from_1(connection: apsw.Connection) -> None:
    """Results of operations are kept, those of several claims of a thread, and ids of messages that
    outlive it; dead letters are found by their channel; each sink has an outbox of its own.
    """
    connection.execute(
        "CREATE TABLE past_id (tenant TEXT NOT NULL, queue TEXT NOT NULL, channel TEXT NOT NULL,"
        " message_id TEXT NOT NULL, forget_at REAL NOT NULL, body TEXT NOT NULL,"
        " PRIMARY KEY (tenant, queue, channel, message_id)) STRICT, WITHOUT ROWID;"
        "CREATE INDEX past_id_forget_at ON past_id (forget_at);"
        "ALTER TABLE dead ADD COLUMN channel TEXT NOT NULL DEFAULT '';"
        "UPDATE dead SET channel = body ->> '$.address[2]';"
        "CREATE INDEX dead_channel ON dead (tenant, queue, channel);"
        "CREATE TABLE operation (id TEXT PRIMARY KEY, until REAL NOT NULL, result TEXT NOT NULL) STRICT, WITHOUT ROWID;"
        "CREATE INDEX operation_until ON operation (until);"
        "UPDATE thread SET head = json_set(head, '$.settlements', json_array(json(head -> '$.last')))"
        " WHERE head -> '$.last' IS NOT NULL;"
        "UPDATE thread SET head = json_remove(head, '$.last', '$.added')"
        " WHERE head -> '$.last' IS NOT NULL OR head -> '$.added' IS NOT NULL;"
    )
    connection.execute(_script("sinks_from_1.sql"))


def _from_2(connection: apsw.Connection) -> None:
    """Logs show tools, thoughts and sources, which programs of before could not read."""


def _from_3(connection: apsw.Connection) -> None:
    """Threads are found by their last activity. Redis keeps its logs and records in another way."""
    connection.execute(
        "ALTER TABLE thread ADD COLUMN active_minute INTEGER NOT NULL DEFAULT 0;"
        "UPDATE thread SET active_minute = CAST(active_at / 60 AS INTEGER);"
        "CREATE INDEX thread_active ON thread (tenant, queue, active_minute)"
    )


STEPS: Mapping[int, Step] = {1: _from_1, 2: _from_2, 3: _from_3}
"""What leads from a layout to the next one, by the number of the older."""


def prepare(
    connection: apsw.Connection,
    path: Path,
    owners: Owners,
    *,
    layout: int = LAYOUT,
    steps: Mapping[int, Step] = STEPS,
) -> None:
    """Make or migrate the tables. Raises `StoreMisconfigured` for a file of somebody else or of a
    newer layout.
    """
    if _is_empty(connection):
        _make(connection, layout)
    current = layout_of(connection, path)
    if current > layout:
        raise StoreMisconfigured(
            f"the store {path} has layout {current}, this version of turnkeep knows {layout} at most: upgrade turnkeep"
        )
    if current < layout:
        _migrate(connection, path, owners, layout=layout, steps=steps)


def layout_of(connection: apsw.Connection, path: Path) -> int:
    if connection.pragma("application_id") != APPLICATION:
        raise StoreMisconfigured(f"{path} is a database of another program, give another path")
    # triggers and views run with our rights, within statements that we wrote
    strange = connection.execute(_STRANGE, (passage_index.TABLE,)).get
    if strange is not None:
        raise StoreMisconfigured(f"{path} has {strange}, which turnkeep never makes: somebody has changed the file")
    number = get(connection, "layout")
    if not isinstance(number, int):
        raise StoreMisconfigured(f"{path} says no layout, put a backup in its place with `turnkeep restore`")
    return number


def get(connection: apsw.Connection, name: str) -> int | float | str | None:
    """One value of the file's own."""
    value: int | float | str | None = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).get
    return value


def put(connection: apsw.Connection, name: str, value: object) -> None:
    connection.execute("REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))


@contextlib.contextmanager
def alone(connection: apsw.Connection) -> Iterator[None]:
    """A write transaction: nobody else writes meanwhile."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _is_empty(connection: apsw.Connection) -> bool:
    count: int = connection.execute("SELECT count(*) FROM sqlite_schema").get
    return count == 0


def _make(connection: apsw.Connection, layout: int) -> None:
    """Of two processes that begin with the same new file one makes the tables."""
    with alone(connection):
        if _is_empty(connection):
            connection.execute(_script("schema.sql"))
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            put(connection, "layout", layout)


def _migrate(
    connection: apsw.Connection, path: Path, owners: Owners, *, layout: int, steps: Mapping[int, Step]
) -> None:
    """In one transaction, after a copy of the file; while nobody uses it with another layout."""
    with alone(connection):
        current = layout_of(connection, path)
        if current == layout:
            return
        # they would go on with statements for tables that are no more
        if old := [other for other in owners.others() if not other.endswith(f" {layout}")]:
            raise StoreMisconfigured(f"the store {path} is open in another process ({old[0]}), stop it to migrate")
        if missing := [number for number in range(current, layout) if number not in steps]:
            raise StoreMisconfigured(
                f"the store {path} has layout {missing[0]}, which this version of turnkeep cannot read any more"
            )
        # a connection of its own, which sees what was before this transaction
        with contextlib.closing(connect_to_read(path)) as source:
            copy_to(source, path.with_name(f"{path.name}.layout{current}"))
        for number in range(current, layout):
            steps[number](connection)
        put(connection, "layout", layout)


def copy_to(connection: apsw.Connection, path: Path) -> None:
    """A copy of the file as it is now; it has its name once it is complete and on disk."""
    draft = path.with_name(f"{path.name}.part")
    draft.unlink(missing_ok=True)
    os.close(private_file.make(draft))
    try:
        _copy(connection, draft, path)
        draft.replace(path)
    # half of a large store would go on filling the disk that was too small for it
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def _copy(connection: apsw.Connection, draft: Path, path: Path) -> None:
    target = apsw.Connection(str(draft))
    try:
        with target.backup("main", connection, "main") as backup:
            # in one step: a copy by parts begins again whenever another process writes
            backup.step(-1)
        # one file, which can be carried about without a log beside it
        target.pragma("journal_mode", "delete")
        _check(target, path)
    finally:
        target.close()
    with open(draft, "rb") as handle:
        os.fsync(handle.fileno())


def _check(connection: apsw.Connection, path: Path) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").get
    if verdict != "ok":
        raise StoreMisconfigured(f"the copy for {path} is damaged ({verdict}): so is the original, or the disk")


def begin_life(connection: apsw.Connection, fresh: Callable[[], str]) -> str:
    """Note that the file is in use, and return what its epochs end with.

    Where it is not known which run of the machine this is, each opening counts as one. When the
    machine stopped while the file was in use, the last moment of its logs may be missing: then all
    epochs change, so that nobody goes on from an offset that now means something else.
    """
    boot = clocks.boot(_BOOT_ID) or fresh()
    with alone(connection):
        # within one run of the machine all that was written is there, synced or not
        if get(connection, "open") and get(connection, "boot") != boot:
            change_epochs(connection, fresh)
        put(connection, "open", 1)
        put(connection, "boot", boot)
    return str(get(connection, "incarnation") or "")


def change_epochs(connection: apsw.Connection, fresh: Callable[[], str]) -> None:
    put(connection, "incarnation", f".{fresh()[-8:]}")


def is_open(connection: apsw.Connection) -> bool:
    """Whether the file is in use, or whoever used it last did not close it."""
    return bool(get(connection, "open"))


def was_restored(connection: apsw.Connection) -> bool:
    """Whether this is the first life since a restore: the first to ask is told, for nobody of
    before is there.
    """
    with alone(connection):
        connection.execute("DELETE FROM meta WHERE name = 'restored'")
        return connection.changes() > 0


def end_life(connection: apsw.Connection, owners: Owners) -> None:
    """Note that the file was closed, unless another process still has it open."""
    with alone(connection):
        if not owners.others():
            put(connection, "open", 0)


def agree_on_time(connection: apsw.Connection, clock: SteadyClock, *, is_first: bool) -> None:
    """Have the clock of this process go by what the file says. `is_first`: nobody else
    has the file open.
    """
    with alone(connection):
        base = _clock_base(connection, clock, is_first=is_first)
        # never behind what is stored: time that goes back would make leases and
        # windows of before longer
        clock.rebase(max(base, _newest_moment(connection) - clock.elapsed()))
        put(connection, "clock_origin", clock.origin)
        put(connection, "clock_base", clock.base)


def note_time(connection: apsw.Connection, now: float) -> None:
    """Remember that it was so late: the next life of the file does not begin before."""
    put(connection, "moment", now)


def _clock_base(connection: apsw.Connection, clock: SteadyClock, *, is_first: bool) -> float:
    stored_base = get(connection, "clock_base")
    if not clock.origin or get(connection, "clock_origin") != clock.origin or not isinstance(stored_base, float):
        return clock.base
    catches_up = is_first and 0.0 < clock.base - stored_base <= CATCH_UP
    return clock.base if catches_up else stored_base


def _newest_moment(connection: apsw.Connection) -> float:
    """The latest moment that the file speaks of, as far as it is found at once."""
    moment = get(connection, "moment")
    event_at = connection.execute("SELECT at FROM event ORDER BY position DESC LIMIT 1").get
    return max(float(moment or 0.0), float(event_at or 0.0))
