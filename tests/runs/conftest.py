"""The ring of the heart: no sockets, no files, and time that moves by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from tests.runs.moved_time import MovedLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"moved": MovedLoop}


@pytest.fixture
def log_lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """What is written to the log, in order: each line's event name and values."""
    caplog.set_level(logging.INFO, "turnkeep")
    return lambda: [line for record in caplog.records if (line := getattr(record, "turnkeep", None))]
