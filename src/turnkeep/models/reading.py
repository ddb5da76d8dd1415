"""What a server says, from its bytes to values, as far as it makes sense: what only decorates may be
odd, what carries meaning may not.

`Framer` cuts the bytes into server-sent events by the standard: lines end with LF, CRLF or CR (also
when a read falls between the two), one leading byte order mark, comments, several `data` lines in
one event, `event`, `id` and `retry`. An event that the end of the stream cuts off is not given by
`push`; `rest` has it. Bytes stay bytes: a character split over two reads needs no care. Beyond the
standard, a line `error: …` (llama.cpp) is an event of that name. Cost matters here, every token
passes: what all OpenAI-compatible servers send (LF, one `data` line, at most one `event` line
before it) never reaches the line parser.

The readers decode with orjson and come here for the few events that it does not take, or that hold
other types than the API describes: values, texts, halves of characters, what an answer rests on (in
the several forms in which servers tell it), and whether an event is an error. `json_bytes` is the way back.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import orjson

from turnkeep.errors import AnswerMalformed, AnswerUnreadable
from turnkeep.messages import Citation

StreamEvent = tuple[bytes, bytes]
"""One event: its name (empty when it has none) and its data."""

MAX_EVENT = 8 * 1024 * 1024
PLACE_OF_PAST = b"\0"
"""Stands in a body for a past that was put into words before. No JSON has this byte."""

_BOM = b"\xef\xbb\xbf"

# Python servers write NaN and raw control characters, which orjson refuses.
_DECODER = json.JSONDecoder(strict=False)
_BLANKS = re.compile(r"[\s\0]*")

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
# Lone surrogates but those that stand for a byte (`surrogateescape`).
_LONE = re.compile("[\ud800-\udc7f\udd00-\udfff]")

_COMPLAINING = ("detail", "errors", "error_msg", "error_message")
_WITHOUT_TEXT = frozenset((int, float, bool, type(None)))
_FINE = (None, "", 0, "0", 200, "200", "ok", "OK", "success")


class Framer:
    """Cuts one stream into frames. After an error it is of no further use."""

    __slots__ = ("_after_cr", "_has_started", "_limit", "_pending", "_pending_size")

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._after_cr = False
        self._has_started = False

    def push(self, data: bytes) -> list[StreamEvent]:
        """The frames that these bytes complete, in order.

        Raises AnswerMalformed when one event is larger than the limit.
        """
        if not self._has_started:
            data = self._without_bom(data)
        if not data:
            return []
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        if self._pending:
            if not self._completes(data):
                self._keep(data)
                return []
            data = b"".join((*self._pending, data))
        blocks = data.split(b"\n\n")
        if (rest := blocks.pop()) or self._pending:
            self._restart(rest)
        if len(data) > self._limit:
            self._check_sizes(blocks)
        return self._frames(blocks)

    def rest(self) -> list[StreamEvent]:
        """The event that the end of the stream left without its blank line, if there is one."""
        block = b"".join(self._pending).rstrip(b"\n")
        self._restart(b"")
        return self._frames([block]) if block else []

    def _frames(self, blocks: list[bytes]) -> list[StreamEvent]:
        frames: list[StreamEvent] = []
        for block in blocks:
            lines = block.count(b"\n")
            if lines == 1 and block.startswith(b"event: "):
                end = block.find(b"\ndata: ")
                if end > 0:
                    frames.append((block[7:end], block[end + 7 :]))
                    continue
            elif lines == 0 and block.startswith(b"data: "):
                frames.append((b"", block[6:]))
                continue
            if (frame := self._parse(block)) is not None:
                frames.append(frame)
        return frames

    def _parse(self, block: bytes) -> StreamEvent | None:
        name, data = b"", []
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value
            elif field == b"error" and value.startswith(b"{"):
                name = field
                data.append(value)
        return (name, b"\n".join(data)) if data else None

    def _without_bom(self, data: bytes) -> bytes:
        data = b"".join((*self._pending, data))
        self._restart(b"")
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._restart(data)
            return b""
        self._has_started = True
        return data.removeprefix(_BOM)

    def _with_lf(self, data: bytes) -> bytes:
        # The LF of a CRLF that was cut in two: its CR has already ended the line.
        if self._after_cr:
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _completes(self, data: bytes) -> bool:
        return b"\n\n" in data or (data.startswith(b"\n") and self._pending[-1].endswith(b"\n"))

    def _keep(self, data: bytes) -> None:
        if data:
            self._pending.append(data)
            self._pending_size += len(data)
            self._check(self._pending_size - 1)  # the last byte may belong to the blank line

    def _restart(self, rest: bytes) -> None:
        self._pending = [rest] if rest else []
        self._pending_size = len(rest)
        self._check(len(rest) - 1)

    def _check_sizes(self, blocks: list[bytes]) -> None:
        for block in blocks:
            self._check(len(block))

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise AnswerMalformed(f"one event of the stream is larger than {self._limit} bytes")


def words(value: object) -> str:
    """A text; nothing is an empty one, a number its digits.

    Raises AnswerUnreadable for anything else.
    """
    if type(value) is str:
        return value
    if value is None:
        return ""
    if isinstance(value, int | float):
        return json.dumps(value)
    raise AnswerUnreadable(f"the model server sends {_kind(value)} where a text belongs")


def label(value: object) -> str | None:
    """The name of something (an id, a model), None where there is none or what is there names nothing."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None


def mapping(value: object) -> Mapping[str, Any]:
    """An object; anything else is an empty one."""
    return value if isinstance(value, Mapping) else {}


def entries(value: object) -> Sequence[Any]:
    """A list, or its one entry that stands alone.

    Raises AnswerUnreadable for anything else that is not empty.
    """
    if isinstance(value, list):
        return value
    if isinstance(value, Mapping):
        return (value,) if value else ()
    if not value:
        return ()
    raise AnswerUnreadable(f"the model server sends {_kind(value)} where a list belongs")


def text_of_content(content: object) -> str:
    """The words of a content: a text, or the texts among its parts; thoughts and pictures in it are
    no words.
    """
    if isinstance(content, list):
        return "".join(_part(part) for part in content)
    if isinstance(content, Mapping) and isinstance(content.get("text"), str):
        return _part(content)
    return words(content)


def _part(part: object) -> str:
    if not isinstance(part, Mapping):
        return words(part)
    if part.get("type") in ("text", "output_text", "refusal", None):
        return words(part.get("text")) or words(part.get("refusal"))
    return ""


def _kind(value: object) -> str:
    return "an object" if isinstance(value, Mapping) else "a list" if isinstance(value, list) else "a truth value"


def is_json(text: str | bytes) -> bool:
    """Whether this is JSON to the letter, as it has to be where it goes on to somebody else."""
    try:
        orjson.loads(text)
    except ValueError:
        return False
    return True


def json_values(data: bytes) -> list[Any]:
    """The JSON values in the data of one event: usually one, several where a server glued events together.

    Takes what Python servers write (NaN, raw control characters) and broken UTF-8, whose bytes
    become lone surrogates for `Halves`. What is no JSON at all (heartbeats, remarks) is no value.
    Raises AnswerMalformed for an object that is cut off or damaged: it may have carried a part of
    the answer.
    """
    # Broken bytes may be half a character: the rest comes with the next event.
    text = data.decode("utf-8", "surrogateescape")
    values: list[Any] = []
    place = _end_of_blanks(text, 0)
    while place < len(text):
        try:
            value, end = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            # Only an object can have carried a part of the answer; heartbeats and remarks have not.
            if text.startswith(("{", "[{"), place):
                raise AnswerMalformed("the stream holds an event that is damaged or cut off") from error
            break
        values.append(value)
        place = _end_of_blanks(text, end)
    return values


def _end_of_blanks(text: str, start: int) -> int:
    blanks = _BLANKS.match(text, start)
    return blanks.end() if blanks else start


class Halves:
    """Joins characters that a server cut in two: halves of a surrogate pair, or the bytes of one character."""

    def __init__(self) -> None:
        self._high = ""
        self._bytes = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def is_waiting(self) -> bool:
        """Whether a half waits for its other half."""
        return bool(self._high or self._bytes.getstate()[0])

    def take(self, text: str, *, final: bool = False) -> str:
        """As `join`, and at no cost where nothing is cut."""
        # Nearly all texts are whole, and joining would decode each of them anew.
        return self.join(text, final=final) if final or self.is_waiting or not is_whole(text) else text

    def join(self, text: str, *, final: bool = False) -> str:
        """The whole characters so far; what stays alone is U+FFFD, at the end (`final`) the last
        half too.
        """
        text = _PAIR.sub(_join_pair, self._high + text)
        self._high = ""
        if not final and text and "\ud800" <= text[-1] <= "\udbff":
            text, self._high = text[:-1], text[-1]
        return self._bytes.decode(_LONE.sub("\ufffd", text).encode("utf-8", "surrogateescape"), final)


def repair_text(text: str) -> str:
    """A text that can be written as UTF-8."""
    return text if is_whole(text) else Halves().join(text, final=True)


def made_whole(value: Any) -> Any:
    """The same with every text in it mended; the value itself where there is nothing to mend."""
    # Asked first: nearly nothing needs it, and a copy of every part of an answer costs more than a look.
    return _mend(value) if _holds_half(value) else value


def _holds_half(value: Any) -> bool:
    if value.__class__ in _WITHOUT_TEXT:  # counts, flags and what is not there: most of it
        return False
    if isinstance(value, str):
        return not is_whole(value)
    if isinstance(value, Mapping):
        return any(_holds_half(name) or _holds_half(entry) for name, entry in value.items())
    if isinstance(value, list | tuple):
        return any(map(_holds_half, value))
    # As `fields` does it, which makes a tuple for each look.
    return any(_holds_half(getattr(value, name)) for name in getattr(type(value), "__dataclass_fields__", ()))


def _mend(value: Any) -> Any:
    if isinstance(value, str):
        return repair_text(value)
    if isinstance(value, Mapping):
        return {_mend(name): _mend(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_mend, value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{field.name: _mend(getattr(value, field.name)) for field in fields(value)})
    return value


def is_whole(text: str) -> bool:
    """Whether no half of a character is in it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _join_pair(halves: re.Match[str]) -> str:
    return halves[0].encode("utf-16", "surrogatepass").decode("utf-16")


def citations_of_annotations(annotations: object, *, offset: int = 0) -> list[Citation]:
    """The citations among the annotations of a text that begins at `offset` of its item.

    Both protocols of OpenAI: an annotation holds its fields itself, or in an object by the name of
    its type. What cites nothing, and what is no annotation, is left out.
    """
    if not isinstance(annotations, list):
        return []
    citations = [_citation(mapping(entry), offset) for entry in annotations]
    return [citation for citation in citations if citation is not None]


def citations_of_sources(chunk: Mapping[str, Any]) -> list[Citation]:
    """Sources that stand beside an answer without a place in it (Perplexity's `search_results`, `citations`)."""
    results = chunk.get("search_results") or chunk.get("citations")
    if not isinstance(results, list):
        return []
    citations = [_citation({"url": entry} if isinstance(entry, str) else mapping(entry), 0) for entry in results]
    return [citation for citation in citations if citation is not None]


def _citation(entry: Mapping[str, Any], offset: int) -> Citation | None:
    fields = mapping(entry.get(label(entry.get("type")) or "")) or entry
    url, file_id = label(fields.get("url")) or "", label(fields.get("file_id")) or ""
    if not (url or file_id):
        return None
    title = label(fields.get("title")) or label(fields.get("filename")) or ""
    start, end = (_place(fields.get(name)) for name in ("start_index", "end_index"))
    if end <= start:
        return Citation(url=url, title=title, file_id=file_id)
    quote = label(fields.get("cited_text")) or label(fields.get("quote")) or ""
    return Citation(start + offset, end + offset, url, title, quote, file_id)


def _place(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def json_bytes(value: Any) -> bytes:
    """The JSON of a body or a part of it; never raises for what a transcript may hold."""
    try:
        return orjson.dumps(value, default=dict)
    except TypeError:  # half a surrogate pair in somebody's text: JSON allows it, UTF-8 does not
        return orjson.dumps(_encodable(value))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {_encodable(name): _encodable(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(entry) for entry in value]
    return value


def request_id(headers: Mapping[str, str]) -> str | None:
    """The provider's name for this request; expects lower-case header names."""
    for name in ("x-request-id", "request-id", "apim-request-id", "x-ms-request-id", "cf-ray"):
        if value := headers.get(name):
            return value
    return None


def error_in(event: Mapping[str, Any]) -> object | None:
    """The error that a decoded chunk or event carries, if it carries one."""
    error: object = event.get("error")
    if error:
        return error
    beside = event.get("x_groq")
    if isinstance(beside, Mapping) and beside.get("error"):
        return beside
    verdict = event.get("base_resp")
    if isinstance(verdict, Mapping) and verdict.get("status_code"):
        return event
    is_error = "error" in (event.get("type"), event.get("object"))
    return event if is_error else None


def complaint_in(event: Mapping[str, Any]) -> object | None:
    """What may be an error in a form of its own: what an answer that never came is explained with,
    and no more.
    """
    if any(event.get(name) for name in _COMPLAINING):
        return event
    is_said = isinstance(event.get("message"), str) or isinstance(event.get("msg"), str)
    return event if is_said and event.get("code") not in _FINE else None
