"""RabbitMQ as a test server: the real broker with a name service, a cookie and directories of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.patience import PATIENCE
from tests.services.process import HOST, Server, end_process, eventually, exchange, free_port, spawn

# The inner script: Debian's wrapper on PATH changes user and directory and takes the log away.
SCRIPTS = (
    "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "/opt/homebrew/opt/rabbitmq/sbin/rabbitmq-server",
    "/usr/local/opt/rabbitmq/sbin/rabbitmq-server",
)
CONFIG = """\
listeners.tcp.1 = {host}:{port}
vm_memory_high_watermark.absolute = 1GB
disk_free_limit.absolute = 50MB
log.console = true
log.console.level = info
loopback_users = none
"""


def rabbit_program() -> str | None:
    """The broker's script, if it and Erlang are installed."""
    named = os.environ.get("TURNKEEP_TEST_RABBITMQ")
    script = named or next((path for path in SCRIPTS if Path(path).exists()), None)
    return script if script and shutil.which("erl") and shutil.which("epmd") else None


class RabbitServer(Server):
    """One broker. Its queues and messages survive `restart` and `kill9` as far as they are durable."""

    def __init__(self, *, program: str | None = None, config: str = "") -> None:
        program = program or rabbit_program()
        if program is None:
            raise RuntimeError("there is no rabbitmq-server on this machine")
        super().__init__("rabbit")
        self.program = program
        self._epmd_port = free_port()
        self._dist_port = free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        (self.directory / "rabbitmq.conf").write_text(CONFIG.format(host=HOST, port=self.port) + config)
        (self.directory / "enabled_plugins").write_text("[].\n")

    def url(self, vhost: str = "") -> str:
        return f"amqp://guest:guest@{HOST}:{self.port}/{vhost}"

    def start(self) -> RabbitServer:
        # In the foreground and ours: the one that the broker would start detaches and survives every stop.
        if self._epmd is None:
            command = ["epmd", "-port", str(self._epmd_port), "-address", HOST]
            self._epmd = spawn(command, self._environment(), self.directory)
            eventually(self._named, PATIENCE, "epmd to answer")
        return super().start()

    def close(self) -> None:
        self.stop()
        if self._epmd is not None:
            end_process(self._epmd)
            self._epmd = None
        super().close()

    def ctl(self, *arguments: str) -> str:
        """Run `rabbitmqctl` against this broker (boots an Erlang machine: about two seconds)."""
        program = Path(self.program).with_name("rabbitmqctl")
        command = [str(program), "--quiet", *arguments]
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=280,
            check=True,
        )
        return done.stdout

    def settle(self) -> None:
        """Have the broker write what was declared; call it between a declaration and `kill9`.

        Confirmed messages are on disk, but definitions of queues and exchanges may follow two seconds later.
        """
        self.ctl("eval", "catch mnesia:sync_log().")

    def _command(self) -> Sequence[str]:
        return [self.program]

    def _ready(self) -> bool:
        # a TCP connect is too early: only a method frame says that the broker is up
        return exchange(self.port, b"AMQP\x00\x00\x09\x01").startswith(b"\x01")

    def _named(self) -> bool:
        names_request = b"\x00\x01n"
        return exchange(self._epmd_port, names_request) != b""

    def _environment(self) -> Mapping[str, str]:
        home = str(self.directory)
        loopback = "-kernel inet_dist_use_interface {127,0,0,1}"
        own = {
            "HOME": home,
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": HOST,
            "ERL_CRASH_DUMP_SECONDS": "0",  # an Erlang that dies at its start would write megabytes that nobody reads
            "RABBITMQ_NODENAME": f"t{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": f"{home}/data",
            "RABBITMQ_LOG_BASE": f"{home}/logs",
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": f"{home}/rabbitmq.conf",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{home}/enabled_plugins",
            "RABBITMQ_CONF_ENV_FILE": f"{home}/absent",
            "RABBITMQ_PID_FILE": f"{home}/pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"+S 2:2 +sbwt none {loopback}",
            "RUNNING_UNDER_SYSTEMD": "1",  # no shell between us and the machine: signals reach it
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_"))}
        return inherited | own
