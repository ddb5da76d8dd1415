"""The tool calls of one answer while their pieces arrive, told apart however a server numbers them.

Known ways: by index; by id without an index; by nothing at all, where a name begins a call; every
call on index 0; whole calls in one piece; the old `function_call`. Nothing is guessed beyond that:
arguments that make no sense are left as they came, and the tool says so to the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import field
from typing import Any

import orjson

from turnkeep.errors import AnswerMalformed, AnswerUnreadable
from turnkeep.lean_dataclass import dataclass
from turnkeep.models.past import is_object
from turnkeep.models.reading import label, mapping, repair_text, words

# How servers say that a call has no arguments.
_NOTHING = frozenset(("", "null", "none", "undefined", '""', "[]"))

_CALL = frozenset(("id", "index", "type", "function"))
_FUNCTION = frozenset(("name", "arguments"))


@dataclass(slots=True)
class Piecework:
    """One tool call in the making."""

    id: str
    name: str
    pieces: list[str] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    """What the server put into the call beside what is understood."""

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def is_complete(self) -> bool:
        # The look at the last character saves parsing everything again with each piece.
        return bool(self.pieces) and self.pieces[-1].rstrip().endswith("}") and is_object(self.text)

    @property
    def arguments(self) -> str:
        """The arguments as the model meant them."""
        text = _clean_arguments(self.text)
        return self.pieces[-1] if not is_object(text) and self._is_growing() else text

    def _is_growing(self) -> bool:
        """Whether each piece repeats all before it, and the last is whole."""
        grows = all(later.startswith(earlier) for earlier, later in zip(self.pieces, self.pieces[1:], strict=False))
        return len(self.pieces) > 1 and grows and is_object(self.pieces[-1])


class CallPieces:
    """Puts calls together. `offered` are the names of the tools that the model was told of."""

    def __init__(self, tool_names: Set[str] = frozenset()) -> None:
        self._tool_names = tool_names
        self._calls: list[Piecework] = []
        self._by_index: dict[object, Piecework] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    @property
    def calls(self) -> list[Piecework]:
        """The calls in the order in which they began.

        Raises AnswerMalformed for arguments of no function.
        """
        calls = [call for call in self._calls if call.name or call.text.strip()]
        # Left out, the call would be missing from the turn, and nobody would know.
        if any(not call.name for call in calls):
            raise AnswerMalformed("the answer holds a tool call without a name")
        return calls

    def take(self, raw: object) -> None:
        """Take in one piece. Raises AnswerUnreadable for what is none."""
        if not isinstance(raw, Mapping):
            if raw:
                raise AnswerUnreadable("the model server sends a tool call that is no object")
            return
        function = mapping(raw.get("function")) or raw
        arguments = function.get("arguments")
        whole = arguments is not None and not isinstance(arguments, str)
        text = orjson.dumps(arguments).decode() if whole else arguments or ""
        call = self._call(_index(raw), label(raw.get("id")) or "", words(function.get("name")), text, whole=whole)
        _keep_fields(call, raw, function)

    def _call(self, index: object, call_id: str, name: str, text: str, *, whole: bool) -> Piecework:
        call = self._find(index, call_id, name)
        if call is None or self._begins(call, call_id, name, text, whole=whole):
            call = Piecework(call_id, name)
            self._calls.append(call)
            self._by_index[index] = call
        call.id = call.id or call_id
        call.name = self._whole_name(call, name)
        if text and not (_opens(text) and call.is_complete and _repeats(call, text)):
            call.pieces.append(text)
        return call

    def _find(self, index: object, call_id: str, name: str) -> Piecework | None:
        """The call that a piece goes on with; without an index the id decides, without an id the
        name begins one.
        """
        if index is None:
            if call_id:
                return next((call for call in self._calls if call.id == call_id), None)
            return None if name or not self._calls else self._calls[-1]
        call = self._by_index.get(index)
        if call and name and call.name and name != call.name and not self._is_rest(call, name):
            return None
        return call

    def _begins(self, call: Piecework, call_id: str, name: str, text: str, *, whole: bool) -> bool:
        """Whether this piece begins a call of its own although its index is taken."""
        # Servers that send every call on index 0 tell them apart by their ids alone.
        if call_id and call.id and call_id != call.id and name:
            return True
        if not text or not call.pieces:
            return False
        if whole or (name and call.is_complete):
            return text != call.text and not (call_id and call.text.strip() == "{}")
        return False

    def _whole_name(self, call: Piecework, name: str) -> str:
        if not name or not call.name or not self._is_rest(call, name):
            return call.name or name
        return _extend(call.name, name)

    def _is_rest(self, call: Piecework, name: str) -> bool:
        """Whether a name goes on, or comes again longer: the tools that exist decide."""
        if call.pieces or (
            name in self._tool_names and (call.name in self._tool_names or not name.startswith(call.name))
        ):
            return False
        whole_name = _extend(call.name, name)
        return any(tool.startswith(whole_name) for tool in self._tool_names)


def _extend(name: str, more: str) -> str:
    return more if more.startswith(name) else name + more


def _opens(text: str) -> bool:
    return text.lstrip().startswith("{")


def _repeats(call: Piecework, text: str) -> bool:
    """Whether whole arguments come once more; an empty object before the real one is forgotten."""
    if call.text.strip() == "{}" and text.strip() != "{}":
        call.pieces.clear()
    return text == call.text


def _index(raw: Mapping[str, Any]) -> object:
    index = raw.get("index")
    if isinstance(index, str):
        return int(index) if index.isdecimal() else index or None
    return index if isinstance(index, int | float) else None


def _keep_fields(call: Piecework, raw: Mapping[str, Any], function: Mapping[str, Any]) -> None:
    standard = _CALL if function is not raw else _CALL | _FUNCTION
    # Gemini signs calls in fields of its own, and refuses a call that comes back without them.
    if more := {name: value for name, value in raw.items() if name not in standard and value is not None}:
        call.fields.update(more)
    if function is raw:
        return
    if inner := {name: value for name, value in function.items() if name not in _FUNCTION and value is not None}:
        call.fields.setdefault("function", {}).update(inner)


def arguments_of(value: object) -> str:
    """The arguments of a call that came in one piece, as JSON text or as JSON."""
    return _clean_arguments(value if isinstance(value, str) else "" if value is None else orjson.dumps(value).decode())


def _clean_arguments(text: str) -> str:
    """Arguments without an empty object before the real one, unwrapped where
    they were encoded twice.
    """
    text = repair_text(text)
    if text.strip().lower() in _NOTHING:
        return "{}"
    if not is_object(text):
        if (inner := _unwrap(text)) is not None:
            return inner
        if text.startswith("{}") and is_object(text[2:]):
            return text[2:]
    return text


def _unwrap(text: str) -> str | None:
    """The object in arguments that were encoded twice."""
    try:
        inner = orjson.loads(text)
    except ValueError:
        return None
    return inner if isinstance(inner, str) and is_object(inner) else None
