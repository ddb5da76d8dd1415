"""Where an ordinary user finds this program, when tests of root try something as one."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


@functools.cache
def open_clone() -> Path:
    """This clone, or a copy of what runs where the clone is its owner's alone (as `mktemp -d` makes folders)."""
    if all(folder.stat().st_mode & 0o001 for folder in (ROOT, *ROOT.parents)):
        return ROOT
    copy = Path(tempfile.mkdtemp(prefix="turnkeep-open-clone-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    copy.chmod(0o755)
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, copy / name, copy_function=_link)
    shutil.copytree(sysconfig.get_path("purelib"), copy / "packages", copy_function=_link)
    return copy


def environment() -> Mapping[str, str]:
    """Ours, with the modules of the open clone before all others."""
    clone = open_clone()
    path = os.pathsep.join(str(clone / name) for name in ("", "src", "packages"))
    # the folder of the tests' programs may be where an ordinary user cannot look
    return {**os.environ, "PATH": os.defpath, "PYTHONPATH": path}


def _link(source: str, target: str) -> str:
    """A second name costs nothing; across file systems there is none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
