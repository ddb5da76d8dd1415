"""What has come of one model call so far, and the call in the words of the tracing conventions."""

from __future__ import annotations

from dataclasses import dataclass, field

from turnkeep.messages import AssistantItem, CallItem, HostedItem, ReasoningItem
from turnkeep.models.model import Began, Finish, ModelRequest
from turnkeep.models.parameters import output_limit
from turnkeep.runs.journal import SEPARATOR, Step

_FINISH = {"calls": "tool_calls", "filter": "content_filter"}


@dataclass(slots=True)
class PartialStep:
    """What has come of one model call so far."""

    before: str
    text: str = ""
    repeats: int = 0
    """How many characters that come again have been shown, with what stands between two steps."""
    items: list[AssistantItem | ReasoningItem | HostedItem | CallItem] = field(default_factory=list)
    began: Began | None = None
    finish: Finish | None = None

    @property
    def item_place(self) -> int:
        """Where in the answer the text of the next item begins."""
        lead = len(self.before) + len(SEPARATOR) if self.before else 0
        return lead + sum(len(item.text) for item in self.items if isinstance(item, AssistantItem))

    def new_part(self, text: str) -> str:
        """What of a piece of text was not shown before the stream broke."""
        shown_length = self.repeats - (len(SEPARATOR) if self.before else 0)
        return text[max(0, shown_length - len(self.text)) :]


def request_attributes(request: ModelRequest) -> dict[str, object]:
    """A request in the words of the tracing conventions."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": request.model,
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": output_limit(request.parameters),
        "gen_ai.request.temperature": request.parameters.get("temperature"),
        "gen_ai.conversation.id": request.cache_key,
    }


def response_attributes(step: Step, partial: PartialStep) -> dict[str, object]:
    usage = step.usage
    return {
        "gen_ai.response.id": partial.began.response_id if partial.began else None,
        "gen_ai.response.model": step.model,
        "gen_ai.response.finish_reasons": [_FINISH.get(step.ending, step.ending)],
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
