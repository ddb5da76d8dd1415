"""`POST /v1/chat/completions`: every client resends the conversation, and waits for the turn that
answers the end of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.responses import Response

from turnkeep.doors.error_answers import JsonResponse
from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.doors.http.openai import openai_input
from turnkeep.doors.http.openai.chat_chunks import ChatChunks, completion
from turnkeep.doors.http.openai.conversation_key import conversation_of, is_beside, without_channel
from turnkeep.doors.http.openai.openai_errors import fault_response
from turnkeep.doors.http.openai.part_frames import frames_of
from turnkeep.doors.http.openai.sdk_retries import is_retry
from turnkeep.doors.http.openai.turn_reader import CallerGone, OutputsWanted, TurnEnd, TurnFailure
from turnkeep.doors.http.openai.turn_request import TurnAnswer, TurnRequest, ask, call_id_alone, question_id
from turnkeep.doors.http.sent_events import SentEvents, data_frame
from turnkeep.errors import InvalidMessage
from turnkeep.inputs import MAX_MODEL, optional_text

MAX_MESSAGES = 10_000
ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})


async def complete_chat(call: HttpCall) -> Response:
    body = await call.body()
    address = conversation_of(call, body)
    messages = _messages(body)
    if is_beside(call, messages):
        address = None
    model = await answering_assistant(call, body)
    request = TurnRequest(
        messages=messages, wishes=wishes_of(body, messages) | {"assistant": model}, compares=True,
        is_retry=is_retry(call), message_id=question_id(call),
    )  # fmt: skip
    answer = await ask(call, address, request)
    shown_model = str(body["model"])
    created_at = int(call.application.clock.now())
    is_alone = address is None
    if body.get("stream") is True:
        options = body.get("stream_options")
        usage = isinstance(options, Mapping) and options.get("include_usage") is True
        chunks = ChatChunks(answer.question.name.id("chatcmpl"), shown_model, created_at, tells_usage=usage)
        return SentEvents(frames_of(_parts(answer, is_alone=is_alone), chunks, data_frame), answer.close)
    return await answer.wait_for(_whole(answer, shown_model, created_at, is_alone=is_alone))


def _messages(body: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidMessage(f"'messages' must be a list of 1 to {MAX_MESSAGES} messages")
    for message in messages:
        if not isinstance(message, Mapping) or str(message.get("role")) not in ROLES:
            raise InvalidMessage(f"each message must be an object whose 'role' is one of {', '.join(sorted(ROLES))}")
    return messages


def wishes_of(body: Mapping[str, Any], messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a request asks of its answer."""
    return {
        "client_tools": openai_input.read_functions(body.get("tools")),
        "instructions": openai_input.instructions_of(messages, body.get("instructions")),
        "parameters": openai_input.read_parameters(body),
        "metadata": without_channel(body.get("metadata")),
        "user": body.get("user"),
    }


async def answering_assistant(call: HttpCall, body: Mapping[str, Any]) -> str | None:
    """The assistant that is asked for as `model`; None: it would answer anyway. Raises `NotFound`."""
    model = optional_text(body, "model", MAX_MODEL)
    if model is None:
        raise InvalidMessage("'model' is missing: give the id of an assistant, as GET /v1/models lists them")
    default = await call.application.assistants.default(call.principal.tenant)
    if default is not None and default.assistant_id == model and "manage" not in call.principal.rights:
        return None
    return (await call.application.assistants.get(call.principal.tenant, model)).assistant_id


async def _whole(answer: TurnAnswer, model: str, created_at: int, *, is_alone: bool) -> Response:
    async for part in _parts(answer, is_alone=is_alone):
        if isinstance(part, TurnFailure):
            return fault_response(part.fault)
        if isinstance(part, TurnEnd | OutputsWanted):
            name = answer.question.name.id("chatcmpl")
            text, thoughts = answer.text_so_far, answer.thoughts_so_far
            return JsonResponse(completion(name, model, created_at, part, text=text, thoughts=thoughts))
    raise CallerGone


async def _parts(answer: TurnAnswer, *, is_alone: bool) -> AsyncIterator[Any]:
    async for part in answer.parts():
        if isinstance(part, OutputsWanted) and is_alone:
            # the next request has nothing else that names this conversation
            yield part.with_ids(lambda call_id: call_id_alone(answer.question, call_id))
        else:
            yield part
