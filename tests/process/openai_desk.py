"""A served house and OpenAI's own client for it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import openai

from tests.process.served import Served, served
from turnkeep.messages import Item, content_text

FUNCTION = {
    "name": "lookup",
    "description": "Look something up.",
    "parameters": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"]},
}
NESTED = [{"type": "function", "function": FUNCTION}]
FLAT = [{"type": "function", **FUNCTION}]
WANTS_LOOKUP = '[[call:lookup {"q":"a"}]]'


@dataclass
class OpenAiDesk:
    """Who sits at OpenAI's doors: the model is the house's own assistant."""

    server: Served
    client: Any
    model: str

    def user(self, text: str) -> dict[str, str]:
        return {"role": "user", "content": text}

    async def chat(self, *texts: str, key: str | None = None, **options: Any) -> Any:
        """The completion of a conversation in which user and assistant take turns, the user first."""
        roles = ("user", "assistant")
        messages = [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts)]
        return await self.ask(messages, key=key, **options)

    async def ask(self, messages: list[Any], *, key: str | None = None, **options: Any) -> Any:
        headers = options.pop("extra_headers", {}) | ({"X-Conversation-Id": key} if key else {})
        return await self.client.chat.completions.create(
            model=self.model, messages=messages, extra_headers=headers, **options
        )

    async def transcript(self, channel: str) -> list[Item]:
        address = self.server.queue.address(channel)
        return [entry.item for entry in (await self.server.queue.store.history(address)).entries]

    async def words(self, channel: str) -> list[tuple[str, str]]:
        """Who said what, in the transcript."""
        items = await self.transcript(channel)
        said = [(item.kind, content_text(item.content)) for item in items if item.kind == "user"]  # type: ignore[union-attr]
        said += [(item.kind, item.text) for item in items if item.kind == "assistant"]  # type: ignore[union-attr]
        return said

    async def threads(self) -> int:
        return len([record async for record in self.server.queue.store.scan()])


def answer_of(completion: Any) -> str:
    return str(completion.choices[0].message.content)


@contextlib.asynccontextmanager
async def openai_desk(store: str = "memory:", **settings: Any) -> AsyncIterator[OpenAiDesk]:
    async with served(store, **settings) as server:
        assistant = await server.queue.assistants.default("default")
        assert assistant is not None
        client = openai.AsyncOpenAI(api_key="sk-any", base_url=f"{server.url}/v1", max_retries=0)
        async with client:
            yield OpenAiDesk(server, client, assistant.assistant_id)
