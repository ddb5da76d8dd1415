"""Where the file is: its names are on the disk, an interrupted restore is noticed, network file systems are refused."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from tests.contract.suite.desk import HERE
from tests.patience import PATIENCE
from tests.services.forks import start_python
from tests.unit.sqlite_files import engine, opened
from turnkeep.errors import StoreMisconfigured
from turnkeep.store.sqlite import restore
from turnkeep.store.sqlite.file_identity import NETWORK, make_file, require_local

RESTORE = """
import os, sys
from pathlib import Path
from turnkeep.store.sqlite import restore
left = int(sys.argv[3])
def counted(act):
    def acted(*arguments, **options):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return act(*arguments, **options)
    return acted
for name in ("replace", "rename", "link", "unlink", "fsync"):
    setattr(os, name, counted(getattr(os, name)))
restore(Path(sys.argv[1]), Path(sys.argv[2]))
"""
"""A restore that is killed before its n-th change of a name, or sync."""


async def filled(path: Path, *message_ids: str) -> None:
    async with opened(path) as desk:
        for message_id in message_ids:
            await desk.say(message_id)


async def holds(path: Path) -> list[str]:
    async with opened(path) as desk:
        return [one for one in ("old", "new") if await desk.store.message(HERE, one) is not None]


async def copied(path: Path, target: Path) -> None:
    async with opened(path) as desk:
        await engine(desk).backup(target)


@pytest.mark.slow  # a program for each moment
async def test_a_restore_that_is_killed_at_any_moment_is_noticed_and_can_be_done_again(tmp_path: Path) -> None:
    path, source = tmp_path / "a.db", tmp_path / "source.db"
    await filled(tmp_path / "b.db", "new")
    await copied(tmp_path / "b.db", source)
    await filled(path, "old")
    found: list[str] = []
    while await asyncio.to_thread(_restored_until, source, path, len(found)) != 0:
        found.append(await state(path))
        if found[-1] == "refused":
            restore(source, path)
            assert await state(path) == "new"
        if found[-1] != "old":
            await asyncio.to_thread(_clear, tmp_path)
            await filled(path, "old")
    assert await state(path) == "new"
    assert set(found[:-2]) == {"old", "refused"}
    assert set(found[-2:]) <= {"refused", "new"}


async def state(path: Path) -> str:
    """Which of the two messages a store holds; it holds exactly one."""
    try:
        [message_id] = await holds(path)
    except StoreMisconfigured:
        return "refused"
    return message_id


def _restored_until(source: Path, path: Path, changes: int) -> int:
    program = ["-c", RESTORE, str(source), str(path), str(changes)]
    environment = {"PATH": os.environ["PATH"]}
    return start_python(program, path.parent, environment, log=path.parent / "log").wait(PATIENCE)


def _clear(folder: Path) -> None:
    for left in folder.glob("a.db*"):
        if left.is_file():
            left.unlink()


@pytest.mark.parametrize("left", ["a.db.restored", "a.db.replaced", "a.db.replaced-2"])
async def test_no_empty_store_is_made_beside_what_a_restore_left(left: str, tmp_path: Path) -> None:
    (tmp_path / left).write_bytes(b"")

    with pytest.raises(StoreMisconfigured, match=left):
        async with opened(tmp_path / "a.db"):
            pass

    assert not (tmp_path / "a.db").exists()


def test_a_new_file_and_its_folders_have_their_names_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    sync = os.fsync

    def fsync(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")))
        sync(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    make_file(tmp_path / "one" / "two" / "a.db")
    assert set(synced) == {tmp_path, tmp_path / "one", tmp_path / "one" / "two"}

    synced.clear()
    make_file(tmp_path / "one" / "two" / "a.db")
    assert synced == []


MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 21 0:44 / /mnt/far rw,relatime shared:2 - {kind} server:/export rw
41 40 0:45 / /mnt/far/near\\040by rw,relatime - ext4 /dev/sdb1 rw
"""


@pytest.mark.parametrize("kind", sorted(NETWORK))
def test_a_network_file_system_is_refused(kind: str, tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(kind=kind))

    with pytest.raises(StoreMisconfigured, match=f"network file system .{kind}.*--allow-network-filesystem"):
        require_local(Path("/mnt/far/store/a.db"), mounts)
    for local in ("/srv/a.db", "/mnt/farther/a.db", "/mnt/far/near by/a.db"):
        require_local(Path(local), mounts)


def test_where_file_systems_cannot_be_known_nothing_is_refused(tmp_path: Path) -> None:
    require_local(tmp_path / "a.db", tmp_path / "no such file")


def test_the_default_folder_is_kept_out_of_the_repository_around_it(tmp_path: Path) -> None:
    for folder, is_ours in ((tmp_path / ".turnkeep", True), (tmp_path / "data", False)):
        make_file(folder / "turnkeep.db")
        assert (folder / ".gitignore").exists() is is_ours
    (tmp_path / ".turnkeep" / ".gitignore").write_text("mine\n")
    make_file(tmp_path / ".turnkeep" / "other.db")
    assert (tmp_path / ".turnkeep" / ".gitignore").read_text() == "mine\n"
