"""A workspace holds what it may hold, and its disk is not filled, whoever writes."""

import asyncio
import ctypes
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.patience import LONG_PATIENCE, PATIENCE
from turnkeep.clock import SystemClock
from turnkeep.tools import Tool, ToolContext
from turnkeep.tools.execution import Result, ToolRequest, call
from turnkeep.tools.files import file_tools
from turnkeep.tools.quota import LEAST_OF_A_FILE, DiskQuota, Full, disk_usage
from turnkeep.tools.sandbox import sandbox
from turnkeep.tools.shell import bash_tool
from turnkeep.tools.workspaces import Workspaces

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workspace tools are for Linux")

MEGABYTE = 1024 * 1024
HUGE = 10**18


async def use(made: Tool, **arguments: Any) -> Result:
    return await call(made, ToolRequest("call_1", made.name, json.dumps(arguments)), ToolContext(), clock=SystemClock())


def bash(tmp_path: Path, quota: int) -> Tool:
    inside = sandbox()
    assert inside is not None
    return bash_tool(Workspaces(tmp_path, quota=quota), inside, timeout=LONG_PATIENCE)


async def test_a_file_beyond_the_quota_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    write = {one.name: one for one in file_tools(Workspaces(tmp_path, quota=100_000))}["write_file"]

    results = [await use(write, path=f"{n}.txt", content="x" * 30_000) for n in range(5)]

    assert [result.status for result in results] == ["ok", "ok", "ok", "error", "error"]
    assert "may hold 100000 bytes" in results[3].output
    assert len(os.listdir(tmp_path)) == 3


async def test_a_nearly_full_disk_refuses_to_be_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.statvfs(tmp_path)

    def nearly_full(_: object) -> os.statvfs_result:
        values = list(found)
        values[3] = values[4] = 10  # free blocks
        return os.statvfs_result(values)

    monkeypatch.setattr(os, "statvfs", nearly_full)
    write = {one.name: one for one in file_tools(Workspaces(tmp_path))}["write_file"]

    assert "bytes free" in (await use(write, path="a.txt", content="x")).output


@pytest.mark.slow  # it fills a disk
@pytest.mark.daily(rows=2)  # where the shell looks, and where it does not
@pytest.mark.parametrize(
    "command",
    [
        "while :; do let n+=1; head -c 8000000 /dev/zero > big$n; done",
        "while :; do mkdir -p d$((n)); for i in {1..500}; do : > d$n/$i; done; ((n++)); done",
        "mkdir hidden; while :; do let n+=1; head -c 8000000 /dev/zero > hidden/big$n; done",
        "while :; do head -c 8000000 /dev/zero >> one; done",
    ],
)
@pytest.mark.usefixtures("bubblewrap")
async def test_a_command_that_fills_the_workspace_is_ended(command: str, tmp_path: Path) -> None:
    result = await use(bash(tmp_path, quota=40 * MEGABYTE), command=command)

    assert result.output.startswith("stopped: the workspace may hold"), result.output[:300]
    assert disk_usage(tmp_path, HUGE) < 4_000 * MEGABYTE


@pytest.mark.usefixtures("bubblewrap")
async def test_what_is_too_much_can_still_be_looked_at_and_removed(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 3 * MEGABYTE)

    result = await use(bash(tmp_path, quota=MEGABYTE), command="sleep 0.6; ls; rm big; echo removed")

    assert result.output == "big\nremoved\n"


def test_every_name_counts_and_a_file_with_two_names_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 8192)
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/empty").touch()
    (tmp_path / "folder/link").symlink_to("/usr")

    assert disk_usage(tmp_path, HUGE) == 8192 + 3 * LEAST_OF_A_FILE


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Files are looked at without the rights of root, by this thread alone."""
    libc = ctypes.CDLL(None)
    libc.setfsuid(65534 if os.getuid() == 0 else os.getuid())
    try:
        yield
    finally:
        libc.setfsuid(os.getuid())


def test_a_folder_that_cannot_be_looked_into_counts_as_full() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to others as a whole
        Path(folder).chmod(0o755)
        (Path(folder) / "closed").mkdir()
        with as_ordinary_user():
            assert disk_usage(Path(folder), HUGE) < HUGE
        (Path(folder) / "closed").chmod(0)
        with as_ordinary_user():
            assert disk_usage(Path(folder), HUGE) >= HUGE
        (Path(folder) / "closed").chmod(0o700)


def test_a_folder_that_is_too_deep_for_its_name_counts_as_full(tmp_path: Path) -> None:
    deep = os.open(tmp_path, os.O_RDONLY)
    for _ in range(25):
        os.mkdir("x" * 200, dir_fd=deep)
        inner = os.open("x" * 200, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)

    try:
        assert disk_usage(tmp_path, HUGE) >= HUGE
    finally:
        shutil.rmtree(tmp_path / ("x" * 200))


async def test_a_watch_ends_only_when_there_is_more_than_before(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * MEGABYTE)
    quota = DiskQuota(tmp_path, bytes=1000, free=0)
    watching = asyncio.create_task(quota.wait_exceeded())
    await asyncio.sleep(0.5)
    assert not watching.done()

    (tmp_path / "bigger").write_bytes(b"x" * MEGABYTE)

    assert "may hold 1000 bytes" in await asyncio.wait_for(watching, PATIENCE)
    with pytest.raises(Full):
        quota.demand(1)
