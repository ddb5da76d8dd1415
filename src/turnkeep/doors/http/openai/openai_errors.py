"""Errors in OpenAI's form: `{"error": {message, type, param, code}}`."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from turnkeep.doors.error_answers import JsonResponse, error_body, error_response, status_of
from turnkeep.errors import NotFound, NotOffered, TurnkeepError
from turnkeep.events import TurnFault

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


WAYS_OUT = {
    "files": "files are not kept here: send one as 'file_data' or 'image_url' with the message, or its text",
    "uploads": "files are not kept here: send one as 'file_data' or 'image_url' with the message, or its text",
    "vector_stores": "nothing is searched here: give the assistant a tool that searches where your documents are",
    "containers": "code is not run here: give the assistant a tool, or use `execute_bash` in its sandbox",
    "embeddings": "embeddings are not made here: ask their provider",
    "images": "pictures are not made here: give the assistant a tool that makes them",
    "audio": "sound is neither heard nor spoken here: transcribe it before, and send the text",
    "realtime": "sound is neither heard nor spoken here: transcribe it before, and send the text",
    "completions": "prompts without messages are not answered here: use /v1/chat/completions",
    "batches": "batches are not run here: every message waits in its thread already",
    "fine_tuning": "models are not trained here: ask their provider",
    "moderations": "texts are not judged here: ask their provider",
}
"""What is not offered, and the way out."""


def no_such_route(path: str) -> Response:
    """For a path of `/v1` that leads nowhere."""
    room = path.removeprefix("/v1/").partition("/")[0]
    if room in WAYS_OUT:
        return openai_error(NotOffered(WAYS_OUT[room]))
    return openai_error(NotFound(f"there is no route {path[:200]!r}, or not for this method"))


def openai_error(error: TurnkeepError, *, is_taken_in: bool = False) -> Response:
    """The answer over HTTP. `is_taken_in`: the same request again would be another turn, and nothing asks for it."""
    status, plain = status_of(error), error_body(error)
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    # OpenAI's SDKs repeat a 409 by themselves, which here says the same each time.
    may_help = error.retryable and not is_taken_in
    headers = {**error_response(error).headers, "X-Should-Retry": "true" if may_help else "false"}
    for name in ("content-length", "content-type", *(() if may_help else ("retry-after",))):
        headers.pop(name, None)
    return JsonResponse(error_form(plain["message"], kind, plain["code"]), status_code=status, headers=headers)


def fault_form(fault: TurnFault) -> dict[str, Any]:
    """A turn that nobody could answer."""
    return error_form(fault.message, "server_error", fault.code)


def fault_response(fault: TurnFault) -> Response:
    # The messages are dead letters by now: the same request again would be another turn.
    return JsonResponse(fault_form(fault), status_code=502, headers={"X-Should-Retry": "false"})


def error_form(message: str, kind: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
