"""One request in the words of Anthropic's Messages API.

A transcript becomes messages that alternate between two roles: a call is a block of the assistant's
message, its output a block of the user's next one. What the prompt cache may keep is marked: the
tools, the system text, and the last two things the user said.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

import orjson

from turnkeep.messages import (
    AssistantItem,
    CallItem,
    HostedItem,
    Item,
    OutputItem,
    Part,
    ReasoningItem,
    SystemItem,
    UserItem,
)
from turnkeep.models.hosted_tools import for_anthropic
from turnkeep.models.model import ModelRequest, ToolSpec, canonical
from turnkeep.models.reading import mapping

Block = dict[str, Any]

EPHEMERAL = {"type": "ephemeral"}
THOUGHTS = ("thinking", "redacted_thinking")
OPENING = "(The conversation goes on.)"
"""Said by the user where a transcript begins or ends with the assistant: the first and the last
word are the user's.
"""

_DATA_URL = re.compile(r"data:([\w.+/-]*)[^,]*?(;base64)?,(.*)", re.DOTALL)
_MEDIA_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp", "application/pdf")

_NATIVE = (
    *("thinking", "output_config", "top_k", "stop_sequences", "service_tier", "speed", "inference_geo", "container"),
    *("context_management", "mcp_servers"),
)
_SAMPLING = ("temperature", "top_p", "top_k")
_BUDGETS = {"minimal": 1_024, "low": 2_048, "medium": 8_192, "high": 16_384, "xhigh": 32_768, "max": 32_768}
LEAST_BUDGET = 1_024
ROOM, ROOM_TO_THINK, ROOM_ELSEWHERE = 16_000, 32_000, 8_192
"""Tokens an answer may have where nobody set a limit; this API has no default of its own."""

_VERSION = re.compile(r"claude(?:-[a-z]+)*-(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
_NEWEST = (99, 0)


def request_body(request: ModelRequest, most: int | None = None) -> dict[str, Any]:
    """The body of one request that was made fit for its server before, for an answer of `most` so
    many tokens.
    """
    system, turns = messages(request.items)
    texts = [text for text in (request.instructions, *system) if text and text.strip()]
    body: dict[str, Any] = {"model": request.model, "messages": turns, "stream": True}
    body |= parameters(request, turns, most)
    if texts:
        body["system"] = [{"type": "text", "text": text} for text in texts]
    if tools := [*(_tool(tool) for tool in request.tools), *for_anthropic(request.hosted_tools)]:
        body["tools"] = tools
    _mark(body)
    return body


def without(body: Mapping[str, Any], fields: frozenset[str]) -> dict[str, Any]:
    """The body without fields that were refused; the form of the answer, which shares one with the
    effort, stays.
    """
    rest = {name: value for name, value in body.items() if name not in fields}
    form = mapping(body.get("output_config")).get("format")
    return {**rest, "output_config": {"format": form}} if form and "output_config" in fields else rest


def messages(items: Sequence[Item]) -> tuple[list[str], list[dict[str, Any]]]:
    """The system texts of a transcript, and all else as messages of alternating roles."""
    system = [item.text for item in items if isinstance(item, SystemItem)]
    turns = alternating(items)
    if not turns or turns[0]["role"] != "user":
        turns.insert(0, {"role": "user", "content": [_text(OPENING)]})
    # What ends with the assistant would be read as the beginning of its next answer.
    if turns[-1]["role"] == "assistant" and not _is_paused(turns[-1]["content"]):
        turns.append({"role": "user", "content": [_text(OPENING)]})
    return system, turns


def alternating(items: Sequence[Item]) -> list[dict[str, Any]]:
    """What was said, as messages of alternating roles."""
    turns: list[dict[str, Any]] = []
    for item in items:
        match item:
            case SystemItem():
                continue
            case UserItem():
                _say(turns, "user", [block for part in item.content if (block := _part(part))])
            case OutputItem():
                _say(turns, "user", [_result(item)])
            case _:
                _say(turns, "assistant", _assistant_blocks(item))
    return turns


def _say(turns: list[dict[str, Any]], role: str, blocks: list[Block]) -> None:
    if not blocks:
        return
    # Roles alternate: the messages of a burst are one turn, and so are the outputs of a step.
    if turns and turns[-1]["role"] == role:
        turns[-1]["content"] += blocks
    else:
        turns.append({"role": role, "content": blocks})


def _is_paused(blocks: Sequence[Block]) -> bool:
    """Whether its provider interrupted the assistant while a tool ran there: it is to go on."""
    return any(_is_hosted(block["type"]) for block in blocks[-2:])


def _is_hosted(kind: str) -> bool:
    """Whether a block tells of a tool that runs there; one address may speak two protocols."""
    return kind in ("server_tool_use", "mcp_tool_use", "container_upload") or kind.endswith("_tool_result")


def _assistant_blocks(item: Item) -> list[Block]:
    match item:
        case AssistantItem():
            return _passages(item)
        case CallItem():
            call = {"id": item.call_id, "name": item.name, "input": _input(item.arguments)}
            return [{"type": "tool_use", **call}]
        # A thought of another protocol has no signature that this one could check.
        case ReasoningItem() if item.raw.get("type") in THOUGHTS:
            return [dict(item.raw)]
        case HostedItem() if _is_hosted(str(item.raw.get("type"))):
            return [dict(item.raw)]
    return []


def _passages(item: AssistantItem) -> list[Block]:
    """A text, cut where its sources change: they go back with the passage that rests on them."""
    data = item.provider_data
    passages = data.fields.get("passages") if data is not None else None
    if not isinstance(passages, list):
        return [_text(item.text)] if item.text.strip() else []
    blocks: list[Block] = []
    start = 0
    for passage in passages:
        text, start = item.text[start : passage["end"]], passage["end"]
        # A blank block is refused.
        if text.strip():
            blocks.append({**_text(text), **({"citations": passage["citations"]} if "citations" in passage else {})})
    return blocks


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _input(arguments: str) -> dict[str, Any]:
    try:
        value = orjson.loads(arguments or "{}")
    except ValueError:
        value = None
    # One bad call must not make its thread unanswerable.
    return value if isinstance(value, dict) else {"malformed": arguments}


def _result(item: OutputItem) -> Block:
    result: Block = {"type": "tool_result", "tool_use_id": item.call_id, "content": item.output}
    return result if item.status == "ok" else {**result, "is_error": True}


def _part(part: Part) -> Block | None:
    data = part.data or {}
    if part.type == "text":
        return _text(part.text) if part.text.strip() else None
    if part.type == "image":
        image = data.get("image_url")
        source = _source(image.get("url") if isinstance(image, Mapping) else image) or _source_by_id(data)
        return {"type": "image", "source": source} if source else _unreadable("an image")
    return _document(data)


def _document(data: Mapping[str, Any]) -> Block:
    name = data.get("filename") or data.get("title")
    source = _source(data.get("file_data") or data.get("file_url")) or _source_by_id(data)
    if source is None:
        return _unreadable(f"the file {name}" if name else "a file")
    if source.get("media_type", "").startswith("image/"):
        return {"type": "image", "source": source}
    title = {"title": str(name)} if name else {}
    return {
        "type": "document",
        "source": source,
        **title,
        **{k: data[k] for k in ("citations", "context") if k in data},
    }


def _unreadable(what: str) -> Block:
    """A word in place of what cannot be shown here: it must not make a thread unanswerable."""
    return _text(f"[{what} that cannot be shown here]")


def _source(reference: object) -> dict[str, str] | None:
    """Where the bytes are: an address, or a `data:` URL taken apart.

    Bare base64 is taken for a PDF, as OpenAI does.
    """
    if not isinstance(reference, str) or not reference:
        return None
    if reference.startswith(("http://", "https://")):
        return {"type": "url", "url": reference}
    match = _DATA_URL.fullmatch(reference)
    media, is_encoded, data = match.groups() if match else ("application/pdf", True, reference)
    if media.startswith("text/"):
        return {"type": "text", "media_type": "text/plain", "data": _decode(data) if is_encoded else unquote(data)}
    return {"type": "base64", "media_type": media, "data": data} if is_encoded and media in _MEDIA_TYPES else None


def _decode(data: str) -> str:
    try:
        return b64decode(data).decode("utf-8", "replace")
    except ValueError:
        return data


def _source_by_id(data: Mapping[str, Any]) -> dict[str, Any] | None:
    if isinstance(source := data.get("source"), Mapping):  # already in the words of this API
        return dict(source)
    file_id = data.get("file_id")
    return {"type": "file", "file_id": file_id} if isinstance(file_id, str) and file_id else None


def _tool(tool: ToolSpec) -> Block:
    schema = {"type": "object", **tool.parameters}
    block = {"name": tool.name, "description": tool.description, "input_schema": schema}
    return {**block, "strict": True} if tool.strict else block


def parameters(
    request: ModelRequest, turns: Sequence[Mapping[str, Any]] = (), most: int | None = None
) -> dict[str, Any]:
    """The parameters in the words of this API, without those that the model does not take."""
    options = canonical(request.parameters)
    body = {name: options[name] for name in _NATIVE if name in options}
    # The other tiers are OpenAI's, and refused here.
    body["service_tier"] = body["service_tier"] if body.get("service_tier") in ("auto", "standard_only") else None
    if stop := options.get("stop"):
        body.setdefault("stop_sequences", [stop] if isinstance(stop, str) else list(stop))
    limit = options.get("max_output_tokens")
    room = limit or min(ROOM_TO_THINK, most or ROOM_TO_THINK)
    body |= _thinking(request.model, options, room=room, turns=turns)
    body["output_config"] = _output_config(request.model, body.get("output_config"), options)
    thinks = mapping(body.get("thinking")).get("type") not in (None, "disabled")
    body["max_tokens"] = limit or min(room, _room(request.model, thinks=thinks))
    # Who thinks takes no temperature, and from 4.7 on nobody does.
    if not thinks and _samples(request.model):
        body |= {name: options[name] for name in _SAMPLING if name in options}
        body["temperature"] = _at_most_one(options.get("temperature"))
    else:
        body.pop("top_k", None)
    if request.tools or request.hosted_tools:
        body["tool_choice"] = _choice(options, thinks=thinks)
    return {name: value for name, value in body.items() if value is not None}


def _room(model: str, *, thinks: bool) -> int:
    if thinks:
        return ROOM_TO_THINK
    return ROOM if (_version(model) or (0, 0)) >= (3, 7) else ROOM_ELSEWHERE


def _at_most_one(temperature: object) -> object:
    """OpenAI's scale goes to 2, this one to 1."""
    return min(temperature, 1.0) if isinstance(temperature, int | float) else temperature


def _thinking(
    model: str, options: Mapping[str, Any], *, room: int, turns: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """How much the model is to think, by the effort that is asked for.

    Without one, as the model does by itself.
    """
    if "thinking" in options:
        return {"thinking": None if _lacks_thoughts(options["thinking"], turns) else _within(options["thinking"], room)}
    reasoning = mapping(options.get("reasoning"))
    effort = reasoning.get("effort")
    if effort in (None, "none"):
        return {}
    if _adapts(model):
        display = {"display": "summarized"} if reasoning.get("summary") else {}
        return {"thinking": {"type": "adaptive", **display}}
    budget = min(_BUDGETS.get(effort, _BUDGETS["medium"]), room // 2)
    thinking = {"type": "enabled", "budget_tokens": budget}
    # A smaller budget is refused: such an answer has no room for thoughts.
    return {} if budget < LEAST_BUDGET or _lacks_thoughts(thinking, turns) else {"thinking": thinking}


def _within(thinking: Any, room: int) -> Any:
    """Thoughts that leave room for the answer: with a budget that is not below the limit of both it
    is refused.
    """
    budget = mapping(thinking).get("budget_tokens")
    if not isinstance(budget, int) or budget < room:
        return thinking
    return {**thinking, "budget_tokens": max(LEAST_BUDGET, room // 2)}


def _lacks_thoughts(thinking: object, turns: Sequence[Mapping[str, Any]]) -> bool:
    """Whether calls are to be answered that were made without a thought, by another model or before
    a repair.

    With a budget for thoughts, the assistant's message before the outputs has to begin with one.
    """
    if mapping(thinking).get("type") != "enabled" or len(turns) < 2 or turns[-1]["content"][0]["type"] != "tool_result":
        return False
    return turns[-2]["content"][0]["type"] not in THOUGHTS


def _output_config(model: str, config: object, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """Effort and the schema of a structured answer.

    A JSON object without a schema has no words here.
    """
    result = dict(mapping(config))
    effort = mapping(options.get("reasoning")).get("effort")
    if effort not in (None, "none") and _adapts(model):
        result.setdefault("effort", "low" if effort == "minimal" else effort)
    form = mapping(mapping(options.get("text")).get("format") or options.get("response_format"))
    schema = form.get("schema") or mapping(form.get("json_schema")).get("schema")
    if form.get("type") == "json_schema" and schema:
        result.setdefault("format", {"type": "json_schema", "schema": schema})
    return result or None


def _choice(options: Mapping[str, Any], *, thinks: bool) -> dict[str, Any] | None:
    """Which tool is to be called. A model that thinks may not be forced to call one."""
    tool_choice = options.get("tool_choice")
    choice: dict[str, Any] = {"type": "auto"}
    if isinstance(tool_choice, str):
        choice = {"type": {"required": "any"}.get(tool_choice, tool_choice)}
    elif isinstance(tool_choice, Mapping) and tool_choice.get("name"):
        choice = {"type": "tool", "name": tool_choice["name"]}
    elif isinstance(tool_choice, Mapping):
        choice = dict(tool_choice)
    # Refused while it thinks.
    if thinks and choice["type"] in ("any", "tool"):
        choice = {"type": "auto"}
    if options.get("parallel_tool_calls") is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return None if choice == {"type": "auto"} else choice


def _version(model: str) -> tuple[int, int] | None:
    """Which Claude this is, by its name (one without a number is a new one); None: a model of
    somebody else.
    """
    if "claude" not in model.lower():
        return None
    match = _VERSION.search(model.lower())
    return (int(match[1]), int(match[2] or 0)) if match else _NEWEST


def _adapts(model: str) -> bool:
    """Whether the model decides by itself how much it thinks; from 4.7 on it takes no budget."""
    return (_version(model) or (0, 0)) >= (4, 6)


def _samples(model: str) -> bool:
    """Whether it takes temperature and its like."""
    return (_version(model) or (0, 0)) < (4, 7)


def _mark(body: dict[str, Any]) -> None:
    """Mark what is to be kept: tools, system, and the user's last two turns.

    Each request marks its own end, which the next one looks up. It looks back over twenty blocks
    only, fewer than a long burst has: so the end of the request before is marked again. There are
    four marks in all.
    """
    for blocks in (body.get("tools"), body.get("system")):
        if blocks:
            blocks[-1]["cache_control"] = EPHEMERAL
    user_contents = [turn["content"] for turn in body["messages"] if turn["role"] == "user"]
    for blocks in user_contents[-2:]:
        blocks[-1] = {**blocks[-1], "cache_control": EPHEMERAL}
