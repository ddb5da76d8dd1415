"""One answer, streamed, counted and priced: `OpenAIService`."""

from turnkeep.service.chunks import Chunk, Completion, Metadata, Timings, ToolCall, ToolResult
from turnkeep.service.config import OpenAIConfig, create_openai_config
from turnkeep.service.openai_service import OpenAIService
from turnkeep.service.retries import RetryConfig

__all__ = [
    "Chunk",
    "Completion",
    "Metadata",
    "OpenAIConfig",
    "OpenAIService",
    "RetryConfig",
    "Timings",
    "ToolCall",
    "ToolResult",
    "create_openai_config",
]
