"""Requests of OpenAI's kind in our words: contents, functions, parameters. Strict, as every reader."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from turnkeep.assistants import FUNCTION
from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.errors import InvalidMessage, NotAllowed, NotOffered
from turnkeep.inputs import MAX_METADATA, MAX_NAMES, read_function
from turnkeep.messages import USER, Address, Content, Message
from turnkeep.store.values import HeldCall

PARAMETERS = (
    "temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "seed", "stop", "response_format",
    "reasoning_effort", "verbosity", "max_tokens", "max_completion_tokens", "max_output_tokens", "reasoning", "text",
    "truncation", "tool_choice", "parallel_tool_calls", "max_tool_calls", "service_tier", "prediction", "top_logprobs",
)  # fmt: skip
"""What a request asks of the answer: it goes on to the model."""
NOT_OFFERED: Mapping[str, str] = {
    "audio": "sound is neither heard nor spoken here: transcribe it before, and send the text",
    "modalities": "answers are texts here: leave 'modalities' out",
    "prompt": "prompts that are kept at OpenAI are not known here: give an assistant its instructions instead",
}


def read_parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked of the answer. Raises `NotOffered` for what would change it and is not offered."""
    for name, way_out in NOT_OFFERED.items():
        if body.get(name) not in (None, ["text"]):
            raise NotOffered(f"'{name}': {way_out}")
    if body.get("n") not in (None, 1):
        raise NotOffered("'n': a turn has one answer, ask several times in conversations of their own")
    return {name: body[name] for name in PARAMETERS if body.get(name) is not None}


def read_functions(tools: object) -> tuple[dict[str, Any], ...]:
    """The functions that the caller runs himself, nested or flat. Other types of tools run at a
    provider: they are the assistant's, and left out here as agents send them unasked.
    """
    if tools is None:
        return ()
    if not isinstance(tools, list) or len(tools) > MAX_NAMES:
        raise InvalidMessage(f"'tools' must be a list of at most {MAX_NAMES} tools")
    functions = []
    for tool in tools:
        if not isinstance(tool, Mapping):
            raise InvalidMessage("a tool must be an object")
        if tool.get("type") == FUNCTION:
            functions.append(_function(tool.get("function", tool)))
    return tuple(functions)


def _function(tool: Any) -> dict[str, Any]:
    name, parameters = read_function(tool)
    function: dict[str, Any] = {"name": name}
    if description := tool.get("description"):
        function["description"] = str(description)
    if parameters:
        function["parameters"] = parameters
    if tool.get("strict") is True:
        function["strict"] = True
    return function


def read_past_content(call: HttpCall, content: object) -> Content:
    """What a user is said to have said before: no more may stand in it than in what is said now."""
    body = {"content": read_parts(content)}
    return call.limits.content_of(body, call.principal, most_bytes=call.limits.frame_bytes)


def read_parts(content: object) -> object:
    """A content of OpenAI's kinds in the form that `inputs` reads."""
    if isinstance(content, str) or content is None:
        return content
    if not isinstance(content, list):
        raise InvalidMessage("'content' must be a text or a list of parts")
    return [_part(part) for part in content]


def _part(part: object) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        raise InvalidMessage("a part of 'content' must be an object with a 'type'")
    match part.get("type"):
        case "text" | "input_text" | "output_text":
            return {"type": "text", "text": part.get("text")}
        case "refusal":
            return {"type": "text", "text": part.get("refusal")}
        case "image_url" | "input_image" | "image_file":
            image = part.get("image_url", part.get("image_file", part))
            return {"type": "image", **_image(image if isinstance(image, Mapping) else {**part, "image_url": image})}
        case "file" | "input_file":
            file = part.get("file", part)
            names = ("file_id", "file_url", "file_data", "filename")
            return {"type": "file", **{n: file[n] for n in names if isinstance(file, Mapping) and file.get(n)}}
        case "input_audio":
            raise NotOffered(f"'input_audio': {NOT_OFFERED['audio']}")
    raise InvalidMessage(f"a part of 'content' has the type {str(part.get('type'))[:80]!r}, which is not known")


def _image(image: Mapping[str, Any]) -> dict[str, Any]:
    url = image.get("url") or image.get("image_url")
    data = {"image_url": url} if url else {"file_id": image.get("file_id")}
    return data | ({"detail": image["detail"]} if image.get("detail") else {})


def plain_text(content: object) -> str:
    """The words of a content of OpenAI's kinds."""
    parts = read_parts(content)
    if isinstance(parts, list):
        return "\n".join(str(part.get("text") or "") for part in parts if part["type"] == "text")
    return str(parts or "")


def instructions_of(messages: Sequence[Mapping[str, Any]], *more: object) -> str | None:
    """What the operator of the client says, as one text."""
    texts = [text for text in more if isinstance(text, str)]
    texts += [plain_text(one.get("content")) for one in messages if one.get("role") in ("system", "developer")]
    return "\n\n".join(dict.fromkeys(text for text in texts if text.strip())) or None


def message_of(
    call: HttpCall,
    address: Address,
    *,
    content: object,
    message_id: str | None = None,
    wishes: Mapping[str, Any],
) -> Message:
    """The message of a request, with what it asks of the answer: `assistant`, `client_tools`,
    `instructions`, `assistant_instructions`, `model`, `parameters`, `metadata`, `user`.
    """
    metadata = wishes.get("metadata") or {}
    if not isinstance(metadata, Mapping):
        raise InvalidMessage("'metadata' must be an object")
    metadata = dict(metadata)
    if isinstance(user := wishes.get("user"), str) and user and USER not in metadata and len(metadata) < MAX_METADATA:
        metadata[USER] = user
    body = {
        "content": read_parts(content), "message_id": message_id, "instructions": wishes.get("instructions"),
        "model": wishes.get("model"), "parameters": wishes.get("parameters") or None, "metadata": metadata,
        "flush": bool(wishes.get("flush")),
    }  # fmt: skip
    message = call.limits.message_of(body, address, call.principal)
    return message.but(
        assistant=wishes.get("assistant"), client_tools=tuple(wishes.get("client_tools") or ()),
        assistant_instructions=wishes.get("assistant_instructions"),
    )  # fmt: skip


def allow_wishes(call: HttpCall, wishes: Mapping[str, Any]) -> None:
    """Who answers, with which functions and at what price is for those who manage the channel, also
    where nothing new is said. Raises `NotAllowed`.
    """
    asks = any(wishes.get(name) for name in ("assistant", "client_tools", "parameters", "model"))
    if asks and "manage" not in call.principal.rights:
        raise NotAllowed("to choose who answers ('model'), to give 'tools' or parameters needs the scope 'manage'")


def seen_calls(call: HttpCall, calls: Iterable[HeldCall]) -> tuple[HeldCall, ...]:
    """Calls of the caller's functions, as he is told of them: their arguments are for who may give
    their outputs, and for whom their tools let see them.
    """
    if call.principal.sees_calls:
        return tuple(calls)
    return tuple(one if one.show != "name" else replace(one, arguments="{}") for one in calls)


def id_from(*texts: str) -> str:
    """A message id that is the same whenever the same is said at the same place."""
    digest = hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()
    return f"msg_{digest[:24]}"
