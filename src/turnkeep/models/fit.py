"""Makes a request fit its server: the last step before it is put into the words of a protocol.

A transcript holds what people, models and tools said, also what another server's model said: ids of
any form, names that a model mangled, pictures, thoughts, turns without a text. A server that
refuses one entry of the past would refuse every later message of its thread. So all that a server
is known not to take is replaced here, by what says the same: always where nothing is lost, and
where something is lost as its capabilities say. The transcript itself stays as it is. Pure: the
same request and capabilities give the same result, so that prefixes stay cached. The past is put
into the words of the protocol once for each turn and server, and these are kept with the newest turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    Content,
    HostedItem,
    Item,
    OutputItem,
    Part,
    ReasoningItem,
    SystemItem,
    UserItem,
    turns_of,
)
from turnkeep.models.call_ids import digest, respell_calls
from turnkeep.models.capabilities import Capabilities
from turnkeep.models.model import ModelRequest, ToolSpec, output_limit, with_output_limit
from turnkeep.models.past import Past, PastTurn, PastWords, without_idle_reasoning
from turnkeep.models.reading import PLACE_OF_PAST, json_bytes
from turnkeep.models.role_order import bridge, join_roles, one_by_one, preface

LONGEST_NAME = 64
"""Characters of a tool's name: what OpenAI, Anthropic and all that follow them take."""

EMPTY = "(empty)"
NO_OUTPUT = "(no output)"
NO_IMAGE = "(an image that cannot be shown here)"
NO_FILE = "(a file that cannot be read here)"

_NAMING = frozenset(("properties", "patternProperties", "$defs", "definitions"))

MOST_FORMS = 16
"""Forms of one server that are remembered: one for what it is known to take, and
one for each lesson.
"""

Render = Callable[[Sequence[Item], Capabilities], Sequence[Any]]
"""Items in the words of a protocol, as plain JSON."""


@dataclass(frozen=True, slots=True)
class ToolNames:
    """Names of tools as a server takes them, and back.

    Servers agree on letters, digits, `_` and `-`, up to 64.
    """

    names_sent: Mapping[str, str]
    """By our name the name that is sent."""

    @classmethod
    def of(cls, names: Iterable[str]) -> ToolNames:
        spellings: dict[str, str] = {}
        in_use: set[str] = set()
        for name in names:
            fit = _fit_name(name)
            if fit in in_use:  # another name is spelled like this one
                fit = _short_name(fit, name)
            in_use.add(fit)
            spellings[name] = fit
        return cls(spellings)

    def there(self, name: str) -> str:
        """The name that is sent, of a tool or of a call in the past."""
        return self.names_sent.get(name) or _fit_name(name)

    def here(self, name: str) -> str:
        """Our name of what a model called: without what models put around it, if that gives a tool
        that exists.
        """
        ours = {fit: name for name, fit in self.names_sent.items()}
        for spelling in (name, name.strip(), *_bare_names(name.strip())):
            if spelling in ours:
                return ours[spelling]
        return name


def _bare_names(name: str) -> Iterator[str]:
    """`look_up<|channel|>commentary` of gpt-oss, `functions.look_up:0` of Kimi,
    `default_api.look_up` of Gemini.
    """
    bare = name.partition("<|")[0].strip()
    yield bare
    bare = bare.removeprefix("functions.").removeprefix("default_api.").removeprefix("default_api:")
    yield bare
    yield re.sub(r":\d+$", "", bare)


@dataclass(frozen=True, slots=True)
class Fit:
    """A request that its server takes, and the names to read its answer by."""

    request: ModelRequest
    names: ToolNames


def fit(request: ModelRequest, caps: Capabilities, site: str) -> Fit:
    """The request as the server at this site takes it.

    Guarantees: pairs stay pairs, user items keep their order and words, nothing that was attached
    at another site is left, the last turn keeps its pictures and files (a server that refuses these
    says so to who sent them).
    """
    names = ToolNames.of(tool.name for tool in request.tools)
    items = _fit_items(request.items, request.current, names, caps, site)
    tools: Sequence[ToolSpec] = [_fit_tool(tool, names, caps) for tool in request.tools]
    parameters = _cap_output(_respell_choice(request.parameters, names), caps)
    # The last step offers no tools; Bedrock refuses calls of tools that it was not told of.
    if caps.wants_declared_tools and not (tools or request.hosted_tools) and (tools := _called_tools(items)):
        parameters = {**parameters, "tool_choice": "none"}
    items, instructions = _arrange(items, request.instructions, caps)
    request = replace(request, items=items, instructions=instructions, tools=tools, parameters=parameters)
    return Fit(request, names)


def _fit_items(
    items: Sequence[Item], current: int | None, names: ToolNames, caps: Capabilities, site: str
) -> list[Item]:
    """The items as the server takes them, each by itself; `current` as in `ModelRequest`."""
    whole = list(_without_blank_texts(_own(_without_old_media(items, current, caps), caps, site)))
    items = without_idle_reasoning(whole)
    has_calls = any(item.kind == "call" for item in items)
    return respell_calls(items, names.there, caps.call_ids) if has_calls else items


def _cap_output(parameters: Mapping[str, Any], caps: Capabilities) -> Mapping[str, Any]:
    """The parameters without a limit of the answer that is above the server's."""
    most = caps.most_output_tokens
    if most is None or (limit := output_limit(parameters)) is None or limit <= most:
        return parameters
    return with_output_limit(parameters, most)


def _own(items: Iterable[Item], caps: Capabilities, site: str) -> Iterator[Item]:
    """The items with what this site attached to them, and nothing else."""
    for item in items:
        match item:
            case ReasoningItem() | HostedItem():
                # What one server has sealed or signed, another one cannot read, and often refuses.
                if item.site in (None, site) and caps.takes_thoughts:
                    yield item
            case AssistantItem() | CallItem() if item.provider_data:
                own = item.provider_data.site == site and caps.takes_thoughts
                yield item if own else replace(item, provider_data=None)
            case _:
                yield item


def _without_old_media(items: Sequence[Item], current: int | None, caps: Capabilities) -> Iterable[Item]:
    """The items without pictures and files of the past that the server refuses."""
    if caps.takes_images and caps.takes_image_ids and caps.takes_files:
        return items
    if current is None:
        turns = turns_of(items)
        current = len(turns[-1]) if turns else 0
    # Not those of this turn: who has just sent a picture has to hear that it cannot be seen.
    past = len(items) - current
    return [*(_with_notes(item, caps) for item in items[:past]), *items[past:]]


def _with_notes(item: Item, caps: Capabilities) -> Item:
    if not isinstance(item, UserItem):
        return item
    content = tuple(_media_or_note(part, caps) for part in item.content)
    return item if content == item.content else replace(item, content=content)


def _media_or_note(part: Part, caps: Capabilities) -> Part:
    if part.type == "image":
        by_address = bool(part.data and part.data.get("image_url"))
        takes = caps.takes_images and (by_address or caps.takes_image_ids)
        return part if takes else Part("text", NO_IMAGE)
    if part.type == "file" and not caps.takes_files:
        return Part("text", NO_FILE)
    return part


def _without_blank_texts(items: Iterable[Item]) -> Iterator[Item]:
    """The items without blank texts, which several servers refuse."""
    for item in items:
        match item:
            case AssistantItem() if not item.text.strip():
                continue
            case SystemItem() if not item.text.strip():
                continue
            case UserItem() if not item.content:  # it asks for an answer to what was said before
                continue
            case UserItem() if any(part.type == "text" and not part.text.strip() for part in item.content):
                yield replace(item, content=_content_without_blanks(item.content))
            case OutputItem() if not item.output.strip():
                yield replace(item, output=NO_OUTPUT)
            case _:
                yield item


def _content_without_blanks(content: Content) -> Content:
    parts = tuple(part for part in content if part.type != "text" or part.text.strip())
    return parts if parts else (Part("text", EMPTY),)


def _fit_name(name: str) -> str:
    fit = re.sub(r"[^a-zA-Z0-9_-]+", "_", name)
    fit = fit if fit[:1].isalpha() or fit[:1] == "_" else f"_{fit}"
    return fit if len(fit) <= LONGEST_NAME else _short_name(fit, name)


def _short_name(fit: str, name: str) -> str:
    # With a digest, so that two long names that begin alike stay two.
    return f"{fit[: LONGEST_NAME - 9]}_{digest(name, 8)}"


def _fit_tool(tool: ToolSpec, names: ToolNames, caps: Capabilities) -> ToolSpec:
    schema = _without(tool.parameters, caps.drops_keywords) if caps.drops_keywords else tool.parameters
    strict = tool.strict and caps.takes_strict_tools
    return replace(tool, name=names.names_sent[tool.name], parameters=schema, strict=strict)


def _without(schema: Any, keywords: frozenset[str], *, names: bool = False) -> Any:
    """A schema without these keywords; `names`: the keys here are names of properties."""
    if isinstance(schema, Mapping):
        return {
            key: _without(value, keywords, names=not names and key in _NAMING)
            for key, value in schema.items()
            if names or key not in keywords
        }
    return [_without(entry, keywords) for entry in schema] if isinstance(schema, list) else schema


def _called_tools(items: Iterable[Item]) -> list[ToolSpec]:
    names = dict.fromkeys(item.name for item in items if isinstance(item, CallItem))
    return [ToolSpec(name, "Not available now.", {"type": "object", "properties": {}}) for name in names]


def _respell_choice(parameters: Mapping[str, Any], names: ToolNames) -> Mapping[str, Any]:
    """The parameters with the name of a chosen tool as it is sent."""
    choice = parameters.get("tool_choice")
    if not isinstance(choice, Mapping):
        return parameters
    function = choice.get("function")
    if isinstance(function, Mapping) and isinstance(name := function.get("name"), str):
        return {**parameters, "tool_choice": {**choice, "function": {**function, "name": names.there(name)}}}
    if isinstance(name := choice.get("name"), str):
        return {**parameters, "tool_choice": {**choice, "name": names.there(name)}}
    return parameters


def _arrange(items: list[Item], instructions: str | None, caps: Capabilities) -> tuple[list[Item], str | None]:
    """Items in an order that the server takes, and what the operator says beside them."""
    if not (caps.takes_late_system and caps.takes_consecutive_roles and caps.takes_system_role):
        texts = [item.text for item in items if isinstance(item, SystemItem)]
        items = [item for item in items if not isinstance(item, SystemItem)]
        instructions = "\n\n".join(text for text in (instructions, *texts) if text) or None
    if instructions and not caps.takes_system_role:
        items, instructions = preface(items, instructions), None
    if not caps.takes_consecutive_roles:
        items = list(join_roles(items))
    if not caps.takes_calls_together:
        items = list(one_by_one(items))
    if not (caps.takes_user_after_tool and caps.takes_consecutive_roles):
        items = list(bridge(items))
    return items, instructions


_OWN_NAMES = ToolNames.of(())


class PastForm:
    """What one server takes, in one protocol."""

    def __init__(self, caps: Capabilities, site: str, render: Render, *, alternates: bool) -> None:
        self._caps = caps
        self._site = site
        self._render = render
        self._alternates = alternates

    def words(self, past: Past, request: ModelRequest) -> bytes | None:
        """The words of all turns, without brackets, before the rest of a request; None where the server wants
        something of it moved or renamed: then the request is put into words as a whole.
        """
        if not self._leaves_in_place(past, request):
            return None
        return self._words_of(past.turns) if past.turns else b""

    def _words_of(self, turns: Sequence[PastTurn]) -> bytes | None:
        """What was told last, with what is new since: a turn follows the same ones in every past that it is in."""
        count = next((place for place in range(len(turns), 0, -1) if turns[place - 1].is_told(self, place)), 0)
        if any(turn.misfit is self for turn in turns[count:]):
            return None
        own_words = [words for turn in turns[count:] if (words := self._own_words(turn)) is not None]
        if count + len(own_words) < len(turns):
            return None
        past_words = (turns[count - 1].words if count else None) or PastWords(self)
        turns[count - 1].words, turns[-1].words = None, past_words
        return past_words.grow(own_words, len(turns))

    def _leaves_in_place(self, past: Past, request: ModelRequest) -> bool:
        caps = self._caps
        if not (caps.takes_consecutive_roles and caps.takes_system_role):
            return False
        if past.has_system and (self._alternates or not caps.takes_late_system):
            return False
        if not past.call_ids:
            return True
        keeps_calls = caps.takes_calls_together and caps.takes_user_after_tool
        keeps_calls = keeps_calls and bool(request.tools or request.hosted_tools or not caps.wants_declared_tools)
        names = ToolNames.of(tool.name for tool in request.tools)
        return keeps_calls and all(names.there(name) == _OWN_NAMES.there(name) for name in past.call_names)

    def _own_words(self, turn: PastTurn) -> bytes | None:
        """Those of a turn; None where it does not stand for itself."""
        # nothing of it is of the current turn, so pictures are those of the past
        items, _ = _arrange(_fit_items(turn.items, 0, _OWN_NAMES, self._caps, self._site), None, self._caps)
        entries = self._render(items, self._caps)
        loses_ids = turn.call_ids != {item.call_id for item in items if isinstance(item, CallItem)}
        if loses_ids or (self._alternates and _roles_at_ends(entries) != ("user", "assistant")):
            turn.misfit = self
            return None
        return json_bytes(entries)[1:-1]


def _roles_at_ends(entries: Sequence[Any]) -> tuple[str, str] | None:
    return (entries[0]["role"], entries[-1]["role"]) if entries else None


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A request without its past, and the words of that."""

    request: ModelRequest
    words: bytes

    def put(self, body: dict[str, Any], name: str) -> tuple[dict[str, Any], bytes]:
        """The body of the request with the place of its past, after what the operator says and before the first
        word of a user; and the past.
        """
        if not self.words or name not in body:
            return body, b""
        first = next(place for place, entry in enumerate(body[name]) if entry.get("role") == "user")
        return {**body, name: [*body[name][:first], orjson.Fragment(PLACE_OF_PAST), *body[name][first:]]}, self.words


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
        words = self._form(caps).words(past, request)
        return None if words is None else Excerpt(replace(request, items=rest, past=None), words)

    def _form(self, caps: Capabilities) -> PastForm:
        form = self._forms.get(caps)
        if form is None:
            if len(self._forms) >= MOST_FORMS:
                self._forms.clear()
            form = self._forms[caps] = PastForm(caps, self._site, self._render, alternates=self._alternates)
        return form
