"""A run, its requests and its calls in the words of OpenTelemetry's conventions for generative AI.

Made only where somebody traces (`telemetry.traces.span`).
"""

from __future__ import annotations

from turnkeep.assistants import Assistant
from turnkeep.messages import CallItem
from turnkeep.models.model import Began, ModelRequest, output_limit
from turnkeep.runs.journal import Step
from turnkeep.store.values import Claim

Attributes = dict[str, object]

_FINISH = {"calls": "tool_calls", "filter": "content_filter"}


def _provider_of(model: str) -> str:
    """Whose protocol is spoken, in a word of the conventions: a server of OpenAI's kind has none of its own."""
    return "anthropic" if model.startswith("claude") else "openai"


def run_attributes(claim: Claim, assistant: Assistant) -> Attributes:
    return {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": _provider_of(assistant.model),
        "gen_ai.agent.name": assistant.name,
        "gen_ai.agent.id": assistant.assistant_id or None,
        "gen_ai.request.model": assistant.model,
        "gen_ai.conversation.id": claim.thread_id,
        "turnkeep.run.id": claim.run_id,
        "turnkeep.run.attempt": claim.attempt,
        "turnkeep.batch.messages": len(claim.messages),
    }


def request_attributes(request: ModelRequest) -> Attributes:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _provider_of(request.model),
        "gen_ai.request.model": request.model,
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": output_limit(request.parameters),
        "gen_ai.request.temperature": request.parameters.get("temperature"),
        "gen_ai.conversation.id": request.cache_key,
    }


def response_attributes(step: Step, began: Began | None) -> Attributes:
    usage = step.usage
    return {
        "gen_ai.response.id": began.response_id if began else None,
        "gen_ai.response.model": step.model,
        "gen_ai.response.finish_reasons": [_FINISH.get(step.ending, step.ending)],
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }


def call_attributes(name: str, item: CallItem) -> Attributes:
    return {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": name,
        "gen_ai.tool.call.id": item.call_id,
        "gen_ai.tool.type": "function",
    }
