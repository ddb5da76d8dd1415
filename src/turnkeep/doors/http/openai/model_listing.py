"""`/v1/models`: assistants are models."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from turnkeep.assistants import Assistant
from turnkeep.doors.error_answers import JsonResponse
from turnkeep.doors.http.endpoint import HttpCall


async def list_models(call: HttpCall) -> Response:
    assistants = await call.application.assistants.list(call.principal.tenant)
    # The one that answers where no other is chosen comes first: front ends preselect the first.
    default = await call.application.assistants.default(call.principal.tenant)
    assistants.sort(key=lambda one: (default is None or one.assistant_id != default.assistant_id, one.created_at))
    return JsonResponse({"object": "list", "data": [model_form(one) for one in assistants]})


async def show_model(call: HttpCall) -> Response:
    return JsonResponse(model_form(await call.application.assistants.get(call.principal.tenant, call.path("model"))))


def model_form(assistant: Assistant) -> dict[str, Any]:
    return {
        "id": assistant.assistant_id, "object": "model", "created": int(assistant.created_at), "owned_by": "turnkeep",
        "name": assistant.name,
    }  # fmt: skip
