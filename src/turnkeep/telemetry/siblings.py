"""What the processes of one service tell each other, through the process that started them.

One line of JSON each way at a time, over a pair of sockets. Of a child: `service` when everything
is open, `ask` for what the others have measured with what it has measured itself, `snapshot` when
it is asked, and `end` with the last one. Of the parent: `give`, and `others`.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from turnkeep.telemetry import get_log
from turnkeep.telemetry.metrics import PrometheusMeter
from turnkeep.telemetry.snapshots import Snapshot

log = get_log(__name__)

LONGEST_LINE = 16 * 1024 * 1024
SIBLING_PATIENCE = 2.0
"""Seconds that the others have to say what they have measured."""


class Siblings:
    """The side of a child. `async with siblings.open():` while it lives."""

    def __init__(self, link: socket.socket, meter: PrometheusMeter) -> None:
        self._link = link
        self._meter = meter
        self._writer: asyncio.StreamWriter | None = None
        self._numbers = itertools.count()
        self._asking: dict[int, asyncio.Future[list[Snapshot]]] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Answers the parent; without one this process drains, for nobody would start or end it."""
        reader, self._writer = await asyncio.open_connection(sock=self._link, limit=LONGEST_LINE)
        listening = asyncio.create_task(self._listen(reader), name="turnkeep-siblings")  # noqa: TID251 - cancelled below
        try:
            yield
        finally:
            listening.cancel()
            self._send({"end": self._meter.snapshot().to_json()})
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(SIBLING_PATIENCE):
                    await self._writer.drain()
            self._writer.close()

    def tell(self, service: Mapping[str, Any]) -> None:
        """Everything is open."""
        self._send({"service": service})

    async def snapshots(self) -> Sequence[Snapshot]:
        """What the others have measured, also those that have ended; nothing where nobody answers in time."""
        number = next(self._numbers)
        answer: asyncio.Future[list[Snapshot]] = asyncio.get_running_loop().create_future()
        self._asking[number] = answer
        self._send({"ask": number, "snapshot": self._meter.snapshot().to_json()})
        try:
            async with asyncio.timeout(2 * SIBLING_PATIENCE):
                return await answer
        except TimeoutError:
            log.warning("siblings_not_measured", reason="the process that started this one did not answer")
            return []
        finally:
            self._asking.pop(number, None)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError, ValueError):
            while line := await reader.readline():
                self._handle(json.loads(line))
        log.warning("parent_gone", reason="the process that started this one has ended, draining")
        os.kill(os.getpid(), signal.SIGTERM)

    def _handle(self, line: Mapping[str, Any]) -> None:
        if "give" in line:
            self._send({"of": line["give"], "snapshot": self._meter.snapshot().to_json()})
        answer = self._asking.get(line.get("of", -1))
        if answer is not None and not answer.done():
            answer.set_result([Snapshot.from_json(one) for one in line["others"]])

    def _send(self, line: Mapping[str, Any]) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(json.dumps(line).encode() + b"\n")
