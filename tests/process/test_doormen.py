"""Whoever comes behind many others is let in soon, on the loop that serves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

import pytest

from tests.patience import PATIENCE
from turnkeep.cli.inheritance import Inheritance
from turnkeep.doors.port import DOORMEN, bound, doormen
from turnkeep.doors.server import FAST_LOOP


class Taken(asyncio.Protocol):
    """Notes at which turn of the loop it was let in."""

    def __init__(self, turns: list[int], at: list[int]) -> None:
        self._turns, self._at = turns, at

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._at.append(self._turns[0])
        transport.close()


async def turns_to_take(connections: int) -> int:
    """So many wait before the loop looks: turns from the first that is let in to the last."""
    turns, at = [0], list[int]()
    loop = asyncio.get_running_loop()
    with contextlib.ExitStack() as opened:
        listener = opened.enter_context(bound("127.0.0.1", 0))
        for one in doormen(listener):
            opened.callback((await loop.create_server(lambda: Taken(turns, at), sock=one, backlog=2_048)).close)
        for _ in range(connections):
            opened.enter_context(socket.create_connection(listener.getsockname()))
        async with asyncio.timeout(PATIENCE):
            while len(at) < connections:
                turns[0] += 1
                await asyncio.sleep(0)
    first, *_, last = at
    return last - first + 1


@pytest.mark.parametrize("made", [FAST_LOOP, None])
def test_many_are_let_in_at_a_turn_of_the_loop(made: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    """libuv lets one in for each socket that listens."""
    with asyncio.Runner(loop_factory=made) as runner:
        assert runner.run(turns_to_take(DOORMEN * 8)) <= 16


def test_a_process_that_begins_to_listen_lets_no_sibling_block() -> None:
    with bound("127.0.0.1", 0) as listener:
        link, end = socket.socketpair()
        with link, end:
            files = ",".join(str(os.dup(one.fileno())) for one in (link, listener))
            child = Inheritance.adopt(files)
            assert child.listener is not None
            blocking = [os.get_blocking(listener.fileno())]
            twins = doormen(child.listener)
            blocking.append(os.get_blocking(listener.fileno()))
            for one in (child.link, *twins):
                one.close()
    assert blocking == [False, False]
