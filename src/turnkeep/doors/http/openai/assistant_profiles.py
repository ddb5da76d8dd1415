"""`/v1/assistants`: our assistants in the words of the Assistants API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from turnkeep.assistant_input import assistant_fields
from turnkeep.assistants import FUNCTION, Assistant
from turnkeep.doors.error_answers import JsonResponse
from turnkeep.doors.http.endpoint import HttpCall, audit
from turnkeep.doors.http.openai.cursor_list import list_response
from turnkeep.doors.http.openai.openai_input import read_functions, read_parameters
from turnkeep.errors import InvalidMessage, NotFound, NotOffered
from turnkeep.inputs import MAX_MODEL, optional_text

HOSTED_THERE = {
    "file_search": "nothing is searched here: give the assistant a tool that searches where your documents are",
    "code_interpreter": "code is not run here: give the assistant a tool of the house, such as `execute_bash` in its "
    "sandbox",
}
"""Tools of the Assistants API that ran at OpenAI, and the way out."""


async def create_profile(call: HttpCall) -> Response:
    values = profile_fields(await call.body())
    if "model" not in values:
        raise InvalidMessage("'model' is missing: the name of the model that answers")
    # A program that knows nothing of the tools of this house gets none.
    values.setdefault("tools", [])
    assistant = await call.application.assistants.create(
        call.principal.tenant, values, now=call.application.clock.now()
    )
    await audit(call, "assistant_created", assistant=assistant.assistant_id, fields=values)
    return JsonResponse(profile_form(assistant))


async def list_profiles(call: HttpCall) -> Response:
    assistants = await call.application.assistants.list(call.principal.tenant)
    assistants.sort(key=lambda one: (one.created_at, one.assistant_id))
    return list_response(call, [profile_form(one) for one in assistants])


async def show_profile(call: HttpCall) -> Response:
    return JsonResponse(profile_form(await _assistant(call)))


async def change_profile(call: HttpCall) -> Response:
    current = await _assistant(call)
    values = profile_fields(await call.body(empty=True), current)
    assistant = await call.application.assistants.change(call.principal.tenant, current.assistant_id, values)
    await audit(call, "assistant_changed", assistant=assistant.assistant_id, fields=values)
    return JsonResponse(profile_form(assistant))


async def delete_profile(call: HttpCall) -> Response:
    assistant = await _assistant(call)
    await call.application.assistants.delete(call.principal.tenant, assistant.assistant_id)
    await audit(call, "assistant_deleted", assistant=assistant.assistant_id)
    return JsonResponse({"id": assistant.assistant_id, "object": "assistant.deleted", "deleted": True})


async def _assistant(call: HttpCall) -> Assistant:
    return await find_assistant(call, call.path("assistant_id"))


async def find_assistant(call: HttpCall, assistant_id: str) -> Assistant:
    """Raises `NotFound` in OpenAI's words."""
    try:
        return await call.application.assistants.get(call.principal.tenant, assistant_id)
    except NotFound:
        raise NotFound(f"No assistant found with id '{assistant_id[:80]}'.") from None


def profile_fields(body: Mapping[str, Any], current: Assistant | None = None) -> dict[str, Any]:
    """What can be kept of it, in our words. Raises `InvalidMessage`, `NotOffered`."""
    values: dict[str, Any] = {
        name: body[name] for name in ("model", "name", "instructions", "metadata") if body.get(name)
    }
    if body.get("description"):
        optional_text(body, "description", 512)
    if "tools" in body:
        values["tools"] = _tools(body["tools"], current)
    if parameters := read_parameters(_without_auto(body)):
        values["parameters"] = {**(current.parameters if current else {}), **parameters}
    check_resources(body.get("tool_resources"))
    return assistant_fields(values)


def _without_auto(body: Mapping[str, Any]) -> dict[str, Any]:
    """`auto` is what everything is without a word."""
    return {name: value for name, value in body.items() if value != "auto"}


def check_resources(resources: object) -> None:
    """Files that a tool of OpenAI's should see. Raises `NotOffered` where there are some."""
    for name, resource in resources.items() if isinstance(resources, Mapping) else ():
        if isinstance(resource, Mapping) and any(resource.values()):
            raise NotOffered(f"'tool_resources': {HOSTED_THERE.get(str(name), HOSTED_THERE['file_search'])}")


def read_client_tools(tools: object) -> tuple[dict[str, Any], ...]:
    """The functions among the tools of a run or an assistant. Raises `NotOffered` for others."""
    for tool in tools if isinstance(tools, list) else ():
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if kind != FUNCTION:
            way_out = HOSTED_THERE.get(str(kind), "only functions, which the caller runs, are taken here")
            raise NotOffered(f"a tool of type {str(kind)[:80]!r}: {way_out}")
    return read_functions(tools)


def _tools(tools: object, current: Assistant | None) -> list[Any]:
    functions = [{"type": FUNCTION, **function} for function in read_client_tools(tools)]
    # Tools of the house cannot be said in these words: those that were given stay.
    return [*(one for one in (current.tools or () if current else ()) if isinstance(one, str)), *functions]


def profile_form(assistant: Assistant) -> dict[str, Any]:
    parameters = assistant.parameters
    return {
        "id": assistant.assistant_id, "object": "assistant", "created_at": int(assistant.created_at),
        "name": assistant.name[:MAX_MODEL], "description": None, "model": assistant.model,
        "instructions": assistant.instructions, "tools": [function_form(tool) for tool in assistant.client_tools],
        "tool_resources": {}, "metadata": dict(assistant.metadata), "temperature": parameters.get("temperature", 1.0),
        "top_p": parameters.get("top_p", 1.0), "reasoning_effort": parameters.get("reasoning_effort"),
        "response_format": parameters.get("response_format", "auto"),
    }  # fmt: skip


def function_form(tool: Mapping[str, Any]) -> dict[str, Any]:
    names = ("name", "description", "parameters", "strict")
    return {"type": FUNCTION, FUNCTION: {name: tool[name] for name in names if tool.get(name) is not None}}
