"""A port of this machine: bound by one process, listened on by it or by those that it starts."""

from __future__ import annotations

import errno
import socket
from typing import Literal

from turnkeep.errors import ConfigurationError
from turnkeep.settings import Settings

DOORMEN = 16
"""Connections that are taken in at a turn of the loop. libuv takes one for each time that a socket
is listened on, and whoever comes behind a thousand others would wait for a thousand turns.
"""
DEAF_AFTER = 30_000
"""Milliseconds without any acknowledgement of what was sent."""


def bound(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `ConfigurationError` with what to do."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, so that asyncio sets TCP_NODELAY
    # A restart finds connections of before in TIME_WAIT, and would not get the port for a minute.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # a peer that takes nothing is cut by the system, whatever it holds back
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAF_AFTER)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"port {port} on {host} is taken, stop what listens there or choose another with --port"
            ) from error
        raise ConfigurationError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    listener.setblocking(False)
    return listener


def doormen(listener: socket.socket) -> list[socket.socket]:
    """The same socket, so many times that the loop lets in that many at a turn."""
    # Siblings share more than the address: whether to block is a flag of what all of them hold, and
    # `dup` sets it as this object believes it to be, which of an inherited one is "blocks". A sibling
    # that came second to a connection stood still then, until the next one came.
    listener.setblocking(False)
    return [listener, *(listener.dup() for _ in range(DOORMEN - 1))]


def port_of(settings: Settings, role: Literal["all", "gateway", "worker"]) -> socket.socket | None:
    """The socket on which a process of this role listens; None for a worker that shows nothing."""
    port = settings.worker_port if role == "worker" else settings.port
    return None if port is None else bound(settings.host, port)
