"""Where the servers are: one server, a primary that sentinels name, or the nodes of a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Literal, Protocol
from urllib.parse import unquote, urlsplit, urlunsplit

import redis.asyncio as redis
from redis.crc import key_slot
from redis.exceptions import ResponseError

from turnkeep.errors import ConfigurationError, StoreMisconfigured, StoreUnavailable
from turnkeep.store.redis.client.dialing import Dialer, ServerAddress
from turnkeep.store.redis.client.scripts import Publish

_SCHEMES = {
    "valkey": "redis",
    "valkeys": "rediss",
    "redis+cluster": "redis",
    "redis+sentinel": "redis",
    "rediss+sentinel": "rediss",
}


class ServerTopology(Protocol):
    """Finds the server of a key."""

    kind: Literal["single", "sentinel", "cluster"]
    publish: Publish

    async def find(self, key: bytes) -> ServerAddress:
        """The server that holds this key now, as far as is known. Raises `StoreUnavailable`."""
        ...

    def cached_server(self, key: bytes) -> ServerAddress | None:
        """The server that `find` would give without asking anybody."""
        ...

    def forget(self, key: bytes) -> None:
        """What is known of this key's server may be wrong: look again next time."""
        ...

    async def confirm(self, endpoint: ServerAddress) -> None:
        """Raises `StoreUnavailable` when a server that was just connected to is not
        the one any more.

        A primary that was replaced comes back as a primary, until it is told otherwise.
        """
        ...

    def note_move(self, slot: int, endpoint: ServerAddress) -> None:
        """A server said where a slot is now."""
        ...


class Single:
    """One server."""

    kind: Literal["single", "sentinel", "cluster"] = "single"
    publish: Publish = "PUBLISH"

    def __init__(self, endpoint: ServerAddress) -> None:
        self._endpoint = endpoint

    async def find(self, key: bytes) -> ServerAddress:
        return self._endpoint

    def cached_server(self, key: bytes) -> ServerAddress | None:
        return self._endpoint

    def forget(self, key: bytes) -> None:
        """There is only one."""

    async def confirm(self, endpoint: ServerAddress) -> None:
        """There is only one."""

    def note_move(self, slot: int, endpoint: ServerAddress) -> None:
        """A single server has no slots."""


class Sentinels:
    """The primary of a service, as most recently named by the first sentinel that answers."""

    kind: Literal["single", "sentinel", "cluster"] = "sentinel"
    publish: Publish = "PUBLISH"

    def __init__(self, dialer: Dialer, sentinels: list[ServerAddress], service: str) -> None:
        self._dialer = dialer
        self._sentinels = sentinels
        self._service = service
        self._primary: ServerAddress | None = None
        self._asking = asyncio.Lock()

    async def find(self, key: bytes) -> ServerAddress:
        # One question for all: after a failover every caller wants to know at once.
        async with self._asking:
            if self._primary is None:
                self._primary = await self._ask_all()
            return self._primary

    def cached_server(self, key: bytes) -> ServerAddress | None:
        return self._primary

    async def _ask_all(self) -> ServerAddress:
        reasons = []
        for sentinel in list(self._sentinels):
            try:
                address = await self._dialer.ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            except (StoreUnavailable, StoreMisconfigured, ResponseError) as failure:
                reasons.append(str(failure))
                continue
            if address:
                # Who answered is asked first next time, so that a dead sentinel
                # costs its timeout once.
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)
                return ServerAddress(address[0].decode(), int(address[1]))
        raise StoreUnavailable(
            f"no sentinel names a primary of {self._service!r}: {'; '.join(reasons) or 'unknown name'}"
        )

    def forget(self, key: bytes) -> None:
        self._primary = None

    async def confirm(self, endpoint: ServerAddress) -> None:
        async with self._asking:
            self._primary = await self._ask_all()
        if self._primary != endpoint:
            raise StoreUnavailable(f"{self._primary} took the place of Redis at {endpoint}")

    def note_move(self, slot: int, endpoint: ServerAddress) -> None:
        """A primary has no slots."""


class Cluster:
    """The nodes of a cluster, by slot."""

    kind: Literal["single", "sentinel", "cluster"] = "cluster"
    publish: Publish = "SPUBLISH"

    def __init__(self, dialer: Dialer, seed: ServerAddress) -> None:
        self._dialer = dialer
        self._seed = seed
        self._nodes: list[ServerAddress] = [seed]
        self._slots: dict[int, ServerAddress] = {}
        self._asking = asyncio.Lock()

    async def find(self, key: bytes) -> ServerAddress:
        slot = key_slot(key)
        if (endpoint := self._slots.get(slot)) is not None:
            return endpoint
        async with self._asking:
            if slot not in self._slots:
                await self._ask_any()
        if (endpoint := self._slots.get(slot)) is None:
            raise StoreUnavailable(f"no node of the cluster has slot {slot} now")
        return endpoint

    def cached_server(self, key: bytes) -> ServerAddress | None:
        return self._slots.get(key_slot(key))

    async def _ask_any(self) -> None:
        reasons = []
        # The seed last but always: its name may lead to new nodes when all that are known are gone.
        for node in dict.fromkeys([*self._nodes, self._seed]):
            try:
                ranges = await self._dialer.ask(node, "CLUSTER", "SLOTS")
            except (StoreUnavailable, StoreMisconfigured, ResponseError) as failure:
                reasons.append(str(failure))
                continue
            self._learn(node, ranges)
            return
        raise StoreUnavailable(f"no node of the cluster answers: {'; '.join(reasons)}")

    def _learn(self, speaker: ServerAddress, ranges: list[Any]) -> None:
        nodes = []
        for first, last, primary, *_ in ranges:
            # An empty host means "where you reached me".
            endpoint = ServerAddress(primary[0].decode() or speaker.host, int(primary[1]))
            nodes.append(endpoint)
            self._slots.update(dict.fromkeys(range(first, last + 1), endpoint))
        self._nodes = list(dict.fromkeys(nodes)) or self._nodes

    def forget(self, key: bytes) -> None:
        # Only this slot: the others keep what is known of them until they fail themselves.
        self._slots.pop(key_slot(key), None)

    async def confirm(self, endpoint: ServerAddress) -> None:
        """A node that has a slot no more says so itself."""

    def note_move(self, slot: int, endpoint: ServerAddress) -> None:
        self._slots[slot] = endpoint


async def find_topology(url: str) -> tuple[ServerTopology, Dialer]:
    """What a URL leads to: ``redis://`` and relatives to one server or any node of a cluster,
    ``redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB`` to the primary of a service.
    """
    if urlsplit(url).scheme.endswith("+sentinel"):
        return _sentinels(url)
    plain = _with_scheme(url)
    try:
        options: Mapping[str, Any] = redis.connection.parse_url(plain)
    except ValueError as wrong:
        raise ConfigurationError(f"the Redis URL cannot be read: {wrong}") from wrong
    if "path" not in options:
        _require_number(urlsplit(plain).path.strip("/"))
    dialer = Dialer(plain)
    endpoint = (
        ServerAddress(options["path"])
        if "path" in options
        else ServerAddress(options.get("host", "localhost"), options.get("port", 6379))
    )
    # The server is asked because the URL cannot say: redis:// leads to single servers and to
    # clusters of hosted services alike.
    if await _is_cluster(dialer, endpoint):
        return Cluster(dialer, endpoint), dialer
    return Single(endpoint), dialer


async def _is_cluster(dialer: Dialer, endpoint: ServerAddress) -> bool:
    info = await dialer.ask(endpoint, "INFO", "cluster")
    return b"cluster_enabled:1" in info


def _with_scheme(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(scheme=_SCHEMES.get(parts.scheme, parts.scheme)))


def _sentinels(url: str) -> tuple[ServerTopology, Dialer]:
    parts = urlsplit(url)
    credentials, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    _require_number(database)
    sentinels = [_endpoint(host) for host in hosts.split(",") if host]
    if not service or not sentinels:
        raise ConfigurationError("a sentinel URL is redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB")
    scheme = _SCHEMES[parts.scheme]
    base = f"{scheme}://{credentials + '@' if credentials else ''}{sentinels[0]}"
    query = f"?{parts.query}" if parts.query else ""
    dialer = Dialer(f"{base}/{database}{query}")
    # Sentinels authenticate apart from what they watch: the password in the URL is
    # that of the store.
    without_credentials = Dialer(f"{scheme}://{sentinels[0]}{query}")
    return Sentinels(without_credentials, sentinels, unquote(service)), dialer


def _require_number(database: str) -> None:
    if database and not (database.isascii() and database.isdigit()):
        raise ConfigurationError(f"the Redis URL names the database {database[:80]!r}, which is no number")


def _endpoint(host: str) -> ServerAddress:
    name, _, port = host.rpartition(":")
    if not port.isdigit():
        return ServerAddress(host, 26_379)
    return ServerAddress(name.strip("[]"), int(port))
