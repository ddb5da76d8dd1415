"""nginx before a service: a configuration of one's own on a free port."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tests.services.process import HOST, Server, exchange

MAIN = """
{user}
worker_processes 1;
daemon off;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
worker_rlimit_nofile 8192;
http {{
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    {http}
}}
"""


class NginxServer(Server):
    """`http` stands in the block of that name; `@PORT@` in it is the port that is listened on."""

    def __init__(self, program: str, http: str) -> None:
        super().__init__("nginx")
        self._program = program
        user = "user root;" if os.geteuid() == 0 else ""
        text = MAIN.format(user=user, http=http.replace("@PORT@", str(self.port)))
        self._file = self.directory / "nginx.conf"
        self._file.write_text(text)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def _command(self) -> Sequence[str]:
        return [self._program, "-p", str(self.directory), "-c", str(self._file), "-e", str(Path("stderr"))]

    def _ready(self) -> bool:
        return exchange(self.port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n").startswith(
            b"HTTP/"
        )
