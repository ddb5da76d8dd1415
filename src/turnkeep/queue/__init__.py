"""What other people's programs call: a queue of conversations, under the names that
they know from before.
"""

from turnkeep.queue.assistant_message_queue import AssistantMessageQueue
from turnkeep.queue.operator_methods import QueueStatus
from turnkeep.queue.sync_face import SyncAssistantMessageQueue

__all__ = ["AssistantMessageQueue", "QueueStatus", "SyncAssistantMessageQueue"]
