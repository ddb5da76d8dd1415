"""How connections to an endpoint are made: through which proxy, with whose certificates; and what every
request says there, under which name.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from importlib import metadata

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.tracing import Trace
from yarl import URL

from turnkeep.errors import ConfigurationError
from turnkeep.models.provider import Provider

CONNECTIONS = 1024
KEEP_ALIVE = 20.0


def open_connector(endpoint: Provider, handler: type[ResponseHandler]) -> aiohttp.BaseConnector:
    """`handler` speaks HTTP on each connection. Raises `ConfigurationError` for a CA file that cannot be used."""
    connector: aiohttp.BaseConnector
    if endpoint.dial is not None:
        connector = _DialConnector(endpoint.dial)
    else:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE, ssl=_trust(endpoint))
    # What makes the protocol of each connection, through a proxy too; there is no other way to be told of
    # an arrival.
    connector._factory = partial(handler, loop=asyncio.get_running_loop())
    return connector


def request_to(endpoint: Provider, method: str, url: str) -> aiohttp.ClientRequest:
    """What a connector goes by: where to, through which proxy, with which credentials. It is never sent. Raises
    `aiohttp.InvalidURL`, which does not hold the address: a proxy's has a password.
    """
    proxy = _parse("the proxy", endpoint.proxy) if endpoint.proxy else None
    address, loop = _parse("the base url", url), asyncio.get_running_loop()
    return aiohttp.ClientRequest(method, address, headers=_headers(endpoint), loop=loop, proxy=proxy)


def _parse(name: str, url: str) -> URL:
    try:
        address = URL(url)
    except ValueError as error:  # more than a setting is held against: a host that no name server could know
        raise aiohttp.InvalidURL(name, str(error)) from error
    if address.raw_host is None:
        raise aiohttp.InvalidURL(name, "it must look like http://host:port")
    return address


def head_of(request: aiohttp.ClientRequest) -> tuple[str, dict[str, str]]:
    """The first line of such requests, and their other lines by the lower-case name. Once there is a
    connection: that is when aiohttp knows what a proxy has to be told.
    """
    is_told_whole = request.proxy is not None and not request.is_ssl()
    address = request.url if is_told_whole else request.url.raw_path_qs
    lines = {name.lower(): f"{name}: {value}\r\n" for name, value in request.headers.items()}
    return f"{request.method} {address} HTTP/1.1\r\n", lines


class _DialConnector(aiohttp.BaseConnector):
    """Connections that somebody has opened: aiohttp's own connectors know ports, and paths that
    others may open.
    """

    def __init__(self, dial: Callable[[], Awaitable[socket.socket]]) -> None:
        super().__init__(limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE)
        self._dial = dial

    async def _create_connection(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> ResponseHandler:
        ours = await self._dial()
        loop = asyncio.get_running_loop()
        if hasattr(socket, "AF_UNIX") and ours.family == socket.AF_UNIX:
            _, protocol = await loop.create_unix_connection(self._factory, sock=ours)
        else:  # where pairs of sockets are made of two connections
            _, protocol = await loop.create_connection(self._factory, sock=ours)
        return protocol


def _trust(endpoint: Provider) -> ssl.SSLContext | bool:
    if endpoint.ca_file is None:
        return True
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(endpoint.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"the CA file {endpoint.ca_file!r} cannot be used: {error}") from error
    return context


def _headers(endpoint: Provider) -> dict[str, str]:
    headers = {
        "User-Agent": f"turnkeep/{_version()}",
        "Accept": "text/event-stream",
        "Accept-Encoding": "identity",  # a compressed stream arrives in lumps
        "Content-Type": "application/json",
    }
    if endpoint.api_key:
        headers["Authorization"] = f"Bearer {endpoint.api_key}"
    if endpoint.organisation:
        headers["OpenAI-Organization"] = endpoint.organisation
    if endpoint.project:
        headers["OpenAI-Project"] = endpoint.project
    return {**headers, **endpoint.headers}


def _version() -> str:
    try:
        return metadata.version("turnkeep")
    except metadata.PackageNotFoundError:
        return "unknown"
