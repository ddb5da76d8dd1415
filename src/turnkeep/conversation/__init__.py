"""A thread's history within a budget of tokens and a time to live."""

from turnkeep.conversation.manager import Conversation, ConversationManager, recall
from turnkeep.conversation.pruning import prune
from turnkeep.conversation.role_messages import content_of, items_of, messages_of
from turnkeep.conversation.summary import Summarize, summary_by
from turnkeep.conversation.token_count import count_tokens

__all__ = [
    "Conversation",
    "ConversationManager",
    "Summarize",
    "content_of",
    "count_tokens",
    "items_of",
    "messages_of",
    "prune",
    "recall",
    "summary_by",
]
