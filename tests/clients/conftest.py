"""A program of Node for each dialect of front ends."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator

import pytest

from tests.clients.node import Driver
from tests.clients.session_driver import session_driver, session_python_driver


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


@pytest.fixture(scope="session")
def openai_programs() -> Iterator[Callable[[str], Driver]]:
    """OpenAI's clients, by their language and the age of Python's; each begins when it is asked for first."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def begun(kind: str) -> Driver:
            if kind == "node":
                return stack.enter_context(session_driver("openai", "doors.mjs"))
            return stack.enter_context(session_python_driver("openai", "doors.py", older=kind == "older python"))

        yield begun
