"""What people say and what a transcript is made of.

A `Message` is one thing a user said. An `Item` is one entry of a transcript. Both are immutable and
have exactly one JSON form (`to_json` / `from_json`), which is also the stored form.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields
from json.encoder import encode_basestring_ascii
from operator import attrgetter
from typing import Any, Literal, Self

from turnkeep.lean_dataclass import dataclass

DEFAULT_TENANT = "default"
ALL_TENANTS = "*"
"""The tenant of records that are found before it is known whose they are: keys, tickets, revocations."""
DEFAULT_QUEUE = "assistant"
USER = "user"
"""The entry of a message's metadata that names its user."""

BusyPolicy = Literal["collect", "queue", "steer", "interrupt", "rollback", "reject"]
BUSY_POLICIES: tuple[BusyPolicy, ...] = ("collect", "queue", "steer", "interrupt", "rollback", "reject")


Showing = Literal["name", "arguments", "all"]
"""What people who follow a conversation see of a tool call: that it is made, its arguments, or its output too."""
SHOWINGS: tuple[Showing, ...] = ("name", "arguments", "all")

# What was stored is compared with these: they stay what they are, byte for byte.
_CANONICAL_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
_READABLE_JSON = json.JSONEncoder(ensure_ascii=False).encode

_MESSAGE_WISHES = (
    "instructions", "user_instructions", "assistant_instructions", "model", "assistant", "on_busy", "window",
    "max_wait", "not_before",
)  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a conversation is found: whose it is, in which queue, on which channel.

    `channel` is any string. One of the form ``thread_…`` names the thread itself.
    """

    tenant: str
    queue: str
    channel: str

    @property
    def names_thread(self) -> bool:
        return self.channel.startswith("thread_")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a content: text, or an image or file that is passed through to
    models that take it.
    """

    type: Literal["text", "image", "file"]
    text: str = ""
    data: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        if self.type == "text":
            return {"type": "text", "text": self.text}
        return {"type": self.type, **(self.data or {})}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        if data["type"] == "text":
            return cls("text", data["text"])
        return cls(data["type"], data={k: v for k, v in data.items() if k != "type"})


Content = tuple[Part, ...]


def text_content(text: str) -> Content:
    return (Part("text", text),)


def content_size(content: Content) -> int:
    """Bytes of its texts, and of the JSON of what is no text: what `max_batch_bytes` and the size
    limits count.
    """
    # A text has the length that its writer sees, whatever JSON makes of its quotes and lines.
    return sum(
        [
            len((part.text if part.type == "text" else _READABLE_JSON(part.to_json())).encode("utf-8", "surrogatepass"))
            for part in content
        ]
    )


def content_text(content: Content) -> str:
    """The words of a content, without its images and files."""
    return "\n".join(part.text for part in content if part.type == "text")


def digest(content: Content) -> str:
    """What makes two sends of one message id "the same": equal for equal content, 16 bytes of
    SHA-256 in hex.
    """
    if len(content) == 1 and content[0].type == "text":
        # The same bytes, for nearly every message.
        canonical = f'[{{"text":{encode_basestring_ascii(content[0].text)},"type":"text"}}]'
    else:
        canonical = _CANONICAL_JSON([p.to_json() for p in content])
    # Half of it: it is stored with each id for as long as
    # ids are remembered, and 128 bits tell texts apart.
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Message:
    """One thing a user said, on its way in or waiting.

    `window` and `max_wait` (seconds) are None where the thread's or queue's setting counts; the
    store keeps what counted on arrival. `instructions` are the operator's, `user_instructions`
    those of somebody who may not speak for the operator: the model is told whose they are;
    `assistant_instructions` stand in place of the assistant's own. `model` and `parameters`
    (effort, format and their like, in the words of an assistant) count for the run that answers it;
    so do `assistant`, who answers instead of the thread's own, and `client_tools`, functions that
    the caller runs himself (name, description, parameters, strict). `not_before` (Unix seconds)
    makes the message wait beside the inbox until then. `minted` says that the id is ours: such a
    send is not idempotent. `arrival` (store clock) and `seq` (place in the thread's order, from 1)
    are given by the store.
    """

    address: Address
    message_id: str
    content: Content
    instructions: str | None = None
    user_instructions: str | None = None
    assistant_instructions: str | None = None
    model: str | None = None
    parameters: Mapping[str, Any] | None = None
    assistant: str | None = None
    client_tools: tuple[Mapping[str, Any], ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    on_busy: BusyPolicy | None = None
    window: float | None = None
    max_wait: float | None = None
    not_before: float | None = None
    flush: bool = False
    minted: bool = False
    arrival: float = 0.0
    seq: int = 0

    @property
    def text(self) -> str:
        return content_text(self.content)

    @property
    def size(self) -> int:
        return content_size(self.content)

    def to_json(self) -> dict[str, Any]:
        """Stored form: everything but the address, without fields that hold their default."""
        data: dict[str, Any] = {"message_id": self.message_id, "content": [p.to_json() for p in self.content]}
        # Left out where empty: most messages have neither, and this form is stored and compared.
        if self.metadata:
            data["metadata"] = dict(self.metadata)
        if self.parameters:
            data["parameters"] = dict(self.parameters)
        if self.client_tools:
            data["client_tools"] = [dict(tool) for tool in self.client_tools]
        for name, value in zip(_MESSAGE_WISHES, _message_wishes(self), strict=True):
            if value is not None:
                data[name] = value
        for name in ("flush", "minted", "arrival", "seq"):
            if value := getattr(self, name):
                data[name] = value
        return data

    @classmethod
    def from_json(cls, address: Address, data: Mapping[str, Any]) -> Self:
        values = dict(data)
        values["content"] = tuple(Part.from_json(p) for p in data["content"])
        if "client_tools" in values:
            values["client_tools"] = tuple(values["client_tools"])
        return cls(address=address, **values)

    def but(self, **changes: Any) -> Self:
        """A copy with other values."""
        values = list(_message_values(self))
        for name, value in changes.items():
            values[_MESSAGE_PLACES[name]] = value
        return type(self)(*values)


_message_wishes = attrgetter(*_MESSAGE_WISHES)
_MESSAGE_NAMES = tuple(f.name for f in fields(Message))
_MESSAGE_PLACES = {name: place for place, name in enumerate(_MESSAGE_NAMES)}
# By one call in C: `replace` takes each field by itself, and every message is copied when it is accepted.
_message_values = attrgetter(*_MESSAGE_NAMES)


@dataclass(frozen=True, slots=True)
class UserItem:
    """A user message in the transcript: exactly one per accepted message (boundaries are kept)."""

    content: Content
    message_id: str | None = None
    at: float = 0.0
    instructions: str | None = None
    metadata: Mapping[str, str] | None = None
    user_instructions: str | None = None
    """With the other two: what came with the message, so that its turn can be answered again."""
    model: str | None = None
    parameters: Mapping[str, Any] | None = None
    """With the model: what was asked of the answer."""
    assistant: str | None = None
    client_tools: tuple[Mapping[str, Any], ...] = ()
    assistant_instructions: str | None = None

    kind = "user"


@dataclass(frozen=True, slots=True)
class SystemItem:
    """A system message that a caller put into the transcript; pruning keeps it."""

    text: str

    kind = "system"


@dataclass(frozen=True, slots=True)
class ProviderData:
    """What a provider attached to an item beside what is understood here (signatures
    and the like), opaque.

    Goes back, word for word, to the `site` that gave it (host and path of a base URL, whatever the
    key) and to no other: servers refuse a call that lacks its signature, and one with a signature
    of somebody else.
    """

    site: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Citation:
    """What a passage rests on: the characters from `start` to `end` of its item's text, and where
    they come from.
    """

    start: int = 0
    end: int = 0
    url: str = ""
    title: str = ""
    quote: str = ""
    file_id: str = ""

    def to_json(self) -> dict[str, Any]:
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name))}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(**data)


@dataclass(frozen=True, slots=True)
class AssistantItem:
    """What the assistant said. `interrupted` marks text that was cut off by a cancel or a limit.

    `phase` (commentary, final_answer) is the provider's and goes back to it on replay.
    """

    text: str
    interrupted: bool = False
    phase: str | None = None
    author: str | None = None
    """Who said it instead of the model: a person who took over."""
    provider_data: ProviderData | None = None
    citations: tuple[Citation, ...] = ()

    kind = "assistant"


@dataclass(frozen=True, slots=True)
class ReasoningItem:
    """A provider's reasoning item, opaque; it stays next to the call or answer that follows it.

    `raw` is what the protocol sends back: an item of Responses (its `type` is ``reasoning``), or
    the fields of a Chat Completions message that hold a thought (`reasoning_content`,
    `reasoning_details`, …; no `type`), or a block of Anthropic (`type` ``thinking`` or
    ``redacted_thinking``). `site` is whose it is, as in `ProviderData`; None in transcripts that do
    not say.
    """

    raw: Mapping[str, Any]
    site: str | None = None
    is_public: bool = False
    """The assistant shows what it thinks."""

    kind = "reasoning"

    @property
    def text(self) -> str:
        """What people may read of it: the thoughts or their summary, empty where
        the provider seals them.
        """
        for name in ("thinking", "reasoning_content", "reasoning"):
            # Servers name it differently, and some send two of
            # them: the first that is a text is the thought.
            if isinstance(thoughts := self.raw.get(name), str):
                return thoughts
        parts = self.raw.get("summary") or self.raw.get("content") or ()
        return "\n\n".join(text for part in parts if isinstance(text := _mapping(part).get("text"), str) and text)


@dataclass(frozen=True, slots=True)
class HostedItem:
    """What a tool of the provider did while the provider answered: it ran there, nothing is to be
    run here.

    `name` is the provider's word for the tool (web_search, code_interpreter, …), `text` what people
    may read of it (a query, a program). `raw` is the provider's own form, opaque; it goes back to
    its `site` alone, as `ProviderData`.
    """

    name: str
    raw: Mapping[str, Any]
    text: str = ""
    site: str | None = None

    kind = "hosted"


@dataclass(frozen=True, slots=True)
class CallItem:
    """The model asks for a tool. `arguments` is the JSON text as the model wrote it; `show` is what
    the tool lets people see of the call.
    """

    call_id: str
    name: str
    arguments: str
    provider_data: ProviderData | None = None
    show: Showing = "name"

    kind = "call"


@dataclass(frozen=True, slots=True)
class OutputItem:
    """What a tool call gave: exactly one per call, `status` says how it ended; of one that waited for
    somebody, who decided about it and when (Unix seconds). No model is told of that.
    """

    call_id: str
    output: str
    status: Literal["ok", "error", "denied", "cancelled", "unknown", "expired"] = "ok"
    decision: str = ""
    decided_by: str = ""
    decided_at: float | None = None

    kind = "output"


Item = UserItem | SystemItem | AssistantItem | ReasoningItem | HostedItem | CallItem | OutputItem


def _values_of(*names: str) -> Callable[[Any], tuple[Any, ...]]:
    """`attrgetter`, which gives no tuple for one name."""
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda item: (get(item),)


_ITEMS: dict[str, type[Item]] = {
    c.kind: c for c in (UserItem, SystemItem, AssistantItem, ReasoningItem, HostedItem, CallItem, OutputItem)
}
_FORMS: dict[str, tuple[tuple[str, ...], tuple[Any, ...], Callable[[Any], tuple[Any, ...]]]] = {
    kind: (
        tuple(f.name for f in fields(item)),
        tuple(f.default for f in fields(item)),
        _values_of(*(f.name for f in fields(item))),
    )
    for kind, item in _ITEMS.items()
}
"""Of each kind the names of its fields, their defaults, and what takes their values."""
_OBJECTS = frozenset(("content", "citations", "provider_data", "raw", "metadata", "parameters"))


def item_to_json(item: Item) -> dict[str, Any]:
    """The stored form of a transcript entry, without fields that hold their default."""
    names, usual, values_of = _FORMS[item.kind]
    values = values_of(item)
    data: dict[str, Any] = {"kind": item.kind}
    for name, value, default in zip(names, values, usual, strict=True):
        if value is default or value == default:
            continue
        if name in _OBJECTS:
            data[name] = _nested_to_json(name, value)
        else:
            data[name] = value
    return data


def _nested_to_json(name: str, value: Any) -> Any:
    if name in ("content", "citations"):
        return [part.to_json() for part in value]
    if name == "provider_data":
        return {"site": value.site, "fields": dict(value.fields)}
    return dict(value)


def item_from_json(data: Mapping[str, Any]) -> Item:
    """Raises KeyError or TypeError for what is no item."""
    values = {k: v for k, v in data.items() if k != "kind"}
    if data["kind"] == "user":
        values["content"] = tuple(Part.from_json(p) for p in data["content"])
    if "client_tools" in data:
        values["client_tools"] = tuple(data["client_tools"])
    if "citations" in data:
        values["citations"] = tuple(Citation.from_json(c) for c in data["citations"])
    if attachment := values.get("provider_data"):
        values["provider_data"] = ProviderData(attachment["site"], attachment["fields"])
    return _ITEMS[data["kind"]](**values)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def turns_of(items: Sequence[Item]) -> list[list[Item]]:
    """A transcript cut into whole turns: each begins with the first user item after something else
    was said.
    """
    turns: list[list[Item]] = []
    has_answer = True
    for item in items:
        if (item.kind == "user" and has_answer) or not turns:
            turns.append([])
        has_answer = item.kind != "user"
        turns[-1].append(item)
    return turns
