"""Which rings of tests compute, and which worker of a whole run collects them."""

from __future__ import annotations

import os

RINGS = ("tests/unit/", "tests/runs/", "tests/contract/")
"""Of thousands of tests that take some milliseconds each, nearly all of them of a processor."""
WAITS = "waits"
"""What a worker is told that collects none of them, but what waits: for programs, servers and windows."""


def only_waits(number: int, workers: int) -> bool:
    """Whether the worker of this number, of so many, collects none of `RINGS`: that takes each worker six seconds of a
    processor, and some workers are enough to run them. One that takes the place of another collects all.
    """
    return (os.cpu_count() or 1) + 1 <= number < workers
