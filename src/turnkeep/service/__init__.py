"""One answer, streamed, counted and priced: `OpenAIService`."""

from turnkeep.service.chunks import (
    Chunk,
    Completion,
    ContentChunk,
    DoneChunk,
    ErrorChunk,
    Metadata,
    Timings,
    ToolCall,
    ToolCallChunk,
    ToolResult,
    ToolResultChunk,
)
from turnkeep.service.config import OpenAIConfig, create_openai_config
from turnkeep.service.openai_service import OpenAIService
from turnkeep.service.retries import RetryConfig

__all__ = [
    "Chunk",
    "Completion",
    "ContentChunk",
    "DoneChunk",
    "ErrorChunk",
    "Metadata",
    "OpenAIConfig",
    "OpenAIService",
    "RetryConfig",
    "Timings",
    "ToolCall",
    "ToolCallChunk",
    "ToolResult",
    "ToolResultChunk",
    "create_openai_config",
]
