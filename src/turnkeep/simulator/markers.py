"""Markers in a user's text that steer the simulator, such as
``[[say:hello]]`` or ``[[fault:429 times=2]]``.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import field

from turnkeep.lean_dataclass import dataclass

NAMES = (
    *("say", "words", "call", "then", "loop", "worst", "pace", "ttft", "reason", "refuse"),
    *("length", "filter", "incomplete", "comment", "search", "draw", "pause", "fault"),
)
# Names that exist open a marker and nothing else: [[links of a wiki]] in a text are words.
_OPENING = re.compile(rf"\[\[({'|'.join(NAMES)})(?=[\]: ])[: ]?\s*")
_TOOL = re.compile(r"\s*([\w.-]*)\s*")
_CLOSING = re.compile(r"\s*\]\]")
_TOOLS = ("call", "then", "loop")
# Not by expressions: a string within the arguments may hold "]]".
_JSON = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Marker:
    """`text` is what stands after the colon; tools have their arguments apart, faults
    their parameters.
    """

    name: str
    text: str = ""
    arguments: str = "{}"
    parameters: Mapping[str, str] = field(default_factory=dict)


# Each step and each retry brings the same texts again.
@functools.lru_cache(maxsize=4096)
def parse(text: str) -> tuple[tuple[Marker, ...], str]:
    """The markers of a text, and the text without them. What is no marker stays as it is."""
    markers: list[Marker] = []
    plain: list[str] = []
    at = 0
    while opening := _OPENING.search(text, at):
        marker, end = _read(text, opening.group(1), opening.end())
        if marker is None:
            plain.append(text[at : opening.end()])
        else:
            markers.append(marker)
            plain.append(text[at : opening.start()])
        at = end
    plain.append(text[at:])
    if not markers:
        return (), text.strip()
    return tuple(markers), re.sub(r" {2,}", " ", "".join(plain)).strip()


def _read(text: str, name: str, at: int) -> tuple[Marker | None, int]:
    if name in _TOOLS:
        return _read_tool(text, name, at)
    end = text.find("]]", at)
    if end < 0:
        return None, at
    body = text[at:end]
    return (_fault(body) if name == "fault" else Marker(name, body.strip(" "))), end + 2


def _read_tool(text: str, name: str, at: int) -> tuple[Marker | None, int]:
    tool = _TOOL.match(text, at)
    if tool is None:
        return None, at
    end = tool.end()
    arguments = "{}"
    if text.startswith(("{", "["), end):
        try:
            _, stop = _JSON.raw_decode(text, end)
        except ValueError:
            return None, at
        arguments, end = text[end:stop], stop
    close = _CLOSING.match(text, end)
    if close is None:
        return None, at
    return Marker(name, tool.group(1), arguments), close.end()


def _fault(body: str) -> Marker:
    words = body.split()
    pairs = [(key, value) for key, equals, value in (word.partition("=") for word in words[1:]) if equals]
    return Marker("fault", words[0] if words else "", parameters=dict(pairs))
