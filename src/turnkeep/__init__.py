"""turnkeep keeps the turns of a conversation."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turnkeep.conversation import ConversationManager
    from turnkeep.errors import TurnkeepError
    from turnkeep.events import Event
    from turnkeep.messages import Message
    from turnkeep.queue import AssistantMessageQueue
    from turnkeep.service import OpenAIService, create_openai_config
    from turnkeep.settings import Settings
    from turnkeep.tools import tool

__all__ = [
    "AssistantMessageQueue",
    "ConversationManager",
    "Event",
    "Message",
    "OpenAIService",
    "Settings",
    "TurnkeepError",
    "create_openai_config",
    "tool",
]

# imported on demand: a program that needs a message type does not pay for a server
_PLACES = {
    "AssistantMessageQueue": "turnkeep.queue",
    "ConversationManager": "turnkeep.conversation",
    "Event": "turnkeep.events",
    "Message": "turnkeep.messages",
    "OpenAIService": "turnkeep.service",
    "Settings": "turnkeep.settings",
    "TurnkeepError": "turnkeep.errors",
    "create_openai_config": "turnkeep.service",
    "tool": "turnkeep.tools",
}


if not TYPE_CHECKING:  # a type checker would take every name for public

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first asked for."""
        if name not in _PLACES:
            raise AttributeError(f"module 'turnkeep' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_PLACES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
