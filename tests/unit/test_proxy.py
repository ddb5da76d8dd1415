"""The proxy that other tests lose bytes with does to a connection exactly what it is told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.patience import PATIENCE
from tests.services import HOST, free_port
from tests.services.tcp_proxy import TcpProxy


class Echo:
    """Answers each line with itself and remembers what arrived."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                self.seen.append(line)
                writer.write(line)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


class Client:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, line: bytes) -> bytes:
        """The reply, or what came of it before the connection ended."""
        self.writer.write(line)
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.reader.readline()
        except ConnectionError:
            return b""


Connect = Callable[[], Awaitable[Client]]


@asynccontextmanager
async def through(proxy: TcpProxy) -> AsyncIterator[Connect]:
    """Connections that are closed at the end."""
    clients = []

    async def connect() -> Client:
        clients.append(Client(*await asyncio.open_connection("127.0.0.1", proxy.port)))
        return clients[-1]

    try:
        yield connect
    finally:
        for client in clients:
            client.writer.close()


@asynccontextmanager
async def standing() -> AsyncIterator[tuple[Echo, TcpProxy, Connect]]:
    """An echo server with the proxy before it."""
    echo = Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, TcpProxy("127.0.0.1", port) as proxy, through(proxy) as connect:
        yield echo, proxy, connect


async def test_everything_passes_and_connections_are_counted() -> None:
    async with standing() as (_, proxy, connect):
        first, second = await connect(), await connect()
        assert await first.ask(b"one\n") == b"one\n"
        assert await second.ask(b"two\n") == b"two\n"
        assert (proxy.connections, proxy.open_connections, proxy.cuts) == (2, 2, 0)
        first.writer.write_eof()
        assert await first.reader.read() == b""


async def test_a_delayed_reply_arrives_late_and_whole() -> None:
    async with standing() as (_, proxy, connect):
        client = await connect()
        proxy.delay(0.2)
        answer = asyncio.create_task(client.ask(b"slow\n"))
        done, _ = await asyncio.wait({answer}, timeout=0.05)
        assert not done
        assert await answer == b"slow\n"


async def test_the_request_arrives_and_its_reply_is_lost() -> None:
    async with standing() as (echo, proxy, connect):
        client = await connect()
        proxy.cut_before_reply(b"commit")
        assert await client.ask(b"renew\n") == b"renew\n"
        assert await client.ask(b"commit\n") == b""
        assert echo.seen == [b"renew\n", b"commit\n"]
        assert proxy.cuts == 1
        assert await (await connect()).ask(b"commit\n") == b"commit\n"


async def test_a_reply_is_cut_in_the_middle() -> None:
    async with standing() as (_, proxy, connect):
        client = await connect()
        proxy.cut_after(6)
        assert await client.ask(b"four\n") == b"four\n"
        assert await client.ask(b"more\n") == b"m"
        assert await client.reader.read() == b""
        assert await (await connect()).ask(b"again\n") == b"again\n"


async def test_a_black_hole_holds_bytes_of_both_directions_until_it_opens() -> None:
    async with standing() as (echo, proxy, connect):
        client = await connect()
        await client.ask(b"before\n")
        proxy.blackhole()
        held = asyncio.create_task(client.ask(b"held\n"))
        late = await connect()
        late_answer = asyncio.create_task(late.ask(b"late\n"))
        done, _ = await asyncio.wait({held, late_answer}, timeout=0.05)
        assert not done
        assert echo.seen == [b"before\n"]
        proxy.forward()
        assert await held == b"held\n"
        assert await late_answer == b"late\n"


async def test_refused_connections_are_refused_and_open_ones_live_on() -> None:
    async with standing() as (_, proxy, connect):
        client = await connect()
        await client.ask(b"in\n")
        await proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            await connect()
        assert await client.ask(b"still here\n") == b"still here\n"
        await proxy.accept()
        assert await (await connect()).ask(b"back\n") == b"back\n"


async def test_nobody_else_takes_the_port_of_a_proxy_that_refuses() -> None:
    async with standing() as (_, proxy, connect):
        await proxy.refuse()
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind((HOST, proxy.port))
        await proxy.accept()
        assert await (await connect()).ask(b"ours\n") == b"ours\n"


async def test_cut_all_ends_every_connection() -> None:
    async with standing() as (_, proxy, connect):
        clients = [await connect() for _ in range(3)]
        for client in clients:
            await client.ask(b"in\n")
        assert proxy.cut_all() == 3
        assert [await client.ask(b"?\n") for client in clients] == [b""] * 3
        assert proxy.open_connections == 0


async def test_leaving_ends_connections_that_a_black_hole_holds() -> None:
    async with standing() as (_, proxy, connect):
        client = await connect()
        await client.ask(b"in\n")
        proxy.blackhole()
        client.writer.write(b"never\n")
        await connect()
    assert proxy.open_connections == 0


async def test_a_server_that_is_gone_ends_the_connection() -> None:
    async with TcpProxy("127.0.0.1", free_port()) as proxy, through(proxy) as connect:
        assert await (await connect()).ask(b"anybody?\n") == b""


async def test_new_connections_are_led_to_another_server_and_open_ones_stay() -> None:
    first, second = Echo(), Echo()
    async with (
        await asyncio.start_server(first.serve, "127.0.0.1", 0) as one,
        await asyncio.start_server(second.serve, "127.0.0.1", 0) as other,
        TcpProxy("127.0.0.1", one.sockets[0].getsockname()[1]) as proxy,
        through(proxy) as connect,
    ):
        before = await connect()
        assert await before.ask(b"a\n") == b"a\n"
        proxy.lead_to("127.0.0.1", other.sockets[0].getsockname()[1])

        assert await (await connect()).ask(b"b\n") == b"b\n"
        assert await before.ask(b"c\n") == b"c\n"

    assert (first.seen, second.seen) == ([b"a\n", b"c\n"], [b"b\n"])
