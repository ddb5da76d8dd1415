"""The file of the SQLite engine: made, recognised, migrated, and its lives told apart."""

from __future__ import annotations

import asyncio
import gzip
import stat
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from tests.contract.suite.desk import HERE, at
from tests.patience import PATIENCE
from tests.unit.sqlite_files import engine, opened
from turnkeep.errors import StoreMisconfigured, StoreUnavailable
from turnkeep.messages import AssistantItem, UserItem
from turnkeep.store.sqlite import SqliteStore, layout
from turnkeep.store.sqlite.connection import check_version, connect_to_read, connect_to_write
from turnkeep.store.sqlite.file_identity import make_file
from turnkeep.store.sqlite.owners import Owners
from turnkeep.store.values import LAYOUT

LAYOUTS = Path(__file__).parent.parent / "data" / "layouts"


async def test_a_missing_directory_is_made_and_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "place" / "turnkeep.db"

    async with opened(path) as desk:
        await desk.say("m1")

        for name in ("turnkeep.db", "turnkeep.db-wal"):
            assert stat.S_IMODE(path.with_name(name).stat().st_mode) == 0o600


async def test_what_was_acknowledged_is_there_when_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        claim = await desk.lease("m1")
        await desk.commit(claim)
        await desk.say("m2")
        before = await desk.dump(ids=["m1", "m2"])

    async with opened(path) as again:
        assert await again.dump(ids=["m1", "m2"]) == before


async def test_closing_leaves_one_file(tmp_path: Path) -> None:
    ballast = tmp_path / "a.db.owners" / "ballast"
    async with opened(tmp_path / "a.db", ballast=1000) as desk:
        await desk.lease("m1")
        async with opened(tmp_path / "a.db", ballast=1000):
            assert ballast.stat().st_size == 1000
        assert ballast.exists()  # for the one that still has it open

    assert names(tmp_path) == ["a.db"]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def test_nothing_is_done_after_closing(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        store = desk.store

    with pytest.raises(StoreUnavailable, match="the store is closed"):
        await store.thread(HERE)
    with pytest.raises(StoreUnavailable, match="the store is closed"):
        await store.accept([])
    with pytest.raises(StoreUnavailable, match="the store is closed"):
        await store.check()


async def test_the_check_writes_and_says_what_it_stands_on(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        found = await desk.store.check()

    assert found["engine"] == "sqlite"
    assert found["version"] == apsw.sqlite_lib_version()
    assert found["layout"] == LAYOUT
    assert found["path"] == str(tmp_path / "a.db")


def test_no_statement_is_planned_anew_for_other_values(tmp_path: Path) -> None:
    make_file(tmp_path / "a.db")
    for connect in (connect_to_write, connect_to_read):
        with closing(connect(tmp_path / "a.db")) as connection:
            assert connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, -1) == 1


async def test_a_file_that_is_deleted_takes_no_receipts_until_it_is_back(tmp_path: Path) -> None:
    path, away = tmp_path / "a.db", tmp_path / "away.db"
    async with opened(path) as desk:
        await desk.say("m1")
        path.rename(away)
        with pytest.raises(StoreUnavailable, match="was deleted or moved"):
            await desk.say("m2")
        with pytest.raises(StoreUnavailable, match="was deleted or moved"):
            await desk.store.thread(HERE)
        away.rename(path)
        await desk.say("m3")

        assert [record.message_id for record in await desk.store.open_messages(HERE)] == ["m1", "m3"]


async def test_a_file_that_is_replaced_is_not_written_behind_its_back(tmp_path: Path) -> None:
    path, other = tmp_path / "a.db", tmp_path / "other.db"
    other.write_bytes(b"")
    async with opened(path) as desk:
        other.replace(path)
        with pytest.raises(StoreUnavailable, match="was replaced by another file"):
            await desk.store.check()

    assert path.read_bytes() == b""


# ---------------------------------------------------------------- what is refused


def test_an_old_sqlite_is_refused() -> None:
    with pytest.raises(StoreMisconfigured, match=r"SQLite 3\.46\.1 is too old, at least 3\.53\.0 is needed"):
        check_version("3.46.1")
    check_version("3.53.0")
    check_version("3.100.2")


async def refusal(path: Path) -> str:
    with pytest.raises(StoreMisconfigured) as refused:
        await SqliteStore(path, ballast=0).open()
    return str(refused.value)


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("these are my notes, and they are long enough to be a header of a database file\n" * 20)
    before = path.read_bytes()

    assert "is not a turnkeep store" in await refusal(path)
    assert path.read_bytes() == before


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE bookmarks (url TEXT)")
    other.close()

    assert "is a database of another program" in await refusal(path)


async def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    assert "cannot be made" in await refusal(tmp_path / "file" / "a.db")


async def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with opened(path):
        pass
    with_layout(path, LAYOUT + 1)

    assert f"has layout {LAYOUT + 1}, this version of turnkeep knows {LAYOUT} at most" in await refusal(path)


def with_layout(path: Path, number: int) -> None:
    connection = apsw.Connection(str(path))
    layout.put(connection, "layout", number)
    connection.close()


# ---------------------------------------------------------------- migrating


def add_colour(connection: apsw.Connection) -> None:
    connection.execute("ALTER TABLE thread ADD COLUMN colour TEXT DEFAULT 'blue'")


def fail(connection: apsw.Connection) -> None:
    connection.execute("DELETE FROM thread")
    raise RuntimeError("the step broke")


def colours(path: Path) -> list[str]:
    connection = apsw.Connection(str(path))
    try:
        return [colour for (colour,) in connection.execute("SELECT colour FROM thread")]
    finally:
        connection.close()


@pytest.fixture
async def old_file(tmp_path: Path) -> Path:
    """A file with one thread, of layout 0."""
    path = tmp_path / "a.db"
    async with opened(path) as desk:
        await desk.say("m1")
    with_layout(path, 0)
    return path


async def test_who_finds_another_one_at_the_first_opening_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make_file(path)
    with closing(apsw.Connection(str(path))) as other:  # no log is begun yet
        other.execute("BEGIN IMMEDIATE; CREATE TABLE one (id)")
        waiting = asyncio.create_task(asyncio.to_thread(connect_to_write, path, patience=PATIENCE))
        await asyncio.wait({waiting}, timeout=0.05)
        assert not waiting.done()

        other.execute("COMMIT")

        with closing(await waiting) as connection:
            assert connection.pragma("journal_mode") == "wal"


def test_who_waits_in_vain_at_the_first_opening_leaves_no_connection(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    make_file(path)
    with closing(apsw.Connection(str(path))) as other:
        other.execute("BEGIN IMMEDIATE; CREATE TABLE one (id)")
        # what was raised holds the frames of who connected, and with them a connection that was not closed
        with pytest.raises(apsw.BusyError) as refusal:
            connect_to_write(path, patience=0.01)
        assert [one for one in apsw.connections() if one.filename == other.filename] == [other]
        assert refusal.traceback


def _nothing(connection: apsw.Connection) -> None:
    """The tables are those of today already."""


def migrate(path: Path, owners: Owners, steps: dict[int, layout.Step]) -> None:
    connection = connect_to_write(path)
    try:
        layout.prepare(
            connection, path, owners, layout=LAYOUT, steps={**dict.fromkeys(range(1, LAYOUT), _nothing), **steps}
        )
    finally:
        connection.close()


@pytest.fixture
def owners(tmp_path: Path) -> Owners:
    return Owners(tmp_path / "a.db.owners")


async def test_an_older_layout_is_migrated_after_a_copy(old_file: Path, owners: Owners) -> None:
    migrate(old_file, owners, {0: add_colour})

    assert colours(old_file) == ["blue"]
    copy = apsw.Connection(str(old_file.with_name("a.db.layout0")))
    assert layout.layout_of(copy, old_file) == 0
    assert copy.execute("SELECT count(*) FROM thread").get == 1
    copy.close()
    async with opened(old_file) as desk:
        assert await desk.waiting_ids() == ["m1"]


async def test_a_step_that_breaks_leaves_the_file_as_it_was(old_file: Path, owners: Owners) -> None:
    with pytest.raises(RuntimeError, match="the step broke"):
        migrate(old_file, owners, {0: fail})

    connection = apsw.Connection(str(old_file))
    assert layout.layout_of(connection, old_file) == 0
    assert connection.execute("SELECT count(*) FROM thread").get == 1
    connection.close()


async def test_nothing_is_migrated_under_a_process_of_another_layout(old_file: Path, owners: Owners) -> None:
    other = Owners(old_file.with_name("a.db.owners"), layout=0)
    other.hold("store of the other")

    with pytest.raises(StoreMisconfigured, match="is open in another process"):
        migrate(old_file, owners, {0: add_colour})

    other.let_go()
    migrate(old_file, owners, {0: add_colour})


async def test_of_two_that_migrate_one_does(old_file: Path, owners: Owners) -> None:
    done: list[int] = []
    twin = Owners(old_file.with_name("a.db.owners"))
    twin.hold("store of the twin")

    for each in (owners, twin):
        migrate(old_file, each, {0: lambda connection: done.append(0)})

    assert done == [0]


async def test_a_layout_without_a_way_from_it_is_refused(old_file: Path) -> None:
    assert "has layout 0, which this version of turnkeep cannot read any more" in await refusal(old_file)


@pytest.mark.parametrize("number", range(1, LAYOUT))
async def test_a_file_of_an_older_layout_opens(tmp_path: Path, number: int) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(gzip.decompress((LAYOUTS / f"sqlite-{number}.db.gz").read_bytes()))

    async with opened(path) as desk:
        desk.clock.advance(100.0)
        counts = await desk.store.counts()
        assert (counts.threads, counts.open_messages, counts.dead_letters) == (4, 4, 1)
        assert (counts.completed, counts.failed, counts.held, counts.delayed) == (1, 1, 1, 1)
        [asked, answered] = await desk.transcript(at("answered"))
        assert isinstance(asked, UserItem)
        assert isinstance(answered, AssistantItem)
        assert (asked.message_id, answered.text) == ("m1", "answer")
        assert await desk.kinds(at("answered")) == ["accepted", "started", "delta", "completed", "accepted"]
        [claim] = await desk.claims()
        assert claim.message_ids == ("m2", "m3")
        assert claim.journal == ({"n": 0, "kind": "item"},)
        [letter] = await desk.store.dead()
        assert letter.message.message_id == "m4"
        await desk.store.redrive(letter.dead_id)
        document = await desk.store.get("assistant", "t", "asst_1")
        assert document is not None
        assert document.version == 2


async def test_what_waits_for_a_sink_of_layout_1_is_delivered_by_later_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    path.write_bytes(gzip.decompress((LAYOUTS / "sqlite-1.db.gz").read_bytes()))
    connection = apsw.Connection(str(path))
    opened_at = connection.execute("SELECT opened FROM sink WHERE name = 'relay'").get
    connection.execute("INSERT INTO sink VALUES ('webhook', ?, ?, NULL, 0.0)", (opened_at, f"{opened_at + 2:020d}"))
    for number in range(1, 4):
        event = ("t", "q", "c", "thread_1", "epoch", number, 1.0, "delta", '{"text":"x"}')
        connection.execute(f"INSERT INTO outbox VALUES (?{', ?' * 9})", (opened_at + number, *event))
    connection.close()

    async with opened(path) as desk:
        for sink, offsets in (("relay", [1, 2, 3]), ("webhook", [3])):
            position = await desk.store.lease_sink(sink, 0, owner="w", lease=60.0)
            waiting = await desk.store.deliveries(sink, 0, after=position or "", limit=100)
            assert [one.event.offset for one in waiting] == offsets
        assert [record.waiting for record in await desk.store.sinks()] == [3, 1]


@pytest.mark.parametrize("number", range(1, LAYOUT))
def test_a_migrated_file_has_the_tables_of_a_new_one(tmp_path: Path, owners: Owners, number: int) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    old.write_bytes(gzip.decompress((LAYOUTS / f"sqlite-{number}.db.gz").read_bytes()))

    def tables(path: Path) -> list[tuple[object, ...]]:
        make_file(path)
        connection = connect_to_write(path)
        layout.prepare(connection, path, owners)
        return connection.execute(
            'SELECT t.name, c.name, c.type, c."notnull", c.pk FROM sqlite_schema t, pragma_table_info(t.name) c'
            " WHERE t.type IN ('table', 'index') ORDER BY 1, 2"
        ).fetchall()

    assert tables(old) == tables(new)


# ---------------------------------------------------------------- lives


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Says which run of the machine this is."""
    path = tmp_path / "boot_id"
    path.write_text("first")
    monkeypatch.setattr(layout, "_BOOT_ID", path)
    return path


def start_again(boot: Path) -> None:
    boot.write_text("second")


def life(path: Path, owners: Owners) -> str:
    """What the epochs of a life end with, which does not end."""
    make_file(path)
    connection = connect_to_write(path)
    layout.prepare(connection, path, owners)
    found = layout.begin_life(connection, lambda: "0123456789abcdef")
    connection.close()
    return found


def test_epochs_change_when_the_machine_stopped_while_the_file_was_in_use(
    tmp_path: Path, boot: Path, owners: Owners
) -> None:
    assert life(tmp_path / "a.db", owners) == ""

    boot.write_text("second")

    assert life(tmp_path / "a.db", owners) == ".89abcdef"


def test_epochs_stay_when_only_the_process_stopped(tmp_path: Path, boot: Path, owners: Owners) -> None:
    assert life(tmp_path / "a.db", owners) == ""
    assert life(tmp_path / "a.db", owners) == ""


async def test_epochs_stay_when_the_file_was_closed_before_the_machine_stopped(tmp_path: Path, boot: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        await desk.say("m1")
        epoch = (await desk.thread()).epoch

    start_again(boot)

    async with opened(tmp_path / "a.db") as desk:
        assert (await desk.thread()).epoch == epoch


async def test_the_last_to_close_is_the_one_that_counts(tmp_path: Path, boot: Path, owners: Owners) -> None:
    path = tmp_path / "a.db"
    owners.hold("another store")
    async with opened(path) as desk:
        await desk.say("m1")
        epoch = (await desk.thread()).epoch
    owners.let_go()
    start_again(boot)

    async with opened(path) as desk:
        page = await desk.store.read(HERE)
        assert page.epoch.startswith(f"{epoch}.")
        assert {event.epoch for event in page.events} == {page.epoch}
        await desk.say("m2")
        assert (await desk.last_event()).epoch == page.epoch
    async with opened(path) as desk:
        assert (await desk.thread()).epoch == page.epoch


async def test_the_directory_of_the_locks_goes_with_the_last_owner(tmp_path: Path) -> None:
    async with opened(tmp_path / "a.db") as desk:
        await desk.lease("m1", owner="worker/of any name \N{SNOWMAN}")
        assert (tmp_path / "a.db.owners").is_dir()
        assert "worker/of any name \N{SNOWMAN}" in engine(desk).use().transaction.owners

    assert not (tmp_path / "a.db.owners").exists()
