"""What the model reads: one form for both protocols.

A `Prompt` is what the persona answers, what the ledger records and what faults are matched against.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, Literal

from turnkeep.lean_dataclass import dataclass

Json = dict[str, Any]
EntryKind = Literal["user", "assistant", "system", "reasoning", "call", "output", "other"]
CALL_TYPES = ("function_call", "custom_tool_call")
OUTPUT_TYPES = ("function_call_output", "custom_tool_call_output")
ROLES: Mapping[str, EntryKind] = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


@dataclass(frozen=True, slots=True)
class PromptEntry:
    """One entry of the input, reduced to its words."""

    kind: EntryKind
    text: str = ""
    call_id: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class OfferedTool:
    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OpenMessage:
    """A user message that no answer has closed yet. `rounds` counts the responses with calls since."""

    text: str
    rounds: int


@dataclass(frozen=True, slots=True)
class Prompt:
    """The whole input of one response. `choice` is auto, none,
    required or the name of a tool after ``=``.
    """

    entries: tuple[PromptEntry, ...]
    model: str = ""
    instructions: str = ""
    tools: tuple[OfferedTool, ...] = ()
    choice: str = "auto"
    max_tokens: int | None = None
    thinks: bool = False
    shape: Mapping[str, Any] | None = None
    pauses: bool = False
    """Whether an answer may be broken off and gone on with (`[[pause]]`)."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def turn_start(self) -> int:
        """Where the newest turn begins: after the last answer. Text that comes with calls closes no
        turn.
        """
        for at in range(len(self.entries) - 1, -1, -1):
            if self.entries[at].kind == "assistant" and not self._call_follows(at):
                return at + 1
        return 0

    @property
    def has_paused(self) -> bool:
        """Whether the newest turn holds what a tool of the provider did before it was broken off."""
        return any(entry.kind == "other" for entry in self.entries[self.turn_start :])

    def open_messages(self) -> list[OpenMessage]:
        start = self.turn_start
        return [
            OpenMessage(entry.text, self._rounds(at))
            for at, entry in enumerate(self.entries)
            if at >= start and entry.kind == "user"
        ]

    def outputs(self) -> list[tuple[str, str]]:
        """Name and text of the tool outputs of the newest turn."""
        turn = self.entries[self.turn_start :]
        names = {entry.call_id: entry.name for entry in turn if entry.kind == "call"}
        return [(names.get(entry.call_id, "a tool"), entry.text) for entry in turn if entry.kind == "output"]

    def user_messages(self) -> list[tuple[str, bool]]:
        """Every user message, and whether it is of the newest turn."""
        start = self.turn_start
        return [(entry.text, at >= start) for at, entry in enumerate(self.entries) if entry.kind == "user"]

    def tokens(self) -> int:
        """A steady estimate: a quarter of the characters, and a little for each entry and tool."""
        # No tokenizer: vocabularies are fetched over the network, and this has only to be steady.
        letters = len(self.instructions) + sum(len(entry.text) + len(entry.name) for entry in self.entries)
        return letters // 4 + 4 * len(self.entries) + 20 * len(self.tools) + 3

    def _call_follows(self, at: int) -> bool:
        # Models comment on what they are about to call: the turn goes on until a text without
        # calls.
        rest = (entry.kind for entry in self.entries[at + 1 :] if entry.kind != "reasoning")
        return next(rest, None) == "call"

    def _rounds(self, at: int) -> int:
        # Calls of one response share the head of their ids, however a client has put outputs
        # between them.
        heads = {
            entry.call_id.removeprefix("call_").removeprefix("toolu_")[:8]
            for entry in self.entries[at:]
            if entry.kind == "call"
        }
        return len(heads)


def entries_of_items(items: Iterable[Mapping[str, Any]]) -> tuple[PromptEntry, ...]:
    """The input items of a Responses request."""
    return tuple(_entry(item) for item in items)


def entries_of_messages(messages: Iterable[Mapping[str, Any]]) -> tuple[PromptEntry, ...]:
    """The messages of a Chat Completions request."""
    entries: list[PromptEntry] = []
    for message in messages:
        text = content_text(message.get("content"))
        if message["role"] == "tool":
            entries.append(PromptEntry("output", text, message["tool_call_id"]))
            continue
        calls = message.get("tool_calls") or ()
        if text or not calls:
            entries.append(PromptEntry(ROLES.get(message["role"], "other"), text))
        for call in calls:
            function = call["function"]
            entries.append(PromptEntry("call", function["arguments"], call["id"], function["name"]))
    return tuple(entries)


def offered_tools(tools: Sequence[Mapping[str, Any]]) -> tuple[OfferedTool, ...]:
    """The functions among the tools of either protocol."""
    functions = (tool.get("function", tool) for tool in tools if tool.get("type") == "function")
    return tuple(OfferedTool(f["name"], f.get("parameters") or {}) for f in functions)


def content_text(content: object) -> str:
    """The words of a content, whatever its form; other parts leave their kind in brackets."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(_part_text(part) for part in content if isinstance(part, dict))


def _part_text(part: Mapping[str, Any]) -> str:
    text = part.get("text", part.get("refusal"))
    return text if isinstance(text, str) else f"[{part.get('type')}]"


def _entry(item: Mapping[str, Any]) -> PromptEntry:
    kind = item.get("type", "message")
    if kind == "message":
        return PromptEntry(ROLES.get(item.get("role", ""), "other"), content_text(item.get("content")))
    if kind in CALL_TYPES:
        return PromptEntry("call", str(item.get("arguments", item.get("input", ""))), item["call_id"], item["name"])
    if kind in OUTPUT_TYPES:
        return PromptEntry("output", content_text(item.get("output")), item["call_id"])
    return PromptEntry("reasoning" if kind == "reasoning" else "other")
