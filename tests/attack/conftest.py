"""The one fixture of this ring."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest

from tests.attack.target import Attempt, Target, leaks_of

Tried = Callable[[Target, Sequence[Attempt]], Awaitable[None]]


@pytest.fixture
def tried(request: pytest.FixtureRequest) -> Tried:
    """`await tried(target, attempts)`: all of them, counted in the line `attempts N | leaks N` at the end."""

    async def run(target: Target, attempts: Sequence[Attempt]) -> None:
        leaks = await leaks_of(target, attempts)
        request.node.user_properties.append(("attempts", (len(attempts), len(leaks))))
        assert not leaks, "\n".join(leaks)

    return run
