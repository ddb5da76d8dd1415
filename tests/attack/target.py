"""What is attacked, and how an attempt is written down.

A table of attempts is tried on one service, opened by `opened` (everybody on this machine may come in) or by
`tests.process.callers.guarded` (credentials are asked for, and there is something to protect). An attempt returns what
it got that it must not have, None if the service held. The fixture `tried` counts all of them in one line at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.patience import PATIENCE
from tests.process.served import Served, served

"""Seconds in which a service that is well answers."""
QUIET = 0.5
"""Seconds without a byte after which an attempt gets nothing any more."""
AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Target:
    """A service under attack."""

    server: Served

    @property
    def port(self) -> int:
        return urlsplit(self.server.url).port or 0

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def raw(self, *pieces: bytes, patience: float = QUIET) -> bytes:
        """Send bytes on a connection of their own; all that comes back until it is closed or quiet for a moment."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        heard = b""
        try:
            with contextlib.suppress(OSError):
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.wait_for(writer.drain(), patience)
                while data := await asyncio.wait_for(reader.read(65_536), patience):
                    heard += data
        except TimeoutError:
            pass
        finally:
            writer.close()
        return heard

    async def is_well(self) -> bool:
        """Whether it answers as before."""
        async with asyncio.timeout(PATIENCE), self.server.http.get(f"{self.server.url}/healthz") as told:
            return told.status == 200


Act = Callable[[Target], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One thing that must not work."""

    kind: str
    name: str
    act: Act


@contextlib.asynccontextmanager
async def opened(store: str = "memory:", **settings: Any) -> AsyncIterator[Target]:
    """A service on loopback that asks nobody for credentials. Nobody answers there."""
    async with served(store, **{"role": "gateway", "window": 600.0, "max_wait": 3600.0, **settings}) as server:
        yield Target(server)


async def leaks_of(target: Target, attempts: Sequence[Attempt]) -> list[str]:
    """Try all of them, some at once: what leaked, by name."""
    found = []
    room = asyncio.Semaphore(AT_ONCE)

    async def tried(attempt: Attempt) -> None:
        async with room:
            leaked = await attempt.act(target)
        if leaked is not None:
            found.append(f"{attempt.kind}: {attempt.name}: {leaked}")

    async with asyncio.TaskGroup() as group:
        for attempt in attempts:
            group.create_task(tried(attempt))
    if not await target.is_well():
        found.append(f"after {attempts[-1].kind}: the service does not answer")
    return found
