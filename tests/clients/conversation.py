"""The conversation in which everything happens that a front end shows, and what is stored of it."""

from __future__ import annotations

from tests.process.served import Served
from turnkeep.messages import AssistantItem, UserItem, content_text
from turnkeep.tools.tool import Tool, tool

GOLDEN = (
    '[[reason:hm]] [[comment:Let me see.]] [[call:look {"amount": 5}]] [[call:secret {"word": "x"}]] '
    '[[then:pay {"amount": 7}]] [[words:40]] [[pace:5]]'
)


@tool(effect="pure", show="all")
def look(amount: int) -> str:
    """Look."""
    return f"saw {amount}"


@tool(effect="pure")
def secret(word: str) -> str:
    """Look at what nobody else may see."""
    return f"{word} is hidden"


@tool(needs_approval=True, self_approval=True, show="all")
def pay(amount: int) -> str:
    """Pay."""
    return f"paid {amount}"


@tool(client_side=True, show="all")
def place() -> str:
    """Where the user is."""
    return ""


TOOLS: list[Tool] = [look, secret, pay, place]


async def transcript(house: Served, channel: str) -> list[str]:
    """What was said by both, as it is stored."""
    history = await house.queue.store.history(house.queue.address(channel))
    items = [entry.item for entry in history.entries]
    return [
        item.text if isinstance(item, AssistantItem) else content_text(item.content)
        for item in items
        if isinstance(item, AssistantItem | UserItem)
    ]
