"""Balancers, probes and replacements of EventSource write requests in ways of their own; all of them are served."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
import websockets

from tests.collector import living
from tests.patience import PATIENCE
from tests.process.served import Served, served
from tests.services import HOST, free_port
from turnkeep.doors.ping_wheel import PING_INTERVAL, TURNS
from turnkeep.doors.socket_transport import SocketTransport

PAGE = "http://localhost:3000"


async def first_line(server: Served, request: str) -> str:
    reader, writer = await asyncio.open_connection(HOST, urlsplit(server.url).port)
    try:
        writer.write(request.encode())
        async with asyncio.timeout(PATIENCE):
            return (await reader.readline()).decode().strip()
    finally:
        writer.close()


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize(
    "head",
    [
        "GET {path} HTTP/1.0\r\n\r\n",
        "HEAD {path} HTTP/1.0\r\n\r\n",
        "GET {path} HTTP/1.1\r\nHost: 10.1.2.3:8080\r\n\r\n",
        "GET {path} HTTP/1.1\r\nHost: balancer.example\r\nX-Forwarded-For: 10.0.0.9\r\nVia: 1.1 edge\r\n\r\n",
        "GET {path} HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "GET {path} HTTP/1.0\r\nUser-Agent: kube-probe/1.31\r\nConnection: close\r\n\r\n",
    ],
)
async def test_a_probe_needs_no_host_of_ours(path: str, head: str) -> None:
    async with served() as server:
        assert " 200 " in await first_line(server, head.format(path=path))


@pytest.mark.parametrize("path", ["/", "/api/threads", "/healthz/../api/threads", "/healthz/", "/api/queue"])
async def test_what_is_no_probe_is_asked_for_its_host(path: str) -> None:
    async with served() as server:
        assert " 200 " not in await first_line(server, f"GET {path} HTTP/1.1\r\nHost: balancer.example\r\n\r\n")


@pytest.mark.parametrize(
    "asked", ["content-type,authorization", "cache-control,last-event-id", "x-requested-with,pragma"]
)
async def test_a_page_that_was_named_may_send_what_its_library_sends(asked: str) -> None:
    async with served(origins=[PAGE]) as server:
        headers = {
            "Origin": PAGE, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": asked,
        }  # fmt: skip
        async with server.http.options(f"{server.url}/api/channels/c/events", headers=headers) as told:
            assert told.status == 200
            assert told.headers["access-control-allow-origin"] == PAGE


@pytest.mark.parametrize("last", ["undefined", "null", ""])
async def test_a_page_that_has_seen_no_event_yet_begins_at_the_beginning(last: str) -> None:
    async with served() as server:
        url = f"{server.url}/api/channels/c/events"
        async with server.http.get(url, headers={"Last-Event-ID": last}) as told:
            assert told.status == 200
        async with server.http.get(f"{url}?after=undefined") as told:
            assert told.status == 400


async def test_a_socket_is_found_with_a_slash_at_its_end() -> None:
    async with served() as server, websockets.connect(server.url.replace("http", "ws") + "/ws/") as socket:
        await socket.send('{"action": "subscribe", "channel": "c"}')
        async with asyncio.timeout(PATIENCE):
            assert "subscri" in str(await socket.recv())


async def test_a_silent_socket_is_pinged_before_a_proxy_gives_it_up() -> None:
    """Those with the least patience, by their documentation: 50 s (HAProxy's example), 55 s (Heroku), 60 s (nginx)."""
    async with served() as server, server.socket() as socket:
        own = next(one for one in living(SocketTransport) if one.client == socket.local_address)
        assert own.ping_interval == PING_INTERVAL
        assert PING_INTERVAL * (1 + 1 / TURNS) < 50


async def test_a_service_that_fails_beside_its_server_leaves_nothing_listening() -> None:
    port = free_port()
    with pytest.raises(ExceptionGroup) as failure:
        async with served(port=port):
            raise LookupError("a mistake of who serves")
    assert failure.group_contains(LookupError)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(HOST, port)
