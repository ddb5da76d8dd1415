"""A thread's history within a budget of tokens and a time to live."""

from turnkeep.conversation.manager import Conversation, ConversationManager, recall
from turnkeep.conversation.pruning import prune
from turnkeep.conversation.role_messages import content_of, items_of, messages_of
from turnkeep.conversation.summary import Summarize, summary_by

__all__ = [
    "Conversation",
    "ConversationManager",
    "Summarize",
    "content_of",
    "items_of",
    "messages_of",
    "prune",
    "recall",
    "summary_by",
]
