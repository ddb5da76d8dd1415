"""Fixtures of the ring of processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.process.browser import SHARED, browsing


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_browser(chromium_path: Path) -> AsyncIterator[None]:
    """What `browsing` gives to the tests of all modules that are marked `SHARES_BROWSER`."""
    async with browsing(chromium_path) as browser:
        loop = asyncio.get_running_loop()
        SHARED[loop] = browser
        try:
            yield
        finally:
            del SHARED[loop]
