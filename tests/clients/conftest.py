"""A program of Node for each dialect of front ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.node import Driver
from tests.clients.session_driver import session_driver


@pytest.fixture(scope="session")
def chats() -> Iterator[Driver]:
    """Chats of Vercel's AI SDK."""
    with session_driver("vercel", "chats.mjs") as program:
        yield program


@pytest.fixture(scope="session")
def agents() -> Iterator[Driver]:
    """Agents of AG-UI, and chats of TanStack's client."""
    with session_driver("agui", "agents.mjs") as program:
        yield program
