"""What a server tells beside the words of a message: thoughts, their signatures, and whatever else
it wants back.

Known fields: `reasoning_content` (DeepSeek, Kimi, vLLM, SGLang, llama.cpp, LM Studio), `reasoning`
and `reasoning_details` (OpenRouter, Groq, vLLM), `thinking` and `thinking_blocks` (LiteLLM,
Ollama), `reasoning_opaque` (Copilot), `extra_content` (Gemini), `thought_signature`. They are
recognised by their words, because the next server will have another one; what only decorates a
piece (Groq's `channel`) must not go back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from turnkeep.models.reading import repair_text

_OF_A_THOUGHT = re.compile(r"reason|think|thought|signature|extra_content|provider_specific")
_PLAIN = frozenset(("role", "content", "refusal", "tool_calls", "function_call"))
_READABLE = ("reasoning_content", "reasoning", "reasoning_text", "thinking")
# Fields of an entry whose texts go on in the next piece; all others come whole.
_GROWING = frozenset(("text", "summary", "thinking", "data"))


class Thoughts:
    """Puts the fields of one answer together from its pieces."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._others: dict[str, Any] = {}

    @property
    def fields(self) -> dict[str, Any]:
        """The fields as they go back, without one that repeats another."""
        texts = {name: repair_text("".join(pieces)) for name, pieces in self._texts.items()}
        # OpenRouter tells a thought as text and in details, vLLM under two names.
        if texts.get("reasoning") and (
            self._others.get("reasoning_details") or texts["reasoning"] == texts.get("reasoning_content")
        ):
            del texts["reasoning"]
        return {**{name: text for name, text in texts.items() if text}, **self._others}

    def text_of(self, name: str) -> str:
        """The text of one field so far."""
        return "".join(self._texts.get(name, ()))

    def take(self, message: Mapping[str, Any]) -> str:
        """Take in what a piece of the message holds of them; gives the words of it
        that people may read.
        """
        for name in message.keys() - _PLAIN:
            if (value := message[name]) and _OF_A_THOUGHT.search(name):
                self._keep(name, value)
        return next((repair_text(text) for name in _READABLE if isinstance(text := message.get(name), str)), "")

    def _keep(self, name: str, value: object) -> None:
        if isinstance(value, str):
            self._texts.setdefault(name, []).append(value)
        elif isinstance(value, list):
            # A signature belongs to one entry: entries must not run together.
            entries = self._others.setdefault(name, [])
            for entry in value:
                _continue(entries, entry)
        elif isinstance(value, Mapping):
            self._others[name] = _merge(self._others.get(name), value)
        else:
            self._others[name] = value


def _continue(entries: list[Any], entry: Any) -> None:
    """Add an entry, or the next piece of the last one."""
    last = entries[-1] if entries else None
    if not (isinstance(last, dict) and isinstance(entry, Mapping) and _same(last, entry)):
        entries.append(dict(entry) if isinstance(entry, Mapping) else entry)
        return
    for name, value in entry.items():
        if name in _GROWING and isinstance(value, str) and isinstance(last.get(name), str):
            last[name] += value
        elif value is not None:
            last[name] = value


def _same(last: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    may_continue = entry.get("index") is not None or "id" not in entry
    return may_continue and all(last.get(name) == entry.get(name) for name in ("type", "index"))


def _merge(old: object, new: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(old, Mapping):
        return dict(new)
    result = dict(old)
    for name, value in new.items():
        result[name] = _merge(old.get(name), value) if isinstance(value, Mapping) else value
    return result
