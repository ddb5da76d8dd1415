"""How many tokens something will cost, before it is sent: for pruning, and for streams cut before
their usage.

What the provider reports is the truth for money; these counts are for decisions. Text is counted
exactly; what surrounds it is counted as the Chat Completions API counts it where that is published,
and by the estimates named below where it is not.

A `Vocabulary` gives text its ids, offline and without surprises: they are those of tiktoken for the
same text, whichever engine gives them (`byte_pairs` has the small one); what looks like a special
token is ordinary text; no text, however long or broken, raises; nothing is downloaded; each encoding
is built once per process, whichever thread comes first.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib
import importlib.util
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

from turnkeep.messages import CallItem, Content, HostedItem, Item, OutputItem, Part, ReasoningItem, UserItem
from turnkeep.pricing import ranks
from turnkeep.pricing.byte_pairs import PLAIN_TEXT, PLAIN_WORD, BytePairs, find_foreign
from turnkeep.pricing.catalog import Catalog

Engine = Callable[[str], list[int]]

SLICE = 64_000
"""Characters for the engine at once: made for documents, it dies on a million blanks."""

_WORDS_KEPT = 4_096
"""What is said again and again is looked up without a call in Python."""

# How each encoding cuts text into words before it merges bytes: part of the encoding's definition.
_PATTERNS = {
    "o200k_base": "|".join(
        [
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        ]
    ),
    "cl100k_base": "|".join(
        [
            r"'(?i:[sdmt]|ll|ve|re)",
            r"[^\r\n\p{L}\p{N}]?+\p{L}++",
            r"\p{N}{1,3}+",
            r" ?[^\s\p{L}\p{N}]++[\r\n]*+",
            r"\s++$",
            r"\s*[\r\n]",
            r"\s+(?!\S)",
            r"\s",
        ]
    ),
}
ENCODINGS = tuple(_PATTERNS)

# Places where every encoding begins a new word, so that a cut there changes no token: before the
# first of some blanks, at the first word of a line, before closing punctuation.
_SEAM = re.compile(r"(?<=\S)(?= )|(?<=[\r\n])(?=[^\W_])|(?<=[^\W_])(?=[.,;:!?)\]}\"。、，；：！？）」])")
_SEAM_SEARCH = 4_000

_WORDS = re.compile(r"[^\W\d_]{1,6}|\d{1,3}|[^\w\s]|_|\s{2,}")

# A fast engine is used only if it turns this text into the ids with this digest.
_CHECK_TEXT = (
    "It's 1234567 o'clock, we'LL see:\n\n  naïve façade — Ελλάδα, Привет, שלום, مرحبا, नमस्ते, 你好世界。こんにちは 안녕 "
    '🙂👩‍👩‍👧‍👦\t\t{"key": [1, 2.50, null]}\r\n\r\n    def f(x): return x**2  # <|endoftext|> <|im_start|>   \n '
)
_CHECK_DIGEST = {
    "o200k_base": "82c0164e5b244241",
    "cl100k_base": "a0efe0fb3e94b3aa",
}

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

_SEALED_FIELDS = ("encrypted_content", "signature", "data")


class Vocabulary:
    """One encoding, built on first use."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.counts_documents = False
        """Whether a text that is not plain was counted beside the event loop."""
        self._engine: Engine | None = None
        self._building = threading.Lock()

    @functools.cached_property
    def available(self) -> bool:
        """Is there an engine to build it with?"""
        return importlib.util.find_spec("tiktoken") is not None or importlib.util.find_spec("splintr") is not None

    @property
    def is_built(self) -> bool:
        return self._engine is not None

    def load(self) -> None:
        """Take the 0.1 s now instead of at the first count.

        Callable from any thread, any number of times.

        Raises ImportError where no engine can be imported.
        """
        # Threads that count their first text at once build it once.
        with self._building:
            if self._engine is None:
                try:
                    self._engine = _fast_engine(self.encoding) or _reference_engine(self.encoding)
                except ImportError:
                    self.available = False
                    raise

    def encode(self, text: str) -> list[int]:
        """The token ids of a text. Raises ImportError where no engine can be imported."""
        if self._engine is None:
            self.load()
        assert self._engine is not None  # noqa: S101 - load() has set it or raised
        return [*chain.from_iterable(map(self._engine, slices(clean(text))))]

    def count(self, text: str) -> int:
        """How many tokens; a guess instead of an error where the engine cannot be had or dies on
        the text.
        """
        if not self.available:
            return guess(text)
        try:
            return len(self.encode(text))
        except ImportError:
            return guess(text)
        except BaseException as error:
            # The Rust engine's panic is no Exception, and its class cannot be imported: known by
            # name only.
            if type(error).__name__ != "PanicException":
                raise
            return guess(text)


def clean(text: str) -> str:
    """The text with surrogates joined to characters, and lone ones replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def slices(text: str) -> Iterator[str]:
    """The text in pieces of at most `SLICE` characters, cut where no token crosses if there is such
    a place.
    """
    start = 0
    while len(text) - start > SLICE:
        end = _seam(text, start, start + SLICE)
        yield text[start:end]
        start = end
    yield text[start:]


def guess(text: str) -> int:
    """A count without a vocabulary, rather too high than too low.

    The larger of two measures that fail on different texts: bytes / 4 is short on JSON and numbers,
    words, numbers and punctuation marks are short on what is no text.
    """
    text = clean(text)
    return max(-(-len(text.encode()) // 4), sum(1 for _ in _WORDS.finditer(text)))


def _seam(text: str, start: int, limit: int) -> int:
    seam = limit
    for match in _SEAM.finditer(text, max(start + 1, limit - _SEAM_SEARCH), limit):
        seam = match.start()
    return seam


def is_plain(text: str) -> bool:
    """Whether a text is counted by the small table, as far as is seen before it is cut into words."""
    return len(text) <= PLAIN_TEXT and find_foreign(text) is None


def _reference_engine(encoding: str) -> Engine:
    """Plain texts by a small table; others by tiktoken, eight times as heavy and built with the first of them.

    Wherever it is built it stops all else for a quarter of a second: its core does not let the interpreter go.
    """
    importlib.import_module("tiktoken")  # that it is missing is told at once
    # the one that tiktoken needs, without types
    split = importlib.import_module("regex").compile(_PATTERNS[encoding]).findall
    pairs = BytePairs(*ranks.load_joined(encoding))
    ids_of = functools.lru_cache(_WORDS_KEPT)(pairs.encode)
    documents = LateEngine(lambda: _document_engine(encoding))

    def encode(text: str) -> list[int]:
        if pairs.spare_bytes < 0 or not is_plain(text) or max(map(len, words := split(text)), default=0) > PLAIN_WORD:
            return documents.get()(text)
        return [*chain.from_iterable(map(ids_of, words))]

    return encode


class LateEngine:
    """An engine that is built when it is asked for, once, whichever thread comes first."""

    def __init__(self, build: Callable[[], Engine]) -> None:
        self._build = build
        self._engine: Engine | None = None
        self._building = threading.Lock()

    def get(self) -> Engine:
        if self._engine is None:
            with self._building:
                self._engine = self._engine or self._build()
        return self._engine


def _document_engine(encoding: str) -> Engine:
    # get_encoding() would download the ranks; built from ours, the encoding is the same.
    import tiktoken  # noqa: PLC0415 - 30 ms and 22 MB that many commands never need

    merge = {token: rank for rank, token in enumerate(ranks.load_ranks(encoding))}
    engine = tiktoken.Encoding(encoding, pat_str=_PATTERNS[encoding], mergeable_ranks=merge, special_tokens={})
    # Its core has made tables of its own of them; kept as well, they are a third of what it weighs.
    engine._mergeable_ranks = {}
    return engine.encode_ordinary


def _fast_engine(encoding: str) -> Engine | None:
    """The engine of the extra ``fast-tokens``, if it is installed and agrees on the check text."""
    try:
        engine: Engine = importlib.import_module("splintr").Tokenizer.from_pretrained(encoding).encode_ordinary
        agrees = digest(engine(_CHECK_TEXT)) == _CHECK_DIGEST[encoding]
    except Exception:
        return None
    return engine if agrees else None


def digest(ids: list[int]) -> str:
    """A short name for a list of ids."""
    return hashlib.sha256(repr(ids).encode()).hexdigest()[:16]


# One for an encoding, not for a model: each takes 0.1 s and megabytes to build.
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
        """Whether a count stops nobody any more, but for the first text that is not plain (see `load`)."""
        return self._vocabulary.is_built or not self._vocabulary.available

    def build(self) -> None:
        """Build the vocabulary (0.1 s) instead of at the first count; at once when that was done."""
        if not self.is_loaded:
            self._vocabulary.load()

    async def load(self, texts: Iterable[str] = ()) -> None:
        """The same in a thread, and what it takes to count these: the first count would stop the event loop. An answer
        or an output is not known before: if it is the first of its process that is not plain, its count still does.
        """
        text = next((text for text in texts if not is_plain(text)), None)
        if not self.is_loaded or (text is not None and not self._vocabulary.counts_documents):
            await asyncio.to_thread(self.count, text or "")
            self._vocabulary.counts_documents = text is not None

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
