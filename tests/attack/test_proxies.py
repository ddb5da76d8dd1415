"""A proxy before a server that asks nobody lets the world in: recognised with a real nginx, plain and as documented."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from tests.attack.conftest import Tried
from tests.attack.target import Attempt, Target, opened
from tests.patience import PATIENCE
from tests.process.callers import guarded
from tests.process.served import ask
from tests.services.nginx import NginxServer

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "go-public.md"
HOST = "chat.example.com"


def plain(url: str) -> str:
    return f"server {{ listen 127.0.0.1:@PORT@; location / {{ proxy_pass {url}; }} }}"


def documented(url: str) -> str:
    """The configuration of the page, without TLS, on another port and before this server."""
    [text] = re.findall(r"nginx:\n\n```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    text = re.sub(r"^ *ssl_certificate.*\n", "", text, flags=re.MULTILINE)
    assert text.count("listen 443 ssl;") == text.count("proxy_pass http://127.0.0.1:8080;") == 1, "the page has changed"
    return text.replace("listen 443 ssl;", "listen 127.0.0.1:@PORT@;").replace("http://127.0.0.1:8080", url)


# ---------------------------------------------------------------- a proxy that was told nothing

ROUTES = (
    ("GET", "/api/threads"), ("GET", "/api/queue"), ("GET", "/api/assistants"), ("GET", "/api/channels/c/messages"),
    ("GET", "/api/channels/c/events"), ("POST", "/api/channels/c/messages"), ("DELETE", "/api/channels/c"),
    ("POST", "/api/threads"), ("GET", "/metrics"), ("GET", "/dashboard"), ("GET", "/"), ("POST", "/api/session"),
)  # fmt: skip
NAMES = (HOST, "127.0.0.1", "localhost")


def through(proxy: str) -> Iterator[Attempt]:
    for method, path in ROUTES:
        for name in NAMES:
            yield asked(proxy, method, path, name)
    for name in NAMES:
        yield upgraded(proxy, name)


def asked(proxy: str, method: str, path: str, name: str) -> Attempt:
    async def act(target: Target) -> str | None:
        body = {"message": "planted"} if method == "POST" else None
        request = target.server.http.request(method, f"{proxy}{path}", headers={"Host": name}, json=body)
        async with asyncio.timeout(PATIENCE), request as told:
            return None if told.status == 403 else f"{told.status} {await told.content.read(200)!r}"

    return Attempt("proxy", f"{method} {path} as {name}", act)


def upgraded(proxy: str, name: str) -> Attempt:
    async def act(target: Target) -> str | None:
        try:
            async with connected(proxy, name) as socket:
                return repr(await ask(socket, {"action": "ping"}))
        except InvalidStatus as refusal:
            return None if refusal.response.status_code in (403, 404) else str(refusal)
        except websockets.WebSocketException:
            return None

    return Attempt("proxy", f"a socket as {name}", act)


def connected(proxy: str, name: str, **headers: str) -> websockets.connect:
    """A socket through the proxy, to a server of this name."""
    port = urlsplit(proxy).port
    return websockets.connect(f"ws://{name}:{port}/ws", host="127.0.0.1", port=port, additional_headers=headers)


async def test_a_plain_proxy_before_a_server_that_asks_nobody_is_refused(nginx: str, tried: Tried) -> None:
    async with opened() as target:
        async with NginxServer(nginx, plain(target.server.url)) as proxy:
            await tried(target, [*through(proxy.url)])
            assert (await target.server.queue.store.counts()).threads == 0
        async with target.server.http.get(f"{target.server.url}/api/threads") as told:
            assert told.status == 200, "whoever comes without a proxy is answered"


async def test_a_proxy_is_taken_where_somebody_said_so_aloud(nginx: str) -> None:
    async with (
        opened(auth="off") as target,
        NginxServer(nginx, plain(target.server.url)) as proxy,
        target.server.http.get(f"{proxy.url}/api/threads") as told,
    ):
        assert told.status == 200


# ---------------------------------------------------------------- as documented


async def test_behind_the_documented_proxy_everything_works_with_a_credential_and_nothing_without(
    nginx: str, tried: Tried
) -> None:
    async with guarded(hosts=(HOST,)) as house:
        target = Target(house.server)
        bearer = {"Authorization": f"Bearer {await house.key('send', 'read')}", "Host": HOST}
        async with NginxServer(nginx, documented(house.server.url)) as proxy:
            await tried(target, [*without_a_credential(proxy.url)])
            channel = f"{proxy.url}/api/channels/through"
            async with aiohttp.ClientSession(headers=bearer) as http:
                async with http.post(f"{channel}/messages", json={"message": "hello", "message_id": "m1"}) as told:
                    assert told.status == 202
                async with http.get(f"{channel}/events?events=all") as stream:
                    assert b'"subscribed"' in await first_event(stream)
                    async with connected(proxy.url, HOST, Authorization=bearer["Authorization"]) as socket:
                        await on_a_socket(socket)
                    assert b'"m2"' in await first_event(stream), "it comes at once, or the proxy keeps it back"


async def on_a_socket(socket: ClientConnection) -> None:
    assert (await ask(socket, {"action": "subscribe", "channel": "through"}))["status"] == "subscribed"
    await socket.send(json.dumps({"channel": "through", "message": "again", "message_id": "m2"}))
    frame = await ask(socket, {"action": "ping"})
    assert frame["status"] == "accepted"


async def first_event(stream: aiohttp.ClientResponse) -> bytes:
    """Up to the next blank line after some data."""
    heard = b""
    async with asyncio.timeout(PATIENCE):
        while not heard.rstrip(b"\r\n ").rpartition(b"\n")[2].startswith(b"data:"):
            heard += await stream.content.readline()
    return heard


def without_a_credential(proxy: str) -> Iterator[Attempt]:
    for method, path in ROUTES:
        if path.startswith("/api/"):
            yield unknown(proxy, method, path)


def unknown(proxy: str, method: str, path: str) -> Attempt:
    async def act(target: Target) -> str | None:
        body = {"message": "planted"} if method == "POST" else None
        request = target.server.http.request(method, f"{proxy}{path}", headers={"Host": HOST}, json=body)
        async with asyncio.timeout(PATIENCE), request as told:
            return None if told.status == 401 else f"{told.status}"

    return Attempt("no credential", f"{method} {path}", act)
