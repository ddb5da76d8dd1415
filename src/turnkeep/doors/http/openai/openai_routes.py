"""The routes of OpenAI's doors. Their bodies and answers are OpenAI's, and described there.

A request that names its channel in the body has no scope here: whoever sends it needs `send` and
`read` on that channel, which its reader looks at.
"""

from __future__ import annotations

from collections.abc import Mapping

from turnkeep.auth.principals import Scope
from turnkeep.doors.http.endpoint import Handler, HttpEndpoint
from turnkeep.doors.http.openai import chat_completions, model_listing, response_endpoints
from turnkeep.doors.http.openai.openai_errors import openai_error

RESPONSE = "/v1/responses/{response_id}"


def _endpoint(
    method: str, path: str, handler: Handler, scope: Scope | None, summary: str, *,
    query: Mapping[str, str] | None = None, is_metered: bool = True,
) -> HttpEndpoint:  # fmt: skip
    body = "ForeignBody" if method == "POST" else None
    return HttpEndpoint(
        method, path, handler, scope, summary, {200: "ForeignAnswer"}, body=body, body_may_be_empty=True,
        query=query or {}, is_metered=is_metered, refuse=openai_error,
    )  # fmt: skip


MODEL_ENDPOINTS = (
    _endpoint("GET", "/v1/models", model_listing.list_models, "read", "Assistants, as models."),
    _endpoint("GET", "/v1/models/{model}", model_listing.show_model, "read", "An assistant, as a model."),
)
ANSWER_ENDPOINTS = (
    _endpoint("POST", "/v1/chat/completions", chat_completions.complete_chat, None,
              "Answer a conversation that is resent, or a question that stands for itself.", is_metered=False),
    _endpoint("POST", "/v1/responses", response_endpoints.create_response, None,
              "Answer what is new in a conversation; `background` at once, to be read later.", is_metered=False),
    _endpoint("GET", RESPONSE, response_endpoints.show_response, None, "An answer, as it is now or as it grows.",
              query={"stream": "`true`: as server-sent events.",
                     "starting_after": "The `sequence_number` of the last event that was seen."}),
    _endpoint("POST", RESPONSE + "/cancel", response_endpoints.cancel_response, None,
              "Stop an answer; what was said stays."),
)  # fmt: skip


OPENAI_ENDPOINTS = (*MODEL_ENDPOINTS, *ANSWER_ENDPOINTS)
