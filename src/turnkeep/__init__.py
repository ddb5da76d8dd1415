"""turnkeep keeps the turns of a conversation."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from turnkeep.conversation import Conversation, ConversationManager, count_tokens
    from turnkeep.errors import NoAnswer, Rejection, TurnkeepError
    from turnkeep.events import Event
    from turnkeep.messages import Message
    from turnkeep.pricing import PriceBook, cost_of
    from turnkeep.queue import AssistantMessageQueue, QueueStatus, SyncAssistantMessageQueue
    from turnkeep.service import (
        Chunk,
        Completion,
        OpenAIConfig,
        OpenAIService,
        RetryConfig,
        ToolCall,
        create_openai_config,
    )
    from turnkeep.settings import Settings
    from turnkeep.store.values import DeadLetter, HeldCall, MessageRecord, Receipt, RunRecord, ThreadRecord
    from turnkeep.tools import Tool, Toolbox, tool
    from turnkeep.usage import Usage

    __version__: str

__all__ = [
    "AssistantMessageQueue",
    "Chunk",
    "Completion",
    "Conversation",
    "ConversationManager",
    "DeadLetter",
    "Event",
    "HeldCall",
    "Message",
    "MessageRecord",
    "NoAnswer",
    "OpenAIConfig",
    "OpenAIService",
    "PriceBook",
    "QueueStatus",
    "Receipt",
    "Rejection",
    "RetryConfig",
    "RunRecord",
    "Settings",
    "SyncAssistantMessageQueue",
    "ThreadRecord",
    "Tool",
    "ToolCall",
    "Toolbox",
    "TurnkeepError",
    "Usage",
    "cost_of",
    "count_tokens",
    "create_openai_config",
    "tool",
]

# imported on demand: a program that needs a message type does not pay for a server
_PLACES = {
    "AssistantMessageQueue": "turnkeep.queue",
    "Chunk": "turnkeep.service",
    "Completion": "turnkeep.service",
    "Conversation": "turnkeep.conversation",
    "ConversationManager": "turnkeep.conversation",
    "DeadLetter": "turnkeep.store.values",
    "Event": "turnkeep.events",
    "HeldCall": "turnkeep.store.values",
    "Message": "turnkeep.messages",
    "MessageRecord": "turnkeep.store.values",
    "NoAnswer": "turnkeep.errors",
    "OpenAIConfig": "turnkeep.service",
    "OpenAIService": "turnkeep.service",
    "PriceBook": "turnkeep.pricing",
    "QueueStatus": "turnkeep.queue",
    "Receipt": "turnkeep.store.values",
    "Rejection": "turnkeep.errors",
    "RetryConfig": "turnkeep.service",
    "RunRecord": "turnkeep.store.values",
    "Settings": "turnkeep.settings",
    "SyncAssistantMessageQueue": "turnkeep.queue",
    "ThreadRecord": "turnkeep.store.values",
    "Tool": "turnkeep.tools",
    "ToolCall": "turnkeep.service",
    "Toolbox": "turnkeep.tools",
    "TurnkeepError": "turnkeep.errors",
    "Usage": "turnkeep.usage",
    "cost_of": "turnkeep.pricing",
    "count_tokens": "turnkeep.conversation",
    "create_openai_config": "turnkeep.service",
    "tool": "turnkeep.tools",
}


if not TYPE_CHECKING:  # a type checker would take every name for public

    def __getattr__(name: str) -> Any:
        """Import a public name when it is first asked for."""
        if name == "__version__":
            return import_module("importlib.metadata").version("turnkeep")
        if name not in _PLACES:
            raise AttributeError(f"module 'turnkeep' has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_PLACES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
