"""What other people's programs call: a queue of conversations, under the names that they know from
before.
"""

from turnkeep.queue.assistant_message_queue import AssistantMessageQueue
from turnkeep.queue.operator_methods import QueueStatus

__all__ = ["AssistantMessageQueue", "QueueStatus"]
