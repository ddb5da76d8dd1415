"""The past in the words of a protocol: made once for each turn and server, and kept with the turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from turnkeep.messages import CallItem, Item
from turnkeep.models.capabilities import Capabilities
from turnkeep.models.fit import ToolNames, fit
from turnkeep.models.model import ModelRequest
from turnkeep.models.past import Past, PastTurn
from turnkeep.models.writing import json_bytes

MOST_FORMS = 16
"""Forms of one server that are remembered: one for what it is known to take, and
one for each lesson.
"""

_OWN_NAMES = ToolNames.of(())

Render = Callable[[Sequence[Item], Capabilities], Sequence[Any]]
"""Items in the words of a protocol, as plain JSON."""


class PastForm:
    """What one server takes, in one protocol."""

    def __init__(self, caps: Capabilities, site: str, render: Render, *, alternates: bool) -> None:
        self._caps = caps
        self._site = site
        self._render = render
        self._alternates = alternates

    def words(self, past: Past, names: ToolNames, *, offers_tools: bool) -> list[bytes] | None:
        """The words of each turn, without brackets; None where the server wants something of it moved
        or renamed: then the request is put into words as a whole.
        """
        if not self._leaves_in_place(past, names, offers_tools=offers_tools):
            return None
        words = [turn.words if turn.form is self else self._remember(turn) for turn in past.turns]
        return None if None in words else [text for text in words if text]

    def _leaves_in_place(self, past: Past, names: ToolNames, *, offers_tools: bool) -> bool:
        caps = self._caps
        if not (caps.takes_consecutive_roles and caps.takes_system_role):
            return False
        if past.has_system and (self._alternates or not caps.takes_late_system):
            return False
        if not past.call_ids:
            return True
        keeps_calls = caps.takes_calls_together and caps.takes_user_after_tool
        keeps_calls = keeps_calls and (offers_tools or not caps.wants_declared_tools)
        return keeps_calls and all(names.there(name) == _OWN_NAMES.there(name) for name in past.call_names)

    def _remember(self, turn: PastTurn) -> bytes | None:
        # nothing of it is of the current turn, so pictures are those of the past
        items = fit(ModelRequest("", turn.items, current=0), self._caps, self._site).request.items
        entries = self._render(items, self._caps)
        keeps_ids = turn.call_ids == {item.call_id for item in items if isinstance(item, CallItem)}
        stands_alone = keeps_ids and not (self._alternates and _roles_at_ends(entries) != ("user", "assistant"))
        turn.form, turn.words = self, json_bytes(entries)[1:-1] if stands_alone else None
        return turn.words


def _roles_at_ends(entries: Sequence[Any]) -> tuple[str, str] | None:
    return (entries[0]["role"], entries[-1]["role"]) if entries else None


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A request without its past, and the words of that."""

    request: ModelRequest
    words: Sequence[bytes]

    def whole(self, body: dict[str, Any], name: str) -> dict[str, Any]:
        """The body of the request, with the past in its place: after what the operator says, before
        the first word of a user.
        """
        if not self.words or name not in body:
            return body
        entries = body[name]
        first = next(place for place, entry in enumerate(entries) if entry.get("role") == "user")
        parts = [*map(json_bytes, entries[:first]), *self.words, *map(json_bytes, entries[first:])]
        # the brackets before the parts are one: each copy of a long past is megabytes of fresh memory
        parts[0] = b"[" + parts[0]
        parts[-1] += b"]"
        return {**body, name: orjson.Fragment(b",".join(parts))}


class PastForms:
    """All forms in which a server is told the past, in one protocol.

    `alternates`: neighbours of one role are one entry there, so that only a turn that ends with the
    assistant stands for itself. `open_turns`: so many of the last turns are told with the request,
    because it marks something in them.
    """

    def __init__(self, site: str, render: Render, *, alternates: bool = False, open_turns: int = 0) -> None:
        self._site = site
        self._render = render
        self._alternates = alternates
        self._open_turns = open_turns
        self._forms: dict[Capabilities, PastForm] = {}

    def excerpt(self, request: ModelRequest, caps: Capabilities) -> Excerpt | None:
        """None where the request has to be put into words as a whole."""
        past = request.past
        if past is None or not past.leads_to(request.items[len(past.items) :]):
            return None
        past = past.without_newest(self._open_turns)
        rest = request.items[len(past.items) :]
        names = ToolNames.of(tool.name for tool in request.tools)
        offers_tools = bool(request.tools or request.hosted_tools)
        words = self._form(caps).words(past, names, offers_tools=offers_tools)
        return None if words is None else Excerpt(replace(request, items=rest, past=None), words)

    def _form(self, caps: Capabilities) -> PastForm:
        form = self._forms.get(caps)
        if form is None:
            if len(self._forms) >= MOST_FORMS:
                self._forms.clear()
            form = self._forms[caps] = PastForm(caps, self._site, self._render, alternates=self._alternates)
        return form
