"""How long a test waits for what has to come: it says nothing about speed, so it is long enough for any machine."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

PATIENCE = 60.0
"""Seconds. The limit of a whole test (`timeout` of pytest) is beyond it, so that a wait ends with its own line."""
LONG_PATIENCE = 180.0
"""Seconds for many turns, or for what a server does that starts again. Several such waits are longer than a test may
be: `within` and `until` end with the test.
"""
SELDOM = 0.1
"""Seconds between two questions of a wait that takes longer. Ten tests that wait side by side ask a thousand times a
second otherwise, and each question costs a request: the machine was busy with that.
"""
SOON = 90.0
"""Seconds that a busy machine may take for what is due at once: what came an hour or a day late would be seen. How
long it took is told as a figure.
"""

TEST_ENDS: ContextVar[float] = ContextVar("TEST_ENDS", default=math.inf)
"""When the test that runs is ended, by the time of its loop: the one deadline of all its waits (`conftest.py`)."""
LAST_WORDS = 1.0
"""Seconds before that in which a wait says what did not come."""


def within(patience: float) -> asyncio.Timeout:
    """As `asyncio.timeout`, but that it ends before the test is ended, however long earlier waits took."""
    return asyncio.timeout_at(min(asyncio.get_running_loop().time() + patience, TEST_ENDS.get() - LAST_WORDS))


async def until(
    holds: Callable[[], object] | Callable[[], Awaitable[object]], *, patience: float = PATIENCE, every: float = 0.01
) -> None:
    """Wait until what this function gives, or what awaiting that gives, is true: it is asked `every` so many seconds,
    and less often the longer that takes. Raises TimeoutError with what did not come, and with what it gave last; before
    the test is ended, if that is sooner.
    """
    given: object = None
    begun, limit = asyncio.get_running_loop().time(), within(patience)
    try:
        async with limit:
            while True:
                answer = holds()
                given = await answer if inspect.isawaitable(answer) else answer
                if given:
                    return
                await asyncio.sleep(every)
                every = less_often(every)
    except TimeoutError as error:
        if not limit.expired():  # it is the function's own
            raise
        waited = asyncio.get_running_loop().time() - begun
        raise TimeoutError(f"after {waited:.0f} s this is still {given!r}: {words_of(holds)}") from error


def less_often(every: float) -> float:
    """After how many seconds to ask again, where it was asked after so many."""
    return max(every, min(1.25 * every, SELDOM))


def words_of(function: Callable[[], object]) -> str:
    """The lines of the function: of a lambda also what stands beside it."""
    try:
        return inspect.getsource(function).strip()
    except (OSError, TypeError):
        return repr(function)
