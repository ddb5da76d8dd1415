"""The official client as the oracle: it reads the same recorded answers and comes to the same text, calls and usage."""

from __future__ import annotations

from typing import Any

import pytest
from openai import AsyncOpenAI

from tests.contract.asking import finish_of, items_of, recorded, text_of, told_by
from tests.contract.canned import Visit, canned
from turnkeep.messages import CallItem

Heard = tuple[str, list[tuple[str, str, str]], int]
"""Text, calls and output tokens of an answer."""


async def by_the_official_client(name: str) -> Heard:
    async def answer(visit: Visit) -> None:
        visit.whole(recorded(name))

    async with canned(answer) as server, AsyncOpenAI(base_url=server.url, api_key="k", max_retries=0) as client:
        return await (_response(client) if name.startswith("responses") else _chat(client))


async def _response(client: AsyncOpenAI) -> Heard:
    text, calls, tokens = "", [], 0
    async for event in await client.responses.create(model="m", input="hello", stream=True):
        if event.type in ("response.output_text.delta", "response.refusal.delta"):
            text += event.delta
        elif event.type == "response.output_item.done" and event.item.type == "function_call":
            calls.append((event.item.call_id, event.item.name, event.item.arguments))
        elif event.type in ("response.completed", "response.incomplete"):
            tokens = event.response.usage.output_tokens if event.response.usage else 0
    return text, calls, tokens


async def _chat(client: AsyncOpenAI) -> Heard:
    text, tokens = "", 0
    calls: dict[int, list[str]] = {}
    messages: Any = [{"role": "user", "content": "hello"}]
    stream: Any = await client.chat.completions.create(model="m", messages=messages, stream=True)
    async for chunk in stream:
        tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        for choice in chunk.choices:
            text += choice.delta.content or "" if choice.delta else ""
            for piece in (choice.delta and choice.delta.tool_calls) or ():
                call = calls.setdefault(piece.index, [piece.id, piece.function.name, ""])
                call[2] += piece.function.arguments
    return text, [(call[0], call[1], call[2]) for call in calls.values()], tokens


@pytest.mark.daily(rows=3)  # some of each dialect
@pytest.mark.parametrize(
    "name",
    [
        "responses-text",
        "responses-tools-reasoning",
        "responses-azure-late-seal",
        "responses-refusal",
        "responses-incomplete",
        "responses-hosted-citations",
        "openrouter-chat-reasoning-tools-citations",
        "chat-text",
        "chat-tools",
        "azure-chat-text",
        "deepseek-chat-crlf",
    ],
)
async def test_a_recorded_answer_means_the_same_to_the_official_client(name: str) -> None:
    parts = await told_by(recorded(name), "responses" if name.startswith("responses") else "chat")
    calls = [(item.call_id, item.name, item.arguments) for item in items_of(parts) if isinstance(item, CallItem)]
    assert (text_of(parts), calls, finish_of(parts).usage.output_tokens) == await by_the_official_client(name)
