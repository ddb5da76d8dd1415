"""Asks a model over a real socket and looks at what it sends and what it makes of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from tests.contract.canned import Canned, Visit, canned
from tests.patience import PATIENCE
from turnkeep.messages import Item, UserItem, text_content
from turnkeep.models import Provider, open_model
from turnkeep.models.model import Delta, Finish, ItemDone, Model, ModelRequest, OnText, PushingModel, StreamPart

Refuses = Callable[[dict[str, Any]], str | bytes | None]
"""What is said of a body that is refused: a sentence, or the whole answer."""

STREAMS = Path(__file__).parents[1] / "data" / "streams"
KEY = "sk-proj-Zx81kd72hs9Q"
HELLO = ModelRequest("gpt-6-luna", [UserItem(text_content("hello"))])
PROTOCOLS = pytest.mark.parametrize("kind", ["responses", "chat", "anthropic"])
OPENAI_PROTOCOLS = pytest.mark.parametrize("kind", ["responses", "chat"])
GOOD = {"responses": "responses-text", "chat": "chat-text", "anthropic": "anthropic-text"}
TEXT = {
    "responses": 'Grüß Gott 👋🏽, 世界!\n\nIt says "data: {}"\\n.',
    "anthropic": 'Grüß Gott 👋🏽, 世界!\n\nIt says "data: {}"\\n.',
    "chat": "The café öffnet um 9 ☕️.",
}


def recorded(name: str) -> bytes:
    return (STREAMS / f"{name}.sse").read_bytes()


def opened(server: Canned, kind: Any, **settings: Any) -> Model:
    settings = {"first_event_timeout": 20.0, "idle_timeout": 20.0, "api_key": KEY, "is_simulated": True, **settings}
    return open_model(Provider(server.url, **settings), kind)


IS_PUSHED = False
"""Whether text is told as it arrives, in the place of deltas: both ways have to mean the same."""


def push(model: Model, request: ModelRequest, on_text: OnText) -> AsyncGenerator[StreamPart, None]:
    """Every model that is opened pushes."""
    return cast("PushingModel", model).push(request, on_text)


async def stream_of(model: Model, request: ModelRequest = HELLO) -> AsyncGenerator[StreamPart, None]:
    """All parts, text that was pushed as the deltas in whose place it came."""
    texts: list[str] = []
    stream = push(model, request, texts.append) if IS_PUSHED else model.stream(request)
    async with aclosing(stream) as parts:
        async for part in parts:
            assert not (IS_PUSHED and isinstance(part, Delta))
            while texts:
                yield Delta(texts.pop(0))
            yield part


async def ask(model: Model, request: ModelRequest = HELLO) -> list[StreamPart]:
    try:
        async with asyncio.timeout(PATIENCE):
            return [part async for part in stream_of(model, request)]
    finally:
        await model.close()


async def told_by(stream: bytes, kind: str, request: ModelRequest = HELLO, **settings: Any) -> list[StreamPart]:
    """All parts that a model makes of one recorded answer."""

    async def answer(visit: Visit) -> None:
        visit.whole(stream, x_request_id="req_1")

    async with canned(answer) as server:
        return await ask(opened(server, kind, **settings), request)


async def sent_by(kind: str, request: ModelRequest, **settings: Any) -> Visit:
    """The request that a model sends."""

    async def answer(visit: Visit) -> None:
        visit.whole(recorded(GOOD[kind]))

    async with canned(answer) as server:
        await ask(opened(server, kind, **settings), request)
        return server.last


def text_of(parts: list[StreamPart]) -> str:
    return "".join(part.text for part in parts if isinstance(part, Delta))


def items_of(parts: list[StreamPart]) -> list[Item]:
    return [part.item for part in parts if isinstance(part, ItemDone)]


def finish_of(parts: list[StreamPart]) -> Finish:
    assert isinstance(parts[-1], Finish)
    assert sum(isinstance(part, Finish) for part in parts) == 1
    return parts[-1]


async def parts_of(model: Model, request: ModelRequest = HELLO) -> list[StreamPart]:
    async with asyncio.timeout(PATIENCE):
        return [part async for part in model.stream(request)]


def server_that(refuses: Refuses, kind: str, status: int = 400) -> AbstractAsyncContextManager[Canned]:
    async def answer(visit: Visit) -> None:
        if said := refuses(visit.body):
            error = {"error": {"message": said, "type": "invalid_request_error"}}
            answer = said if isinstance(said, bytes) else orjson.dumps(error)
            visit.whole(answer, status=status, content_type="application/json")
        else:
            visit.whole(recorded(GOOD[kind]))

    return canned(answer)
