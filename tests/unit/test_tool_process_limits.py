"""Where a limit on processes can be set, read from what the kernel tells."""

from pathlib import Path
from typing import Any

import pytest

from turnkeep.tools import process_limits
from turnkeep.tools.process_limits import MEMORY, Group, candidates, process_limit

FIRST_VERSION = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
"""
SECOND_VERSION = "35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
CONTAINER = "35 24 0:30 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n"


@pytest.mark.parametrize(
    ("own", "mounts", "expected"),
    [
        ("8:pids:/\n0::/\n", FIRST_VERSION, ["/sys/fs/cgroup/pids"]),
        (
            "8:cpu,pids:/a/b\n",
            FIRST_VERSION,
            ["/sys/fs/cgroup/pids/a/b", "/sys/fs/cgroup/pids/a", "/sys/fs/cgroup/pids"],
        ),
        (
            "0::/system.slice/turnkeep.service\n",
            SECOND_VERSION,
            ["/sys/fs/cgroup/system.slice/turnkeep.service", "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup"],
        ),
        ("0::/docker/abc/x\n", CONTAINER, ["/sys/fs/cgroup/x", "/sys/fs/cgroup"]),
        ("0::/../..\n", SECOND_VERSION, []),
        ("", "", []),
    ],
)
def test_the_own_group_comes_first_then_those_above(own: str, mounts: str, expected: list[str]) -> None:
    assert [str(path) for path in candidates(own, mounts, "pids")] == expected


def test_a_group_that_is_gone_counts_as_removed(tmp_path: Path) -> None:
    assert Group((tmp_path / "gone",)).try_remove()


def test_a_group_that_is_not_empty_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()

    assert not Group((tmp_path,)).try_remove()


# ---------------------------------------------------------------- version 2, whose files come with a directory


FILES = {"pids": ["pids.max"], "memory": ["memory.max", "memory.swap.max"]}


class Kernel:
    """Makes and removes the files of groups below a root as cgroup v2 does: a group has those of the controllers that
    the one above hands down in cgroup.subtree_control.
    """

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self._mkdir, self._rmdir = Path.mkdir, Path.rmdir
        monkeypatch.setattr(Path, "mkdir", lambda *a, **more: self.make(*a, **more))  # noqa: PLW0108 - as a method
        monkeypatch.setattr(Path, "rmdir", lambda *a: self.remove(*a))  # noqa: PLW0108 - as a method

    def make(self, path: Path, *arguments: Any, **more: Any) -> None:
        self._mkdir(path, *arguments, **more)
        if self.root in path.parents:
            for name in ("cgroup.procs", "cgroup.kill", "cgroup.subtree_control"):
                (path / name).write_text("")
            for controller in (path.parent / "cgroup.subtree_control").read_text().split():
                for name in FILES[controller]:
                    (path / name).write_text("")  # "max" there, which a write replaces as a whole, and not in a file

    def remove(self, path: Path) -> None:
        if self.root in path.parents:
            if (path / "cgroup.procs").read_text():
                raise OSError("busy")
            for file in path.iterdir():
                file.unlink()
        self._rmdir(path)


@pytest.mark.parametrize(
    ("delegated", "pids", "memory"),
    [
        ({"": "pids memory", "slice": "pids memory", "slice/service": "pids memory"}, "slice/service", "slice/service"),
        ({"": "pids memory", "slice": "pids memory", "slice/service": ""}, "slice", "slice"),
        ({"": "memory", "slice": "pids", "slice/service": ""}, "slice", ""),
        ({"": "pids", "slice": "", "slice/service": ""}, "", None),
        ({"": "", "slice": "", "slice/service": ""}, None, None),
    ],
)
def test_on_version_2_a_limit_is_set_where_its_controller_is_handed_down(
    delegated: dict[str, str], pids: str | None, memory: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "cgroup"
    kernel = Kernel(root, monkeypatch)
    for name, controllers in delegated.items():
        (root / name).mkdir()
        (root / name / "cgroup.subtree_control").write_text(controllers)
    mounts = f"35 24 0:30 / {root} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    monkeypatch.setattr(
        process_limits, "_candidates", lambda controller: candidates("0::/slice/service\n", mounts, controller)
    )

    limit = process_limit(user=0)

    if pids is None:
        assert limit is None, "root has no other limit"
        return
    assert limit is not None
    assert (limit.pids, limit.memory) == (root / pids, None if memory is None else root / memory)
    group = limit.group(7)
    assert group is not None
    assert len(group.members) == (1 if pids == memory or memory is None else 2)
    wanted = {"pids.max": "7", "memory.max": str(MEMORY), "memory.swap.max": "0"}
    for name, value in wanted.items() if memory is not None else [("pids.max", "7")]:
        assert [(path / name).read_text() for path in group.paths if (path / name).exists()] == [value]
    group.kill()
    assert all((path / "cgroup.kill").read_text() == "1" for path in group.paths)
    assert group.try_remove()
    assert not list(kernel.root.rglob("turnkeep-*")), "nothing is left of it, nor of the looks"
