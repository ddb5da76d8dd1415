"""Server-sent events as they come; whatever was counted or opened for them is given back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import orjson
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from turnkeep.doors.http_transport import PieceWriter, piece_writer

COMMENT = b": still here\n\n"
"""Proxies cut what is quiet, and a peer that is gone is only noticed by writing to it; clients skip it."""
END_FRAME = b"data: [DONE]\n\n"
CLOSING = 10.0
"""Seconds that giving back may take."""


class SentEvents(StreamingResponse):
    """`close` is called once, however the stream ends.

    On our own server events are written straight to the connection: head and end go the way of all
    answers, and at what lies between nobody on that way looks.
    """

    _write: PieceWriter | None = None

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        close: Callable[[], Awaitable[None]],
        headers: Mapping[str, str] | None = None,
    ) -> None:
        # nginx would collect a stream until its buffer is full; this header of its own turns that off
        own = {"Cache-Control": "no-cache, no-store", "X-Accel-Buffering": "no", **(headers or {})}
        super().__init__(frames, media_type="text/event-stream", headers=own)
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._write = piece_writer(scope)
        try:
            await super().__call__(scope, receive, send)
        finally:
            # a client that goes away cancels what is in here
            with anyio.move_on_after(CLOSING, shield=True):
                await self._close()

    async def stream_response(self, send: Send) -> None:
        write = self._write
        if write is None:
            await super().stream_response(send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self.body_iterator:
            await write(piece)  # type: ignore[arg-type]  # bytes, as they were given
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@asynccontextmanager
async def response_resources() -> AsyncIterator[AsyncExitStack]:
    """What a response holds while it is sent. Closed here where it comes to no response; else whoever
    sends it closes (`SentEvents`).
    """
    stack = AsyncExitStack()
    try:
        yield stack
    except BaseException:
        await stack.aclose()
        raise


def data_frame(value: object) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(value)


def named_frame(name: str, value: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(value))
