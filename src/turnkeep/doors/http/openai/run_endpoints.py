"""`/v1/threads/…/runs`: ordinary turns in the words of the Assistants API."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.responses import Response

from turnkeep.auth import acts
from turnkeep.doors.error_answers import JsonResponse
from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.doors.http.openai import thread_endpoints, turn_request
from turnkeep.doors.http.openai.assistant_profiles import check_resources, find_assistant, read_client_tools
from turnkeep.doors.http.openai.conversation_key import thread_of
from turnkeep.doors.http.openai.cursor_list import list_response
from turnkeep.doors.http.openai.openai_input import allow_wishes, id_from, message_of, read_parameters
from turnkeep.doors.http.openai.part_frames import frames_of
from turnkeep.doors.http.openai.run_events import RunEvents
from turnkeep.doors.http.openai.run_objects import TERMINAL, RunState, run_state, steps_of
from turnkeep.doors.http.openai.sdk_retries import find_run, is_retry
from turnkeep.doors.http.openai.thread_objects import RUN_PREFIX, thread_form
from turnkeep.doors.http.openai.turn_reader import TurnPart, TurnReader
from turnkeep.doors.http.sent_events import SentEvents, named_frame, response_resources
from turnkeep.errors import InvalidMessage, MessageFrozen, NotFound, NotOffered
from turnkeep.inputs import MAX_MODEL, optional_text
from turnkeep.messages import OutputItem, UserItem
from turnkeep.store.values import ThreadRecord

POLL_AFTER = "openai-poll-after-ms"
"""Without it the helpers of OpenAI's clients look every five seconds."""
POLL_MILLISECONDS = 300
NAMED_END_FRAME = b"event: done\ndata: [DONE]\n\n"
BUSY = "Thread {thread} already has an active run {run}."


async def begin_run(call: HttpCall) -> Response:
    record = await thread_of(call, call.path("thread_id"), "send", "read")
    return await _begin(call, record, await call.body())


async def begin_thread_and_run(call: HttpCall) -> Response:
    call.principal.require("read")
    body = await call.body()
    await _wishes(call, body)  # refused before a thread is made
    thread_endpoints.read_messages(call, body, "additional_messages")
    thread = body.get("thread") or {}
    if not isinstance(thread, Mapping):
        raise InvalidMessage("'thread' must be an object")
    record = await thread_endpoints.make_thread(call, thread)
    return await _begin(call, record, body, is_new=True)


async def _begin(call: HttpCall, record: ThreadRecord, body: Mapping[str, Any], *, is_new: bool = False) -> Response:
    wishes = await _wishes(call, body)
    before = await find_run(call, record.address) or await _named_run(call, record)
    more = thread_endpoints.read_messages(call, body, "additional_messages")
    if before is None:
        await _check_strict(call, record)
        for number, message in enumerate(more):
            await thread_endpoints.write(call, record, message, once=call.once_for(f"more\0{number}"))
    async with response_resources() as resources:
        resources.enter_context(call.limits.streaming(call.holder))
        reader = await resources.enter_async_context(TurnReader(call, record.address))
        run_id = before or await _accept(call, record, wishes)
        state = await run_state(call, record, run_id)
        if body.get("stream") is not True:
            await resources.aclose()
            return _answer(state)
        first = [("thread.created", thread_form(record))] if is_new else []
        return SentEvents(_frames(reader.parts(run_id), RunEvents(state, first=first)), resources.aclose)


async def _named_run(call: HttpCall, record: ThreadRecord) -> str | None:
    """The run that this request has begun before, by the name that its caller gave it."""
    run_id = _run_id(call)
    return run_id if run_id and await call.application.store.message(record.address, run_id) is not None else None


def _run_id(call: HttpCall) -> str | None:
    return None if call.once is None else id_from(call.once).replace("msg_", RUN_PREFIX)


async def _accept(call: HttpCall, record: ThreadRecord, wishes: Mapping[str, Any]) -> str:
    """A run is a message without words; its id is its own."""
    run_id = _run_id(call) or f"{RUN_PREFIX}{secrets.token_hex(12)}"
    message = message_of(call, record.address, content="run", message_id=run_id, wishes={**wishes, "flush": True})
    wordless = message.but(content=(), window=0.0, max_wait=0.0, on_busy="collect")
    await call.limits.accept(call.application, call.principal, wordless)
    return run_id


async def _wishes(call: HttpCall, body: Mapping[str, Any]) -> dict[str, Any]:
    assistant_id = optional_text(body, "assistant_id", MAX_MODEL)
    if assistant_id is None:
        raise InvalidMessage("'assistant_id' is missing: who shall answer")
    assistant = await find_assistant(call, assistant_id)
    check_resources(body.get("tool_resources"))
    default = await call.application.assistants.default(call.principal.tenant)
    is_default = default is not None and default.assistant_id == assistant_id
    own, more = (optional_text(body, name, 100_000) for name in ("instructions", "additional_instructions"))
    # In place of the assistant's, as there; who does not speak for the operator only adds some.
    replaces = own is not None and "manage" in call.principal.rights
    plain = {name: value for name, value in body.items() if value != "auto"}
    wishes = {
        # Who manages nothing is answered by the one that answers anyway.
        "assistant": None if is_default and "manage" not in call.principal.rights else assistant.assistant_id,
        "client_tools": read_client_tools(body.get("tools")),
        "assistant_instructions": own if replaces else None,
        "instructions": "\n\n".join(text for text in (None if replaces else own, more) if text) or None,
        "model": optional_text(body, "model", MAX_MODEL),
        "parameters": read_parameters({name: value for name, value in plain.items() if name != "tools"}),
        "metadata": body.get("metadata") or {},
    }
    allow_wishes(call, wishes)
    return wishes


async def _check_strict(call: HttpCall, record: ThreadRecord) -> None:
    if call.application.settings.openai_runs == "strict":
        waiting = await call.application.store.open_messages(record.address)
        if (run := thread_endpoints.active_run(waiting)) is not None:
            raise InvalidMessage(BUSY.format(thread=record.thread_id, run=run))


def _frames(parts: AsyncIterator[TurnPart], events: RunEvents) -> AsyncIterator[bytes]:
    return frames_of(parts, events, lambda frame: named_frame(*frame), end=NAMED_END_FRAME)


def _answer(state: RunState, status: str | None = None) -> Response:
    return JsonResponse(state.form(status), headers={POLL_AFTER: str(POLL_MILLISECONDS)})


# ---------------------------------------------------------------- runs that are there


async def _state(call: HttpCall, *scopes: Any) -> RunState:
    record = await thread_of(call, call.path("thread_id"), *scopes)
    return await run_state(call, record, call.path("run_id"))


async def show_run(call: HttpCall) -> Response:
    return _answer(await _state(call, "read"))


async def refuse_run_change(call: HttpCall) -> Response:
    await _state(call, "send", "read")
    raise NotOffered("the metadata of a run is not changed here: give it when the run begins, or to the thread")


async def list_thread_runs(call: HttpCall) -> Response:
    record = await thread_of(call, call.path("thread_id"), "read")
    store = call.application.store
    history = await store.history(record.address)
    ids = [e.item.message_id for e in history.entries if isinstance(e.item, UserItem)]
    ids += [one.message_id for one in await store.open_messages(record.address)]
    # A run that nobody could answer is in no transcript, and is remembered as long as other runs are.
    ids += [one for run in reversed(await store.runs(record.address)) for one in run.message_ids]
    run_ids = dict.fromkeys(one for one in ids if one and one.startswith(RUN_PREFIX))
    states = [await run_state(call, record, run_id, history) for run_id in run_ids]
    return list_response(call, [state.form() for state in states])


async def submit_outputs(call: HttpCall) -> Response:
    """Give what the caller's functions gave: all of them at once; the run goes on."""
    state = await _state(call, "approve", "read")
    body = await call.body()
    outputs = _outputs(body.get("tool_outputs"))
    before = _repeated_calls(call, state, outputs)
    if not state.calls and not before:
        raise InvalidMessage(f'Runs in status "{state.status}" do not accept tool outputs.')
    call_ids = [one.call_id for one in state.calls]
    if set(call_ids) != set(outputs) - before:
        raise InvalidMessage(f"Expected tool outputs for call_ids {call_ids}, got {list(outputs)}")
    if body.get("stream") is not True:
        await turn_request.give(call, state.thread.address, state.calls, outputs)
        current = await run_state(call, state.thread, state.run_id)
        return _answer(current, "queued" if state.calls else None)
    async with response_resources() as resources:
        resources.enter_context(call.limits.streaming(call.holder))
        answer = await turn_request.follow_outputs(call, state.thread, outputs, resources)
        events = RunEvents(state, base=answer.reader.base_length, continues=True)
        return SentEvents(_frames(answer.reader.parts(state.run_id), events), resources.aclose)


def _repeated_calls(call: HttpCall, state: RunState, outputs: Mapping[str, str]) -> set[str]:
    """Of these calls, those that have this output already: of a request that its caller names or repeats."""
    if call.once is None and not is_retry(call):
        return set()
    there = {one.call_id: one.output for one in state.thread.calls if one.decision == "output"}
    there |= {e.item.call_id: e.item.output for e in state.entries if isinstance(e.item, OutputItem)}
    return {call_id for call_id, output in outputs.items() if there.get(call_id) == output}


def _outputs(value: object) -> dict[str, str]:
    if not isinstance(value, list) or not all(map(_is_output, value)):
        raise InvalidMessage("'tool_outputs' must be a list of objects with 'tool_call_id' and 'output', both texts")
    return {one["tool_call_id"]: one.get("output") or "" for one in value}


def _is_output(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and isinstance(value.get("tool_call_id"), str)
        and isinstance(value.get("output"), str | None)
    )


async def cancel_run(call: HttpCall) -> Response:
    state = await _state(call, "send", "read")
    status, address = state.status, state.thread.address
    if status in TERMINAL:
        raise InvalidMessage(f"Cannot cancel run with status '{status}'.")
    if status == "queued":
        try:
            await acts.own_message(call.application, call.principal, address, state.run_id)
            await call.application.store.withdraw(address, state.run_id, once=call.once)
            return _answer(state, "cancelled")
        except (MessageFrozen, NotFound):
            pass  # it has begun meanwhile
    await acts.stop(call.application, call.principal, address, drop_inbox=False, once=call.once)
    return _answer(state, "cancelling")


async def list_run_steps(call: HttpCall) -> Response:
    return list_response(call, await steps_of(call, await _state(call, "read")))


async def show_run_step(call: HttpCall) -> Response:
    step_id = call.path("step_id")
    for step in await steps_of(call, await _state(call, "read")):
        if step["id"] == step_id:
            return JsonResponse(step)
    raise NotFound(f"No run step found with id '{step_id[:80]}'.")
