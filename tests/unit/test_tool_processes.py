"""Where a limit on processes can be set, read from what the kernel tells."""

from pathlib import Path

import pytest

from turnkeep.tools.processes import Group, candidates

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
    assert Group((tmp_path / "gone",)).removed()


def test_a_group_that_is_not_empty_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()

    assert not Group((tmp_path,)).removed()
