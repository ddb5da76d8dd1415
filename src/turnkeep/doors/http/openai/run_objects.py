"""Runs and their steps in the words of the Assistants API, as records and transcript have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from turnkeep.assistants import Assistant
from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.doors.http.openai.assistant_profiles import function_form
from turnkeep.doors.http.openai.openai_input import id_from, seen_calls
from turnkeep.doors.http.openai.thread_objects import RUN_PREFIX, said_id
from turnkeep.doors.http.openai.turn_reader import texts_of
from turnkeep.doors.http.openai.turn_segments import client_names
from turnkeep.errors import NotFound
from turnkeep.events import TurnFault
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import AssistantItem, CallItem, Message, OutputItem, UserItem
from turnkeep.store.values import HeldCall, History, MessageRecord, RunRecord, ThreadRecord, TranscriptEntry
from turnkeep.usage import Usage

TERMINAL = frozenset({"completed", "incomplete", "cancelled", "failed", "expired"})
ERROR_CODES = {"model_rate_limited": "rate_limit_exceeded", "budget_spent": "rate_limit_exceeded",
               "model_refused": "invalid_prompt"}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run as it is now."""

    run_id: str
    thread: ThreadRecord
    record: MessageRecord
    wish: Message | UserItem | None
    assistant: Assistant
    run: RunRecord | None = None
    entries: Sequence[TranscriptEntry] = ()

    @property
    def calls(self) -> tuple[HeldCall, ...]:
        """What the caller is to give the outputs of."""
        if self.record.status != "running" or self.thread.state != "held":
            return ()
        return tuple(call for call in self.thread.calls if call.kind == "output" and call.decision is None)

    @property
    def status(self) -> str:
        match self.record.status:
            case "waiting" | "delayed":
                return "queued"
            case "running":
                return "requires_action" if self.calls else "in_progress"
            case "dead":
                return "failed"
            case "cancelled" | "withdrawn":
                return "cancelled"
        return self.run.status if self.run is not None and self.run.status in TERMINAL else "completed"

    def form(self, status: str | None = None) -> dict[str, Any]:
        """The object of the API; `status`, where it is known better."""
        status = status or self.status
        return run_form(self, status)


async def run_state(call: HttpCall, thread: ThreadRecord, run_id: str, history: History | None = None) -> RunState:
    """Raises `NotFound`. `history`: where it was read already."""
    store = call.application.store
    record = await store.message(thread.address, run_id) if run_id.startswith(RUN_PREFIX) else None
    if record is None:
        raise NotFound(f"No run found with id '{run_id[:80]}'.")
    wish: Message | UserItem | None = record.message
    run, entries = None, []
    if wish is None:
        runs = await store.runs(thread.address)
        run = next((one for one in runs if run_id in one.message_ids), None)
        history = history or await store.history(thread.address)
        users = [(e.turn, e.item) for e in history.entries if isinstance(e.item, UserItem)]
        turn, wish = next(((t, item) for t, item in users if item.message_id == run_id), (0, None))
        entries = [entry for entry in history.entries if entry.turn == turn] if wish else []
    thread = replace(thread, calls=seen_calls(call, thread.calls))
    assistant_id = wish.assistant if wish and wish.assistant else thread.assistant
    assistant = await call.application.assistants.answering(thread.address.tenant, assistant_id)
    return RunState(
        run_id=run_id, thread=thread, record=record, wish=wish, assistant=assistant, run=run, entries=entries
    )


def run_form(state: RunState, status: str) -> dict[str, Any]:
    wish, run = state.wish, state.run
    parameters = {**state.assistant.parameters, **((wish.parameters if wish else None) or {})}
    tools = {tool["name"]: tool for tool in (*state.assistant.client_tools, *(wish.client_tools if wish else ()))}
    ended_at = state.record.settled_at
    fault = run.fault if run is not None else None
    return {
        "id": state.run_id, "object": "thread.run", "created_at": _created_at(state),
        "thread_id": state.thread.thread_id, "assistant_id": state.assistant.assistant_id, "status": status,
        "required_action": action_form(state.calls) if status == "requires_action" else None,
        "last_error": _error(fault) if status == "failed" else None,
        "expires_at": int(state.thread.due) if status == "requires_action" and state.thread.due else None,
        "started_at": int(run.started_at) if run else None,
        "cancelled_at": _at(ended_at, status, "cancelled"), "failed_at": _at(ended_at, status, "failed"),
        "completed_at": _at(ended_at, status, "completed"),
        "incomplete_details": {"reason": "max_completion_tokens"} if status == "incomplete" else None,
        "model": (run.model if run else None) or (wish.model if wish else None) or state.assistant.model,
        "instructions": _instructions(state), "tools": [function_form(tool) for tool in tools.values()],
        "metadata": dict((wish.metadata if wish else None) or {}),
        "usage": usage_form(run.usage) if run is not None and status in TERMINAL else None,
        "temperature": parameters.get("temperature", 1.0), "top_p": parameters.get("top_p", 1.0),
        "max_prompt_tokens": None, "max_completion_tokens": parameters.get("max_completion_tokens"),
        "truncation_strategy": {"type": "auto", "last_messages": None},
        "response_format": parameters.get("response_format", "auto"),
        "tool_choice": parameters.get("tool_choice", "auto"),
        "parallel_tool_calls": parameters.get("parallel_tool_calls", True), "tool_resources": {},
    }  # fmt: skip


def _created_at(state: RunState) -> int:
    if isinstance(state.wish, Message):
        return int(state.wish.arrival)
    if state.wish is not None:
        return int(state.wish.at)
    return int(state.record.settled_at or 0)


def _at(moment: float | None, status: str, at_status: str) -> int | None:
    return int(moment) if moment is not None and status == at_status else None


def _instructions(state: RunState) -> str:
    wish = state.wish
    own = wish.assistant_instructions if wish else None
    more = (wish.instructions or wish.user_instructions) if wish else None
    return "\n\n".join(text for text in (own or state.assistant.instructions, more) if text)


def _error(fault: TurnFault | None) -> dict[str, str]:
    if fault is None:
        return {"code": "server_error", "message": "The run could not be answered."}
    return {"code": ERROR_CODES.get(fault.code, "server_error"), "message": fault.message}


def action_form(calls: Sequence[HeldCall]) -> dict[str, Any]:
    return {
        "type": "submit_tool_outputs",
        "submit_tool_outputs": {"tool_calls": [call_form(one) for one in calls]},
    }


def call_form(call: HeldCall, *, output: str | None = None, shows_output: bool = False) -> dict[str, Any]:
    function: dict[str, Any] = {"name": call.name, "arguments": call.arguments}
    if shows_output:
        function["output"] = output
    return {"id": call.call_id, "type": "function", "function": function}


def usage_form(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }


# ---------------------------------------------------------------- steps


async def steps_of(call: HttpCall, state: RunState) -> list[dict[str, Any]]:
    """What was done, oldest first: messages, and calls of the caller's functions. Tools of the house
    run unseen.
    """
    if not state.entries:
        return [step_of_calls(state, state.calls, {}, status="in_progress")] if state.calls else []
    names = await client_names(call, state.thread, state.entries)
    ids = [e.item.message_id or "" for e in state.entries if isinstance(e.item, UserItem)]
    items = [entry.item for entry in state.entries]
    open_ids = {item.call_id for item in items if isinstance(item, CallItem) and item.show == "all"}
    outputs = {
        item.call_id: item.output
        for item in items
        if isinstance(item, OutputItem) and (call.principal.sees_calls or item.call_id in open_ids)
    }
    places = iter([said_id(ids, state.entries[-1].turn, place) for place, _ in texts_of(state.entries)])
    steps: list[dict[str, Any]] = []
    group: list[HeldCall] = []
    continues = False
    for item in items:
        if isinstance(item, CallItem) and item.name in names:
            group.append(HeldCall(item.call_id, item.name, item.arguments, "", show=item.show))
        elif group and not isinstance(item, OutputItem):
            steps, group = [*steps, step_of_calls(state, seen_calls(call, group), outputs)], []
        if isinstance(item, AssistantItem) and item.text:
            if not continues:
                steps.append(step_of_message(state, next(places)))
            continues = True
        elif item.kind in ("call", "output", "user"):
            continues = False
    return [*steps, *([step_of_calls(state, seen_calls(call, group), outputs)] if group else [])]


def step_of_message(state: RunState, message_id: str, *, status: str = "completed") -> dict[str, Any]:
    details = {"type": "message_creation", "message_creation": {"message_id": message_id}}
    return _step(state, id_from(state.run_id, message_id), details, status)


def step_of_calls(
    state: RunState, calls: Sequence[HeldCall], outputs: dict[str, str], *, status: str = "completed"
) -> dict[str, Any]:
    forms = [call_form(one, output=outputs.get(one.call_id), shows_output=True) for one in calls]
    details = {"type": "tool_calls", "tool_calls": forms}
    return _step(state, id_from(state.run_id, *(one.call_id for one in calls)), details, status)


def _step(state: RunState, name: str, details: dict[str, Any], status: str) -> dict[str, Any]:
    ended_at = int(state.record.settled_at) if state.record.settled_at and status == "completed" else None
    return {
        "id": name.replace("msg_", "step_"), "object": "thread.run.step", "created_at": _created_at(state),
        "assistant_id": state.assistant.assistant_id, "thread_id": state.thread.thread_id, "run_id": state.run_id,
        "type": details["type"], "status": status, "step_details": details, "last_error": None, "expired_at": None,
        "cancelled_at": None, "failed_at": None, "completed_at": ended_at, "metadata": {}, "usage": None,
    }  # fmt: skip
