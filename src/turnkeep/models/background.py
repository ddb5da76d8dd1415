"""Answers that OpenAI works out whether or not anybody listens: gone on with, or
stopped, by their id.

A response that was asked for in background mode outlives the connection and the process that asked
for it. Its stream can be read again from its beginning while it is young; later it is waited for,
and read whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any

import orjson

from turnkeep.backoff import Backoff
from turnkeep.errors import EndpointBlocked, ModelError, ModelRefused, ResponseLost
from turnkeep.models.exchange import AnswerReader, end_parts, read_parts
from turnkeep.models.http_client import Client, Reply
from turnkeep.models.model import OnText, StreamPart
from turnkeep.models.reading import StreamEvent, mapping

LOOKS = Backoff(delay=0.5, cap=5.0)
"""How often a response is looked at that is too old for a stream, until the run has to end."""

LOOKS_FOR_USAGE = 4
"""How often a stopped response is looked at for its cost, which may come a little later."""

_RUNNING = ("queued", "in_progress")
_LOST_STATES = ("failed", "cancelled")


class BackgroundResponse:
    """The responses of one endpoint that run in the background."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def resume(
        self, response_id: str, reading: Callable[[Reply], AnswerReader], on_text: OnText | None = None
    ) -> AsyncGenerator[StreamPart, None]:
        """All parts of a response, from its beginning, as if it were asked for now; nothing is paid
        for again.

        Raises ResponseLost where it is no longer there, has failed or was cancelled,
        else as a `Model`.
        """
        state = await self._look(response_id)
        if state.get("status") in _RUNNING:
            reply = await self._open_stream(response_id)
            if reply is not None:
                async for part in _read(reply, reading(reply), on_text):
                    yield part
                return
            await self._wait_for_end(response_id)
        # Too old to be streamed, or ended: the whole answer is read at once, and paid for once.
        reply = await self._client.get(f"/responses/{response_id}")
        async for part in _read(reply, reading(reply), on_text):
            yield part

    async def cancel(self, response_id: str) -> Mapping[str, Any] | None:
        """Stop a response, and give its usage, or None where it is not told. Safe to repeat."""
        with suppress(ModelRefused, EndpointBlocked):  # it has ended, or is gone
            url = self._client.endpoint.url(f"/responses/{response_id}/cancel")
            (await self._client.post(url, {}, {})).close()
        for look in range(1, LOOKS_FOR_USAGE + 1):
            state = await self._object(response_id)
            if usage := mapping(state.get("usage")):
                return usage
            await asyncio.sleep(LOOKS.after(look) / 4)
        return None

    async def _open_stream(self, response_id: str) -> Reply | None:
        """The stream of a response, from behind the event that named it; None: it is too old."""
        try:
            # From the first event on, not from the last one seen: that would need a position
            # written for each token. The run drops what was shown already.
            return await self._client.get(f"/responses/{response_id}", stream="true", starting_after="0")
        except ModelRefused:
            return None

    async def _wait_for_end(self, response_id: str) -> None:
        """Wait until the response has ended."""
        looks = 0
        while (await self._look(response_id)).get("status") in _RUNNING:
            looks += 1
            await asyncio.sleep(LOOKS.after(looks))

    async def _look(self, response_id: str) -> Mapping[str, Any]:
        try:
            state = await self._object(response_id)
        except (ModelRefused, EndpointBlocked) as error:
            raise ResponseLost(f"response {response_id} is no longer there: {error}") from error
        if state.get("status") in _LOST_STATES:
            raise ResponseLost(f"response {response_id} is {state['status']}")
        return state

    async def _object(self, response_id: str) -> Mapping[str, Any]:
        reply = await self._client.get(f"/responses/{response_id}")
        frames: list[StreamEvent] = []
        try:
            while (more := await reply.read()) is not None:
                frames += more
        finally:
            reply.close()
        return mapping(orjson.loads(frames[0][1])) if frames else {}


async def _read(reply: Reply, reader: AnswerReader, on_text: OnText | None) -> AsyncGenerator[StreamPart, None]:
    try:
        async with aclosing(read_parts(reply, reader, iter(()), on_text)) as arriving:
            async for part in arriving:
                yield part
    except ModelError:
        if not reader.is_answered:
            raise
    finally:
        reply.close()
    for part in end_parts(reader, on_text):
        yield part
