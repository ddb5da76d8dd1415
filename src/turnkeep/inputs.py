"""What comes in, read strictly, at every door and from Python: bytes to JSON, and JSON to a
`Message` or what else may be set.

What two programs could read differently is refused. Everything that is wrong is an `InvalidMessage`
with a sentence.
"""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import orjson

from turnkeep.errors import InvalidMessage, MessageTooLarge
from turnkeep.messages import BUSY_POLICIES, USER, Address, Content, Message, Part, content_size, text_content
from turnkeep.models.model import wrong_form
from turnkeep.tools.addresses import may_reach

MAX_DEPTH = 32
MAX_VALUES = 10_000
"""Values of one frame: texts, numbers, objects, lists."""
MAX_DIGITS = 20
SMALLEST_INTEGER, LARGEST_INTEGER = -(2**63), 2**64 - 1

MAX_NAME = 512
"""Characters of a channel or message id."""
MAX_WINDOW = 3600.0
MAX_WAIT = 86_400.0
MAX_DELAY = 366 * 86_400.0
MAX_MOMENT = 1e11
"""Seconds since 1970: some 3,000 years from now, and what a clock in milliseconds would
say is far beyond.
"""
MAX_INSTRUCTIONS = 32_000
MAX_MODEL = 200
"""Characters of the name of a model, a tool or an assistant."""
MAX_PARTS = 64
MAX_ENTRIES = 64
"""Entries of an object that is handed on as it is."""
MAX_NAMES = 200
MAX_FORMAT_NAME = 64
MAX_FUNCTION_NAME = 64
MAX_METADATA, MAX_METADATA_NAME, MAX_METADATA_TEXT = 16, 64, 512
"""Entries, and characters of their names and texts."""
RESERVED_CHANNELS = frozenset({"subscription"})
OURS = ("type", "status", "timestamp")
"""A frame that has one of these is output and never taken for input, so that a
relay makes no loops.
"""

INSIDE_NAMES = frozenset({"localhost", "local", "internal", "intranet", "lan", "home", "corp", "arpa", "test", "onion"})
"""Last parts of names that lead to machines of somebody's own network."""

ATTACHMENT_KINDS = {
    "image": (("image_url", "file_id"), ("detail",)),
    "file": (("file_id", "file_url", "file_data"), ("filename",)),
}
"""Of a part that is no text: the names of its place, of which it has one, and what
else it may hold.
"""

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
FormatKind = Literal["text", "json_object", "json_schema"]
FORMATS: tuple[FormatKind, ...] = get_args(FormatKind)
MAX_PARAMETERS = 32_768


def read_json(data: bytes | str, *, limit: int) -> dict[str, Any]:
    """An object without NaN, duplicate keys or lone surrogates, at most `MAX_DEPTH` deep, `limit`
    bytes long, of at most `MAX_VALUES` values. Whatever it is, reading it takes less than 50 ms.
    """
    # With half pairs, so that it is orjson that refuses them, in the same words at every door.
    raw = data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass")
    if len(raw) > limit:
        raise MessageTooLarge(f"{len(raw)} bytes are more than the {limit} that are read at once")
    # Before: half a megabyte of brackets or of numbers took 80 ms of the loop.
    _check_count(raw)
    try:
        # Twice, for neither is strict alone: orjson refuses NaN, wrong UTF-8 and half surrogate
        # pairs, but keeps the last of two equal keys in silence; json shows the pairs, but takes
        # all of those. What orjson adds is a fifth of what json takes.
        orjson.loads(raw)
        value = _DECODER.decode(raw.decode())
    except orjson.JSONDecodeError as error:
        raise InvalidMessage(f"this is not JSON: {error}") from None
    except (ValueError, RecursionError) as error:
        raise InvalidMessage(f"this JSON is not taken: {error}") from None
    if not isinstance(value, dict):
        raise InvalidMessage("expected a JSON object")
    _check_depth(value)
    return value


def _check_count(raw: bytes) -> None:
    """Before anything is parsed, because a value costs much more than the two bytes that it may be
    written with.
    """
    if _values_in(raw) <= MAX_VALUES:
        return
    outside_of_strings = raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    if _values_in(b"".join(outside_of_strings)) > MAX_VALUES:
        raise InvalidMessage(f"this JSON has more than {MAX_VALUES} values")


def _values_in(raw: bytes) -> int:
    """At least as many as there are."""
    return 1 + raw.count(b"[") + raw.count(b"{") + raw.count(b",")


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [child for outer in level for child in _inside(outer) if isinstance(child, dict | list)]
        if not level:
            return
    raise InvalidMessage(f"this JSON is nested deeper than {MAX_DEPTH} levels")


def _inside(outer: object) -> Iterable[object]:
    return outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        earlier: set[str] = set()
        twice = next(key for key, _ in pairs if key in earlier or earlier.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return values


def _integer(digits: str) -> int:
    """What we could not write again is not read."""
    # orjson writes 64 bits: a larger number was stored with an assistant, and its answer was a 500.
    value = int(digits) if len(digits) <= MAX_DIGITS else LARGEST_INTEGER + 1
    if not SMALLEST_INTEGER <= value <= LARGEST_INTEGER:
        raise ValueError("a whole number does not fit in 64 bits")
    return value


# `json.loads` with hooks makes a decoder for each text.
_DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_int=_integer)


def read_message(
    body: Mapping[str, Any], address: Address, *, limit: int, mint: bool = True, user: str | None = None
) -> Message:
    """The message in `{"message" | "content", "message_id"?, "instructions"?, "metadata"?,
    "on_busy"?, "window"?, …}`.

    Without an id one is minted, unless `mint` is False: then it is missing. `user`: whose
    credential it came with, whatever its metadata says.
    """
    message_id = optional_text(body, "message_id", MAX_NAME)
    if message_id is None and not mint:
        raise InvalidMessage("Missing required 'message_id' field")
    return Message(
        address=address,
        message_id=message_id or f"msg_{secrets.token_hex(12)}",
        content=read_content(body, limit=limit),
        instructions=optional_text(body, "instructions", MAX_INSTRUCTIONS),
        model=optional_text(body, "model", MAX_MODEL),
        parameters=_parameters(body),
        # Last, so that nobody spends the budget of another by naming him.
        metadata=_metadata(body) | ({} if user is None else {USER: user}),
        on_busy=_policy(body),
        window=optional_number(body, "window", MAX_WINDOW),
        max_wait=optional_number(body, "max_wait", MAX_WAIT),
        not_before=optional_number(body, "not_before", MAX_MOMENT),
        flush=optional_flag(body, "flush"),
        minted=message_id is None,
    )


def read_channel(body: Mapping[str, Any], name: str = "channel") -> str:
    """A channel: any string without NUL, of 1 to 512 characters, that is not reserved."""
    value = body.get(name)
    if value is None:
        raise InvalidMessage(f"Missing required '{name}' field")
    return checked_channel(value)


def checked_channel(value: object) -> str:
    if not isinstance(value, str):
        raise InvalidMessage(
            "Invalid 'channel' field - must be a string identifier (UUID, Convex ID, or any unique string)"
        )
    if not value or len(value) > MAX_NAME:
        raise InvalidMessage(f"Invalid 'channel' field - must be a string of 1 to {MAX_NAME} characters")
    # On a socket it is the seeds' way to subscribe, and would never be a channel there.
    if value in RESERVED_CHANNELS:
        raise InvalidMessage(f"the channel {value!r} is reserved, choose another")
    return clean_text("channel", value)


def read_content(body: Mapping[str, Any], *, limit: int) -> Content:
    """What is said, as text or in parts, in at most `limit` bytes."""
    if (parts := body.get("content")) is None:
        content = _text(body.get("message"))
    elif "message" in body:
        raise InvalidMessage("give either 'message' or 'content', not both")
    else:
        content = _parts(parts)
    if (size := content_size(content)) > limit:
        raise MessageTooLarge(f"the message has {size} bytes, at most {limit} are taken")
    return content


def _text(text: object) -> Content:
    if not isinstance(text, str) or not text.strip():
        raise InvalidMessage("Invalid or missing 'message' field")
    return text_content(clean_text("message", text))


def _parts(parts: object) -> Content:
    if isinstance(parts, str):
        return _text(parts)
    if not isinstance(parts, list) or not 1 <= len(parts) <= MAX_PARTS:
        raise InvalidMessage(f"'content' must be a text or a list of 1 to {MAX_PARTS} parts")
    return tuple(_part(part) for part in parts)


def _part(part: object) -> Part:
    if not isinstance(part, dict):
        raise InvalidMessage("a part of 'content' must be an object with a 'type'")
    match part.get("type"):
        case "text":
            return _text(part.get("text"))[0]
        case "image" | "file" as kind:
            return Part(kind, data=_attachment(kind, {key: value for key, value in part.items() if key != "type"}))
    raise InvalidMessage("a part of 'content' must be of type text, image or file")


def _attachment(kind: str, data: Mapping[str, object]) -> dict[str, str]:
    """Where an image or a file is, and what else models are told of it."""
    places, more = ATTACHMENT_KINDS[kind]
    places_given = [name for name in data if name in places]
    texts = {name: clean_text(name, value) for name, value in data.items() if isinstance(value, str) and value}
    if len(places_given) != 1 or not data.keys() <= {*places, *more} or texts.keys() != data.keys():
        one, others = " or ".join(map(repr, places)), " and ".join(map(repr, more))
        raise InvalidMessage(f"a part of type {kind!r} must hold {one}, and may hold {others}, all of them texts")
    for name in texts.keys() & {"image_url", "file_url"}:
        if not is_public_place(texts[name]):
            raise InvalidMessage(
                f"'{name}' must be an https address that everybody reaches, or the data itself (data:)"
            )
    return texts


def is_public_place(url: str) -> bool:
    """Whether a model's server may be sent there: it may stand inside of a network, and would fetch
    what is in it.
    """
    if url[:5].lower() == "data:":
        return True
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        return False
    # Browsers take a backslash for a slash and Python does not: two readers would see two hosts.
    if parts.scheme != "https" or parts.username is not None or not url.isprintable() or "\\" in url:
        return False
    last = host.rpartition(".")[2]
    # A host whose last part is a number is an IPv4 address, 0x7f.1 too (URL Standard, 4.3).
    if ":" in host or last.isdigit() or last.startswith("0x"):
        return may_reach(host, ())
    return "." in host and last not in INSIDE_NAMES


def drops_inbox(body: Mapping[str, Any]) -> bool:
    """Whether a stop takes what waits along. Raises `InvalidMessage`."""
    choice = body.get("inbox", "keep")
    if choice not in ("keep", "drop"):
        raise InvalidMessage("'inbox' must be keep or drop")
    return bool(choice == "drop")


def clean_text(name: str, text: str) -> str:
    # Names are joined by NUL where one key is made of several: nobody may choose where one ends.
    if "\0" in text:
        raise InvalidMessage(f"'{name}' holds a NUL character")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidMessage(f"'{name}' holds half of a surrogate pair, which is no text") from None
    return text


def optional_text(body: Mapping[str, Any], name: str, longest: int) -> str | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value or len(value) > longest:
        raise InvalidMessage(f"'{name}' must be a text of 1 to {longest} characters")
    return clean_text(name, value)


def read_function(function: object) -> tuple[str, dict[str, Any]]:
    """The name and the parameters of a function that a caller runs."""
    if not isinstance(function, Mapping):
        raise InvalidMessage("a function must be an object with a 'name'")
    name, parameters = optional_text(function, "name", MAX_FUNCTION_NAME), function.get("parameters")
    if name is None:
        raise InvalidMessage("a function needs a 'name'")
    if not isinstance(parameters, Mapping | None):
        raise InvalidMessage(f"the 'parameters' of function {name!r} must be a JSON schema, an object")
    return name, dict(parameters or {})


def optional_number(body: Mapping[str, Any], name: str, largest: float) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    # True is a number to Python, and NaN is neither below nor above a bound.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= largest:
        raise InvalidMessage(f"'{name}' must be a number from 0 to {largest:g}")
    if not math.isfinite(value):
        raise InvalidMessage(f"'{name}' must be a finite number")
    return float(value)


def optional_flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name, False)
    if not isinstance(value, bool):
        raise InvalidMessage(f"'{name}' must be true or false")
    return value


def _policy(body: Mapping[str, Any]) -> Any:
    value = body.get("on_busy")
    if value is not None and value not in BUSY_POLICIES:
        raise InvalidMessage(f"'on_busy' must be one of {', '.join(BUSY_POLICIES)}")
    return value


def _parameters(body: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is asked of the answer: `effort` and `format` for what is asked most, `parameters` for
    all else.
    """
    parameters, effort, form = body.get("parameters"), body.get("effort"), body.get("format")
    if parameters is None and effort is None and form is None:
        return None
    values = dict(free_object("parameters", parameters)) if parameters is not None else {}
    if wrong := wrong_form(values):
        raise InvalidMessage(wrong)
    if effort is not None:
        if effort not in EFFORTS:
            raise InvalidMessage(f"'effort' must be one of {', '.join(EFFORTS)}")
        _check_free(values, "effort", "reasoning", "reasoning_effort")
        values["reasoning"] = {"effort": effort}
    if form is not None:
        _check_free(values, "format", "text", "response_format")
        values["text"] = {"format": _format(form)}
    if len(json.dumps(values)) > MAX_PARAMETERS:
        raise InvalidMessage(f"what is asked of the answer has more than {MAX_PARAMETERS} bytes")
    return values or None


def _check_free(values: Mapping[str, Any], name: str, *others: str) -> None:
    if twice := [other for other in others if other in values]:
        raise InvalidMessage(f"give either {name!r} or {twice[0]!r} in 'parameters', not both")


def _format(form: object) -> dict[str, Any]:
    """The form of a structured answer, flat or as Chat Completions nests it; a schema without a
    name gets one.
    """
    if not isinstance(form, Mapping) or form.get("type") not in FORMATS:
        raise InvalidMessage(f"'format' must be an object whose type is one of {', '.join(FORMATS)}")
    if form["type"] != "json_schema":
        return {"type": form["type"]}
    schema_format = form.get("json_schema", form)
    if not isinstance(schema_format, Mapping) or not isinstance(schema_format.get("schema"), Mapping):
        raise InvalidMessage("'format' of type json_schema must hold a 'schema', an object")
    name = optional_text(schema_format, "name", MAX_FORMAT_NAME) or "answer"
    return free_object("format", {**schema_format, "type": "json_schema", "name": name})


def read_metadata(value: object) -> dict[str, str | None]:
    """What changes in the metadata of a thread: None removes."""
    if not isinstance(value, Mapping) or len(value) > MAX_METADATA:
        raise InvalidMessage(f"'metadata' must be an object of at most {MAX_METADATA} texts")
    for name, text in value.items():
        if not isinstance(name, str) or len(name) > MAX_METADATA_NAME:
            raise InvalidMessage(f"'metadata' has names of at most {MAX_METADATA_NAME} characters")
        if text is not None and (not isinstance(text, str) or len(text) > MAX_METADATA_TEXT):
            raise InvalidMessage(
                f"'metadata' holds texts of at most {MAX_METADATA_TEXT} characters, or null to remove one"
            )
    return {clean_text("metadata", k): v if v is None else clean_text("metadata", v) for k, v in value.items()}


def _metadata(body: Mapping[str, Any]) -> dict[str, str]:
    value = body.get("metadata")
    if value is None:
        return {}
    if not (isinstance(value, Mapping) and len(value) <= MAX_METADATA and all(map(_is_metadata, value.items()))):
        raise InvalidMessage(
            f"'metadata' must hold at most {MAX_METADATA} texts of {MAX_METADATA_TEXT} characters, "
            f"with names of {MAX_METADATA_NAME}"
        )
    return {clean_text("metadata", k): clean_text("metadata", v) for k, v in value.items()}


def _is_metadata(entry: tuple[object, object]) -> bool:
    name, text = entry
    return (
        isinstance(name, str)
        and isinstance(text, str)
        and len(name) <= MAX_METADATA_NAME
        and len(text) <= MAX_METADATA_TEXT
    )


def free_object(name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or len(value) > MAX_ENTRIES:
        raise InvalidMessage(f"'{name}' must be an object of at most {MAX_ENTRIES} entries")
    clean_text(name, json.dumps(value, ensure_ascii=False))
    return value
