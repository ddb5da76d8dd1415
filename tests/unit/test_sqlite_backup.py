"""Backups: taken while the store runs, complete and checked, and put back while nobody uses it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from pathlib import Path

import apsw
import pytest

from tests.contract.suite.desk import HERE, Desk, at, delta
from tests.unit.sqlite_files import engine, opened
from turnkeep.errors import StoreError, StoreMisconfigured
from turnkeep.store.sqlite import backup, layout, restore
from turnkeep.store.values import LAYOUT, RegistryKind


async def test_a_backup_taken_while_messages_come_holds_what_was_acknowledged_before(tmp_path: Path) -> None:
    target = tmp_path / "backup.db"
    async with opened(tmp_path / "a.db") as desk:
        for n in range(50):
            await desk.say(f"m{n}", where=at(f"c{n}"))

        async def go_on() -> None:
            for n in range(50, 100):
                await desk.say(f"m{n}", where=at(f"c{n}"))

        async with asyncio.TaskGroup() as group:
            group.create_task(go_on())
            size = await engine(desk).backup(target)

    assert size == target.stat().st_size
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert not target.with_name("backup.db-wal").exists()
    async with opened(target) as copy:
        kept = await copy.store.counts()
        assert 50 <= kept.open_messages <= 100
        assert await copy.waiting_ids(at("c49")) == ["m49"]


async def test_a_backup_never_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "there.db").write_text("mine")
    async with opened(tmp_path / "a.db") as desk:
        with pytest.raises(StoreMisconfigured, match="exists already"):
            await engine(desk).backup(tmp_path / "there.db")
        with pytest.raises(StoreMisconfigured, match="cannot be written"):
            await engine(desk).backup(tmp_path / "no" / "such" / "place.db")


async def store_with(path: Path, *message_ids: str) -> None:
    async with opened(path) as desk:
        for message_id in message_ids:
            await desk.say(message_id)


async def test_a_restored_store_goes_on_where_the_backup_was_taken(tmp_path: Path) -> None:
    path, target = tmp_path / "a.db", tmp_path / "backup.db"
    await store_with(path, "m1")
    backup(path, target)
    await store_with(path, "m2")

    restore(target, path)

    async with opened(path) as desk:
        assert await desk.waiting_ids() == ["m1"]
        await desk.say("m3")
    async with opened(path.with_name("a.db.replaced")) as old:
        assert await old.waiting_ids() == ["m1", "m2"]


async def told_epoch(desk: Desk) -> str:
    return (await desk.store.read(HERE)).epoch


async def test_every_store_that_was_replaced_is_kept(tmp_path: Path) -> None:
    path, target = tmp_path / "a.db", tmp_path / "b.db"
    async with opened(path):
        pass
    backup(path, target)
    replaced = []
    for _ in range(3):
        replaced.append(path.read_bytes())
        restore(target, path)
    kept = [path.with_name(f"a.db.replaced{number}") for number in ("", "-2", "-3")]
    assert [one.read_bytes() for one in kept] == replaced
    with pytest.raises(StoreMisconfigured, match="is the store itself"):
        restore(path, path)


async def test_a_restored_store_has_other_epochs_each_time(tmp_path: Path) -> None:
    path, target = tmp_path / "a.db", tmp_path / "backup.db"
    await store_with(path, "m1")
    backup(path, target)
    epochs = set()
    for _ in range(3):
        async with opened(path) as desk:
            epochs.add(await told_epoch(desk))
        restore(target, path)

    assert len(epochs) == 3


async def test_runs_of_the_time_of_the_backup_are_free_at_once(tmp_path: Path) -> None:
    path, target = tmp_path / "a.db", tmp_path / "backup.db"
    async with opened(path) as desk:
        claim = await desk.lease("m1")
        await desk.store.publish(claim, 0, [delta("a")])
        await engine(desk).backup(target)

    restore(target, path)

    async with opened(path) as desk:
        await desk.store.ready(queues=None, timeout=1_000.0)
        assert (await desk.claim("worker-2")).message_ids == ("m1",)


async def test_a_store_in_use_is_not_replaced(tmp_path: Path) -> None:
    path, target = tmp_path / "a.db", tmp_path / "backup.db"
    async with opened(path) as desk:
        await desk.say("m1")
        await engine(desk).backup(target)

        with pytest.raises(StoreMisconfigured, match="is in use"):
            restore(target, path)

        await desk.say("m2")
        assert await desk.waiting_ids() == ["m1", "m2"]


async def test_a_store_in_use_by_a_tool_is_not_replaced(tmp_path: Path) -> None:
    path, target = tmp_path / "a.db", tmp_path / "backup.db"
    await store_with(path, "m1")
    backup(path, target)
    tool = apsw.Connection(str(path))
    tool.execute("SELECT count(*) FROM thread").fetchall()

    with pytest.raises(StoreMisconfigured, match="is in use by another program"):
        restore(target, path)

    tool.close()
    restore(target, path)


async def test_a_damaged_store_can_be_replaced(tmp_path: Path) -> None:
    path, target = tmp_path / "a.db", tmp_path / "backup.db"
    await store_with(path, "m1")
    backup(path, target)
    path.write_bytes(b"\xff" * 10_000)

    restore(target, path)

    async with opened(path) as desk:
        assert await desk.waiting_ids() == ["m1"]


async def test_a_copy_that_fails_leaves_nothing_that_fills_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await store_with(path, "m1")
    connection = apsw.Connection(str(path))
    number, size = connection.execute(
        "SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size WHERE name = 'entry'"
    ).get
    connection.close()
    with path.open("r+b") as file:
        file.seek((number - 1) * size)
        file.write(b"\xff" * size)

    with pytest.raises(StoreError, match="damaged"):
        backup(path, tmp_path / "backup.db")
    assert os.listdir(tmp_path) == ["a.db"]


async def test_a_backup_is_put_where_nothing_was(tmp_path: Path) -> None:
    path, target = tmp_path / "a.db", tmp_path / "backup.db"
    await store_with(path, "m1")
    backup(path, target)

    restore(target, tmp_path / "new" / "b.db")

    async with opened(tmp_path / "new" / "b.db") as desk:
        assert await desk.waiting_ids() == ["m1"]


async def test_what_is_no_backup_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await store_with(path, "m1")
    (tmp_path / "text").write_text("no database, and longer than the header of one would be\n" * 20)

    with pytest.raises(StoreMisconfigured, match="there is no file"):
        restore(tmp_path / "missing", path)
    with pytest.raises(StoreMisconfigured, match="is not a turnkeep store"):
        restore(tmp_path / "text", path)

    async with opened(path) as desk:
        assert await desk.waiting_ids() == ["m1"]


async def test_a_backup_of_a_newer_layout_is_refused(tmp_path: Path) -> None:
    path, target = tmp_path / "a.db", tmp_path / "backup.db"
    await store_with(path, "m1")
    backup(path, target)
    newer = apsw.Connection(str(target))
    layout.put(newer, "layout", LAYOUT + 1)
    newer.close()

    with pytest.raises(StoreMisconfigured, match=f"has layout {LAYOUT + 1}, newer than {LAYOUT}"):
        restore(target, path)


# ---------------------------------------------------------------- what a backup brings back, and what it must not


async def document(path: Path, kind: RegistryKind, name: str, tenant: str = "") -> dict[str, object] | None:
    async with opened(path) as desk:
        found = await desk.store.get(kind, tenant, name)
        return None if found is None else dict(found.body)


async def test_a_key_revoked_since_the_backup_stays_revoked_and_sessions_are_over(tmp_path: Path) -> None:
    path, target = tmp_path / "a.db", tmp_path / "backup.db"
    async with opened(path) as desk:
        for name in ("revoked", "valid", "revoked-before"):
            await desk.store.put("key", "", name, {"revoked_at": 1.0 if name == "revoked-before" else None})
        await desk.store.put("ticket", "", "session:x", {"until": 9e9})
        await engine(desk).backup(target)
        await desk.store.put("key", "", "revoked", {"revoked_at": 5.0})
        await desk.store.put("key", "", "made-later", {"revoked_at": None})
        await desk.store.put("revocation", "*", "user", {"before": 5.0})
        await desk.store.put("setting", "*", "revocations", {"at": 5.0})
        await desk.store.put("audit", "*", "ring:1", {"event": "key_revoked"})

    restore(target, path)

    assert await document(path, "key", "revoked") == {"revoked_at": 5.0}
    assert await document(path, "key", "valid") == {"revoked_at": None}
    assert await document(path, "key", "revoked-before") == {"revoked_at": 1.0}
    assert await document(path, "revocation", "user", "*") == {"before": 5.0}
    assert await document(path, "setting", "revocations", "*") == {"at": 5.0}
    assert await document(path, "audit", "ring:1", "*") == {"event": "key_revoked"}
    assert await document(path, "ticket", "session:x") is None


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON message BEGIN DELETE FROM thread; END",
        "CREATE VIEW v AS SELECT * FROM thread",
        "CREATE VIRTUAL TABLE f USING fts5(body)",
    ],
)
async def test_a_file_with_what_we_never_make_is_refused(statement: str, tmp_path: Path) -> None:
    path, target = tmp_path / "a.db", tmp_path / "backup.db"
    await store_with(path, "m1")
    backup(path, target)
    with apsw.Connection(str(target)) as connection:
        connection.execute(statement)

    with pytest.raises(StoreMisconfigured, match="which turnkeep never makes"):
        restore(target, path)
    with pytest.raises(StoreMisconfigured, match="which turnkeep never makes"):
        async with opened(target):
            pass
    async with opened(path) as desk:
        assert await desk.waiting_ids() == ["m1"]


@pytest.mark.parametrize("planted", ["backup.db", "backup.db.part"])
async def test_a_backup_follows_no_link(planted: str, tmp_path: Path) -> None:
    path, victim = tmp_path / "a.db", tmp_path / "victim"
    await store_with(path, "m1")
    victim.write_text("mine")
    (tmp_path / planted).symlink_to(victim)
    with contextlib.suppress(StoreMisconfigured):
        backup(path, tmp_path / "backup.db")

    assert victim.read_text() == "mine"
