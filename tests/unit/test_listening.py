"""Listening sockets: what is written is sent at once, on every event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from turnkeep.doors.port import bound
from turnkeep.simulator import listener as simulated


@pytest.mark.parametrize("listen", [bound, simulated._listen])
async def test_no_answer_is_held_back_by_the_system(listen: Callable[[str, int], socket.socket]) -> None:
    """Without TCP_NODELAY an answer in two writes waits 40 ms for an acknowledgement that is delayed."""
    accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    class Peer(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            connection = transport.get_extra_info("socket")
            accepted.set_result(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    with listen("127.0.0.1", 0) as listener:
        server = await asyncio.get_running_loop().create_server(Peer, sock=listener)
        async with server:
            _, writer = await asyncio.open_connection(*listener.getsockname())
            assert await accepted
            writer.close()
            await writer.wait_closed()
