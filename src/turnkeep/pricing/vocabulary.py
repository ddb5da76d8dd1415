"""Text to token ids, offline and without surprises.

Guarantees: the ids are those of tiktoken for the same text; what looks like a special token is
ordinary text; no text, however long or broken, raises; nothing is downloaded; each encoding is
built once per process, whichever thread comes first.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import re
import threading
from collections.abc import Callable, Iterator

from turnkeep.pricing import ranks

Engine = Callable[[str], list[int]]

SLICE = 64_000
"""Characters given to the engine at once: it is written for documents, and dies
on a million blanks.
"""

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


class Vocabulary:
    """One encoding, built on first use."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
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
        """Take the 0.3 s now instead of at the first count.

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
        ids: list[int] = []
        for piece in slices(clean(text)):
            ids += self._engine(piece)
        return ids

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


def _reference_engine(encoding: str) -> Engine:
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
