"""Waiting for an answer, and saying what it waits for."""

from __future__ import annotations

import asyncio

from turnkeep.errors import NoAnswer, NotFound, TurnkeepError
from turnkeep.events import Event, TurnFault
from turnkeep.store.values import Receipt
from turnkeep.streams import EventStream
from turnkeep.telemetry import get_log

log = get_log(__name__)

PATIENCE = 5.0
"""Seconds after which it is said that nobody has begun to answer."""


class AnswerWait:
    """Reads a stream up to the end of the turn that covers one message."""

    def __init__(self, receipt: Receipt, *, queue: str, has_worker: bool) -> None:
        self._receipt = receipt
        self._queue = queue
        self._has_worker = has_worker
        self._has_begun = False
        self._fault: TurnFault | None = None

    async def read(self, events: EventStream, timeout: float) -> str:
        """The answer's text. Raises `NoAnswer`, `NotFound` (it was withdrawn), `TurnkeepError` (it
        is dead).
        """
        loop = asyncio.get_running_loop()
        warning = None if self._has_worker else loop.call_later(PATIENCE, self._warn)
        try:
            async with asyncio.timeout(timeout):
                async for event in events:
                    if self._receipt.message_id in event.message_ids and self._is_end(event):
                        return _text_of(event)
        except TimeoutError:
            raise NoAnswer(
                f"no answer on thread {self._receipt.channel!r} within {timeout:g} s: {self._cause()}"
            ) from None
        finally:
            if warning is not None:
                warning.cancel()
        raise AssertionError("a stream does not end")

    def _is_end(self, event: Event) -> bool:
        """Whether this event of our message settles it; else what it says is remembered."""
        if event.kind in ("started", "retrying", "waiting", "held"):
            self._has_begun = True
            self._fault = event.error or self._fault
        if event.kind == "responding":
            self._fault = None
        return event.is_final or event.kind == "withdrawn"

    def _warn(self) -> None:
        if not self._has_begun:
            log.warning("nobody_answers", thread=self._receipt.channel, queue=self._queue, hint=self._cause())

    def _cause(self) -> str:
        if self._fault is not None:
            return f"it waits, because {self._fault.code}: {self._fault.details or self._fault.message}"
        if self._has_begun:
            return "it is still being worked on; what comes is read with events()"
        if self._has_worker:
            return "no run of this process has begun with it, all may be at work; see get_queue_status()"
        return (
            f"nobody has begun with it: no worker was started in this process, call start_worker() "
            f"or run `turnkeep worker` for queue {self._queue!r}"
        )


def _text_of(event: Event) -> str:
    if event.kind == "completed":
        return event.text
    if event.kind == "withdrawn":
        raise NotFound("the message was withdrawn and will not be answered")
    fault = event.error
    raise TurnkeepError(f"{fault.code}: {fault.details or fault.message}" if fault else "the message is dead")
