"""Server-sent events of a dialect: as they come, and whatever was counted or opened is given back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import orjson
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

COMMENT = ": still here\n\n"
"""Proxies cut what is quiet; clients skip it."""
END_FRAME = "data: [DONE]\n\n"
CLOSING = 10.0
"""Seconds that giving back may take."""


class SentEvents(StreamingResponse):
    """`close` is called once, however the stream ends."""

    def __init__(self, frames: AsyncIterator[str], close: Callable[[], Awaitable[None]]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(frames, media_type="text/event-stream", headers=headers)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            # A client that goes away cancels what is in here.
            with anyio.move_on_after(CLOSING, shield=True):
                await self._close()


def data_frame(value: object) -> str:
    return f"data: {orjson.dumps(value).decode()}\n\n"


def named_frame(name: str, value: object) -> str:
    return f"event: {name}\ndata: {orjson.dumps(value).decode()}\n\n"
