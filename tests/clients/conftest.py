"""A program of Node for each dialect and event loop, and what tests of all dialects share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.clients.node import Driver, driver


@pytest.fixture
async def chats() -> AsyncIterator[Driver]:
    """Chats of Vercel's AI SDK."""
    async with driver("vercel", "chats.mjs") as program:
        yield program


@pytest.fixture
async def agents() -> AsyncIterator[Driver]:
    """Agents of AG-UI, and chats of TanStack's client."""
    async with driver("agui", "agents.mjs") as program:
        yield program
