"""The note of a running server: a small file beside the SQLite store that says where it listens.

It is written when the server listens and removed when it ends. Whoever reads it asks the server
whether it is there.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
from pathlib import Path
from urllib.parse import urlsplit

from turnkeep import private_file
from turnkeep.cli import context
from turnkeep.settings import Settings

PATIENCE = 1.0
"""Seconds in which a server of this machine has to say that it lives."""


def path_of(settings: Settings) -> Path | None:
    """None where the store is no file."""
    store = context.sqlite_path(settings)
    return store.with_name(f"{store.name}.server.json") if store else None


def leave(settings: Settings, url: str, stack: contextlib.ExitStack) -> None:
    """Note this server until the stack unwinds; of several the last one to start counts."""
    path = path_of(settings)
    if path is None:
        return
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    # From a process that was killed, and whose number is ours by now.
    draft.unlink(missing_ok=True)
    with os.fdopen(private_file.make(draft), "w") as file:
        json.dump({"url": url, "pid": os.getpid()}, file)
    # Never half a note, whoever reads it meanwhile.
    draft.replace(path)
    stack.callback(_remove, path)


def find(settings: Settings) -> str | None:
    """The base URL of a server that uses this store and lives."""
    path = path_of(settings)
    note = _read(path) if path else None
    # The process first, which costs nothing. Its port may belong to another program by now, so it
    # is asked as well.
    if note is None or not _lives(note[1]) or not answers(note[0]):
        return None
    return note[0]


def answers(url: str) -> bool:
    """Whether a turnkeep server is there."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)
    try:
        connection.request("GET", "/healthz")
        reply = connection.getresponse()
        return reply.status == http.client.OK and reply.read(16) == b"ok"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _read(path: Path) -> tuple[str, int] | None:
    try:
        note = json.loads(path.read_text())
        return str(note["url"]), int(note["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # It lives, under another user.
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    note = _read(path)
    # A server that started later has put its own in this place.
    if note is not None and note[1] == os.getpid():
        path.unlink(missing_ok=True)
