"""The OpenAPI 3.1 document, made from the table of routes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

from starlette.responses import Response

from turnkeep.doors.error_answers import JsonResponse
from turnkeep.doors.http.endpoint import HttpCall, HttpEndpoint
from turnkeep.doors.http.schemas import SCHEMAS
from turnkeep.inputs import MAX_NAME

JSON_MEDIA = "application/json"
_PARAMETER = re.compile(r"\{(\w+)\}")

_IN_QUERY: Mapping[str, Any] = {
    "limit": {"type": "integer", "minimum": 0, "maximum": 1000},
    "force": {"enum": ["true", "false"]},
    "text": {"enum": ["delta", "full"]},
    "events": {"enum": ["all"]},
}


async def show_openapi(call: HttpCall) -> Response:
    return JsonResponse(call.request.app.state.openapi)


def document(endpoints: Sequence[HttpEndpoint]) -> dict[str, Any]:
    """All routes, what goes in and what comes out."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "turnkeep",
            "version": metadata.version("turnkeep"),
            "description": "Takes messages, takes turns, gives answers.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": paths,
        "security": [{"bearer": []}, {"session": []}],
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key or a JSON web token."},
                "session": {"type": "apiKey", "in": "cookie", "name": "turnkeep_session"},
            },
        },
    }


def _operation(endpoint: HttpEndpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.handler.__name__,
        "summary": endpoint.summary,
        "parameters": [*_in_path(endpoint), *_in_query(endpoint), *_in_headers(endpoint)],
        "responses": {str(status): _answer(endpoint, status, name) for status, name in endpoint.answers.items()},
    }
    operation["responses"]["default"] = _refusal(endpoint)
    if endpoint.body is not None:
        body = {"required": not endpoint.body_may_be_empty, **_content(None, JSON_MEDIA, endpoint.body)}
        operation["requestBody"] = body
    if endpoint.public:
        operation["security"] = []
    if endpoint.scope is not None:
        operation["x-scope"] = endpoint.scope
    return operation


def _in_path(endpoint: HttpEndpoint) -> list[dict[str, Any]]:
    schema = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}
    names = _PARAMETER.findall(endpoint.path)
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in names]


def _in_query(endpoint: HttpEndpoint) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "query", "description": description, "schema": _IN_QUERY.get(name, {"type": "string"})}
        for name, description in endpoint.query.items()
    ]


def _in_headers(endpoint: HttpEndpoint) -> list[dict[str, Any]]:
    if endpoint.body == "NewMessage":
        description = "Counts as the message's id where the body has none."
    elif endpoint.can_be_named:
        description = (
            "Names this call for a day: again with the same key, it gives the first answer and changes nothing."
        )
    else:
        return []
    schema = {"type": "string", "minLength": 1, "maxLength": MAX_NAME}
    return [{"name": "Idempotency-Key", "in": "header", "description": description, "schema": schema}]


def _answer(endpoint: HttpEndpoint, status: int, name: str | None) -> dict[str, Any]:
    if name is None and (endpoint.media == JSON_MEDIA or status == 204):
        return {"description": "Done."}
    if name is None:
        return {"description": "Done.", "content": {endpoint.media: {"schema": {"type": "string"}}}}
    return _content("Done.", endpoint.media, name)


def _refusal(endpoint: HttpEndpoint) -> dict[str, Any]:
    if endpoint.refusal is None:
        return {"description": "What was wrong.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    return _content("What was wrong.", JSON_MEDIA, endpoint.refusal)


def _content(description: str | None, media: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = {"content": {media: {"schema": {"$ref": f"#/components/schemas/{name}"}}}}
    return content if description is None else {"description": description, **content}
