"""How many tokens something will cost, before it is sent: for pruning, and for streams cut before
their usage.

What the provider reports is the truth for money; these counts are for decisions. Text is counted
exactly (the ids of tiktoken); what surrounds it is counted as the Chat Completions API counts it
where that is published, and by the estimates named below where it is not.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from turnkeep.messages import CallItem, Content, HostedItem, Item, OutputItem, Part, ReasoningItem, UserItem
from turnkeep.pricing.catalog import Catalog
from turnkeep.pricing.vocabulary import ENCODINGS, Vocabulary

PER_MESSAGE = 3
"""Around each message, as published for Chat Completions; its role is one more token."""

PRIMING = 3
"""Once per request: the answer is begun for the model."""

PER_CALL = 8
"""Estimate: around the name and arguments of a call."""

PER_TOOL = 8
"""Estimate: around a tool's name, description and schema.

The schema is counted as compact JSON, which is rather more than the provider's own notation.
"""

IMAGE_LOW, IMAGE_HIGH = 85, 765
"""Estimate: an image with ``detail: low``, and any other (1024 x 1024 in four tiles)."""

FILE = 1_000
"""Estimate: a file whose text is not in the message."""


# One for an encoding, not for a model: each takes 0.3 s and megabytes to build.
_VOCABULARIES = {encoding: Vocabulary(encoding) for encoding in ENCODINGS}


class ToolTexts(Protocol):
    """What counts of a tool."""

    @property
    def name(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def parameters(self) -> Mapping[str, Any]: ...


class Tokenizer:
    """Counts for one model. Thread-safe; the vocabulary is shared by all models of an encoding.

    `is_estimate` says that the model's own encoding is not known and the newest one stands in for
    it, or that tiktoken is not installed and a rule of thumb stands in for both.
    """

    def __init__(self, vocabulary: Vocabulary, is_known: bool) -> None:
        self._vocabulary = vocabulary
        self._is_known = is_known

    @property
    def encoding(self) -> str:
        return self._vocabulary.encoding

    @property
    def is_estimate(self) -> bool:
        return not (self._is_known and self._vocabulary.available)

    @property
    def is_loaded(self) -> bool:
        """Whether a count stops nobody any more."""
        return self._vocabulary.is_built or not self._vocabulary.available

    def build(self) -> None:
        """Build the vocabulary (0.3 s) instead of at the first count; at once when that was done."""
        if not self.is_loaded:
            self._vocabulary.load()

    async def load(self) -> None:
        """The same in a thread: the first count would stop the event loop."""
        if not self.is_loaded:
            await asyncio.to_thread(self.build)

    def count(self, text: str) -> int:
        """The tokens of a text; never raises."""
        return self._vocabulary.count(text)

    def count_item(self, item: Item) -> int:
        """The tokens of one transcript entry with what surrounds it: a sum over items is
        a sum of these.
        """
        match item:
            case CallItem():
                return PER_CALL + self.count(item.name) + self.count(item.arguments)
            case ReasoningItem() | HostedItem():
                return PER_MESSAGE + self.count(item.text) + _sealed_tokens(item.raw)
            case UserItem():
                body = self._content(item.content)
            case OutputItem():
                body = self.count(item.output)
            case _:
                body = self.count(item.text)
        return PER_MESSAGE + 1 + body

    def count_items(
        self, items: Sequence[Item], *, instructions: str | None = None, tools: Iterable[ToolTexts] = ()
    ) -> int:
        """The input tokens of a whole request."""
        total = PRIMING + sum(map(self.count_item, items)) + sum(map(self.count_tool, tools))
        if instructions:
            total += PER_MESSAGE + 1 + self.count(instructions)
        return total

    def count_tool(self, tool: ToolTexts) -> int:
        """An estimate, rather too high than too low."""
        # What is no JSON in a schema is an error of another place: an estimate does not raise.
        schema = json.dumps(tool.parameters, ensure_ascii=False, separators=(",", ":"), default=str)
        return PER_TOOL + self.count(tool.name) + self.count(tool.description) + self.count(schema)

    def _content(self, content: Content) -> int:
        return sum(self.count(part.text) if part.type == "text" else _attachment(part) for part in content)


# A turn asks some ten times, of one model.
@functools.lru_cache(256)
def tokenizer_for(model: str, catalog: Catalog | None = None) -> Tokenizer:
    """The tokenizer of a model; cheap, nothing is loaded before the first count."""
    encoding, is_known = (catalog or _shipped_catalog()).encoding(model)
    return Tokenizer(_VOCABULARIES[encoding], is_known)


def most_tokens(items: Iterable[Item], instructions: str | None = None) -> int:
    """More than any count of these can give, without a vocabulary."""
    total = PRIMING + PER_MESSAGE + 1 + _most(instructions or "")
    for item in items:
        match item:
            case CallItem():
                total += PER_CALL + _most(item.name) + _most(item.arguments)
            case ReasoningItem() | HostedItem():
                total += PER_MESSAGE + _most(item.text) + _sealed_tokens(item.raw)
            case UserItem():
                total += PER_MESSAGE + 1 + sum(_most(part.text) + FILE for part in item.content)
            case OutputItem():
                total += PER_MESSAGE + 1 + _most(item.output)
            case _:
                total += PER_MESSAGE + 1 + _most(item.text)
    return total


def _most(text: str) -> int:
    # No token has less than a byte, and no character more than four.
    return 4 * len(text)


def item_tokens(item: Item, model: str) -> int:
    """What a store writes beside an item, so that it is counted once in its life."""
    return tokenizer_for(model).count_item(item)


@functools.cache
def _shipped_catalog() -> Catalog:
    return Catalog.load()


_SEALED_FIELDS = ("encrypted_content", "signature", "data")


def _sealed_tokens(raw: Mapping[str, Any]) -> int:
    """What goes back sealed, as base64: about four bytes per token."""
    content = raw.get("content")
    parts = (raw, *(part for part in content if isinstance(part, Mapping))) if isinstance(content, list) else (raw,)
    return (
        sum(len(part[name]) for part in parts for name in _SEALED_FIELDS if isinstance(part.get(name), str)) * 3 // 16
    )


def _attachment(part: Part) -> int:
    data = part.data or {}
    if part.type == "file":
        return FILE
    image_url = data.get("image_url")
    detail = data.get("detail") or (image_url.get("detail") if isinstance(image_url, Mapping) else None)
    return IMAGE_LOW if detail == "low" else IMAGE_HIGH
