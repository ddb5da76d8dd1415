"""A process of a storm: the command line of turnkeep on a clock that is set and a disk that fails, with a bug perhaps.

python -m tests.chaos.launch no_dedupe worker --json
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from tests.chaos import planted_outside  # noqa: F401 - adds its bugs to those that can be planted
from tests.chaos.disk import DISK, failing_disk
from tests.chaos.planted import planted
from turnkeep import clock

CLOCK = "CHAOS_CLOCK"
"""Names the file that says how far the clock of the machine is off."""


def main(arguments: Sequence[str]) -> int:
    """The command line, with the bug that the first argument names, if it names any."""
    name, *rest = arguments
    disk = os.environ.get(DISK)
    with planted(name) if name else nullcontext(), machine_clock(), failing_disk(disk) if disk else nullcontext():
        sys.argv = ["turnkeep", *rest]
        runpy.run_module("turnkeep", run_name="__main__")
    return 0


@contextmanager
def machine_clock() -> Iterator[None]:
    """The time of day as the file says that `CLOCK` names: a number of seconds to be off, set at any moment."""
    path = os.environ.get(CLOCK)

    def now() -> float:
        try:
            return time.time() + float(Path(path or "").read_text() or 0.0)
        except (OSError, ValueError):
            return time.time()

    with patch.object(clock, "time", SimpleNamespace(time=now)) if path else nullcontext():
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
