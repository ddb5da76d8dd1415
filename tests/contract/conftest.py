"""Where stores of this ring are: what a disk keeps, or fails to keep, is asked in `tests/unit/test_sqlite_*.py`."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def tmp_path(memory_path: Path) -> Path:
    return memory_path
