"""The object of the Responses dialect: every field is there, null where it is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, Self

from turnkeep.doors.http.openai.chat_chunks import run_metadata
from turnkeep.doors.http.openai.conversation_key import AnswerName
from turnkeep.doors.http.openai.turn_reader import TurnEnd, TurnFailure
from turnkeep.events import TurnFault
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Message, UserItem
from turnkeep.store.values import HeldCall
from turnkeep.usage import Usage

ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "cancelled", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHead:
    """What a response is, before anything is said: what was asked."""

    name: AnswerName
    created_at: float
    model: str
    instructions: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    client_tools: Sequence[Mapping[str, Any]] = ()
    previous_response_id: str | None = None
    conversation: str | None = None
    background: bool = False
    store: bool = True

    @classmethod
    def of_item(cls, name: AnswerName, item: UserItem | Message, at: float, default_model: str) -> Self:
        """Of a message as it is stored."""
        return cls(
            name=name, created_at=at, model=item.assistant or default_model, metadata=item.metadata or {},
            instructions=item.instructions or item.user_instructions, parameters=item.parameters or {},
            client_tools=item.client_tools,
        )  # fmt: skip

    @property
    def id(self) -> str:
        return self.name.id("resp")


def response(
    head: ResponseHead,
    status: ResponseStatus,
    output: Sequence[Mapping[str, Any]] = (),
    *,
    end: TurnEnd | None = None,
    fault: TurnFault | None = None,
    completed_at: float | None = None,
) -> dict[str, Any]:
    parameters = head.parameters
    metadata = {**head.metadata, **(run_metadata(end) if end else {})}
    incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
    data: dict[str, Any] = {
        "id": head.id, "object": "response", "created_at": int(head.created_at),
        "completed_at": None if completed_at is None else int(completed_at), "status": status,
        "incomplete_details": incomplete, "model": head.model, "previous_response_id": head.previous_response_id,
        "instructions": head.instructions, "output": list(output),
        "error": {"code": fault.code, "message": fault.message} if fault else None,
        "tools": [tool_form(tool) for tool in head.client_tools], "tool_choice": parameters.get("tool_choice", "auto"),
        "truncation": parameters.get("truncation", "disabled"),
        "parallel_tool_calls": parameters.get("parallel_tool_calls", True),
        "text": parameters.get("text") or {"format": {"type": "text"}}, "top_p": parameters.get("top_p", 1.0),
        "presence_penalty": parameters.get("presence_penalty", 0.0),
        "frequency_penalty": parameters.get("frequency_penalty", 0.0),
        "top_logprobs": parameters.get("top_logprobs", 0), "temperature": parameters.get("temperature", 1.0),
        "reasoning": _reasoning(parameters.get("reasoning")), "user": None,
        "usage": usage_form(end.usage) if end else None,
        "max_output_tokens": parameters.get("max_output_tokens"),
        "max_tool_calls": parameters.get("max_tool_calls"), "store": head.store, "background": head.background,
        "service_tier": parameters.get("service_tier", "default"), "metadata": metadata, "safety_identifier": None,
        "prompt_cache_key": None,
    }  # fmt: skip
    if head.conversation is not None:
        data["conversation"] = {"id": head.conversation}
    return data


def response_of_end(
    head: ResponseHead, part: TurnEnd | TurnFailure, *, now: float, thoughts: str = ""
) -> dict[str, Any]:
    """A response whose turn has ended, whole."""
    if isinstance(part, TurnFailure):
        return response(head, "failed", fault=part.fault)
    item_status = "completed" if part.outcome == "completed" else "incomplete"
    output = [message_item(message_item_id(head.name, 0), part.text, item_status)] if part.text else []
    if thoughts:
        output.insert(0, reasoning_item(thought_item_id(head.name, 0), thoughts))
    return response(head, status_of_end(part), output, end=part, completed_at=now)


def status_of_end(end: TurnEnd) -> ResponseStatus:
    match end.outcome:
        case "cancelled":
            return "cancelled"
        case "incomplete":
            return "incomplete"
    return "completed"


def message_item_id(name: AnswerName, number: int) -> str:
    stem = f"{name.message_id.removeprefix('msg_')}{name.segment:02x}"
    return f"msg_{stem}" if not number else f"msg_{stem}_{number}"


def thought_item_id(name: AnswerName, number: int) -> str:
    return message_item_id(name, number).replace("msg_", "rs_")


def message_item(item_id: str, text: str, status: str) -> dict[str, Any]:
    return {
        "id": item_id, "type": "message", "role": "assistant", "status": status, "content": [text_part(text)],
    }  # fmt: skip


def reasoning_item(item_id: str, text: str, status: str | None = None) -> dict[str, Any]:
    summary = [summary_part(text)] if text else []
    return {"id": item_id, "type": "reasoning", "summary": summary} | ({"status": status} if status else {})


def summary_part(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def call_item(call: HeldCall, *, status: str = "completed", arguments: str | None = None) -> dict[str, Any]:
    return {
        "id": f"fc_{call.call_id}", "type": "function_call", "call_id": call.call_id, "name": call.name,
        "arguments": call.arguments if arguments is None else arguments, "status": status,
    }  # fmt: skip


def tool_form(tool: Mapping[str, Any]) -> dict[str, Any]:
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", **{name: tool.get(name) for name in names}}


def usage_form(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def _reasoning(wish: object) -> dict[str, Any] | None:
    return {"effort": wish.get("effort"), "summary": wish.get("summary")} if isinstance(wish, Mapping) else None
