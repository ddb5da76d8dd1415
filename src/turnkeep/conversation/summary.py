"""What stands for the part of a conversation that is no longer told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

from turnkeep.messages import AssistantItem, CallItem, Item, OutputItem, UserItem, content_text, text_content
from turnkeep.models.model import Delta, Model, ModelRequest

Summarize = Callable[[str | None, Sequence[Item]], Awaitable[str]]
"""Makes a new summary of the one so far (None: there is none) and the entries that go."""

SUMMARY_PROMPT = (
    "Summarize the conversation below for somebody who has to continue it: facts about the people, decisions, open "
    "questions, results of tools. Keep names, numbers and dates exactly. Write plain sentences, no more than needed."
)


def summary_by(model: Model, name: str, *, instructions: str = SUMMARY_PROMPT) -> Summarize:
    """Let a model make the summaries, with one request each. Raises `ModelError`."""

    async def summarize(before: str | None, items: Sequence[Item]) -> str:
        lines = [f"Summary so far: {before}"] if before else []
        lines += [line for item in items if (line := _line(item))]
        request = ModelRequest(name, [UserItem(text_content("\n".join(lines)))], instructions)
        texts: list[str] = []
        async with aclosing(model.stream(request)) as stream:
            async for part in stream:
                if isinstance(part, Delta):
                    texts.append(part.text)
        return "".join(texts).strip()

    return summarize


def _line(item: Item) -> str:
    match item:
        case UserItem():
            return f"User: {content_text(item.content)}"
        case AssistantItem():
            return f"Assistant: {item.text}"
        case CallItem():
            return f"Tool {item.name} was called with {item.arguments}"
        case OutputItem():
            return f"Tool answered: {item.output}"
    return ""
