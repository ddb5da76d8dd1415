"""The ids of words in an eighth of the memory that an engine for documents takes.

tiktoken keeps each of two hundred thousand tokens three times, in pieces of its own: 47 MB in every process
that counts a word, as much as a thousand streams. Here the tokens stand behind each other once, as they
are shipped, and a table says where each of them begins. Words of English are tokens whole, nearly all, and
what is none is merged here, as the encoding says: pair by pair, the lowest rank first. For what is long, or
in scripts that are merged letter by letter, that is too slow, and whether a new character is a letter is not
known to all engines: such texts are for the other one.
"""

from __future__ import annotations

import re
from array import array
from itertools import accumulate, pairwise
from zlib import crc32

PLAIN_TEXT = 8_000
"""Characters of a text at most: a longer one is cut into words too slowly here,"""
PLAIN_WORD = 39
"""and a longer word is merged too slowly."""
PLAIN_MERGES = 1_000_000
"""Bytes that a process merges at most, in its life: four seconds. Words that are no tokens are many in some languages,
and a message may consist of them: it would stop everything for a second, and the next one again.
"""
_SLOTS = 1 << 19
"""More than twice as many as an encoding has tokens: most are found at the first look."""
_NO_RANK = 1 << 32
"""Behind all ranks."""

# Allowed are characters of which was said long ago whether they are letters: Latin, Greek and Cyrillic, punctuation
# and symbols (without the small ones at 2070, to which some are added), emoji.
find_foreign = re.compile("[^\x00-\u052f\u2000-\u206f\u20a0-\u2bff\ufe0f\U0001f300-\U0001faff]").search
"""The first character of a text that asks for an engine for documents; None where there is none."""


class BytePairs:
    """One encoding. `tokens` are all of them behind each other, `lengths` a byte for each, in the order of
    their ranks.
    """

    def __init__(self, tokens: bytes, lengths: bytes) -> None:
        self._tokens = tokens
        self._starts = array("I", accumulate(lengths, initial=0))
        self._table = self._tabulate()
        self.spare_bytes = PLAIN_MERGES
        """Of words that are no tokens: what may still be merged."""

    def _tabulate(self) -> array[int]:
        """A token's place, from 1, at the first free slot from that of its digest on; 0: nobody's."""
        table, tokens, last = array("I", bytes(4 * _SLOTS)), memoryview(self._tokens), _SLOTS - 1
        for place, (start, end) in enumerate(pairwise(self._starts), 1):
            slot = crc32(tokens[start:end]) & last
            while table[slot]:
                slot = (slot + 1) & last
            table[slot] = place
        return table

    def encode(self, word: str) -> tuple[int, ...]:
        """The ids of a word, as the pattern of the encoding cuts it out of a text."""
        token = word.encode()
        rank = self._rank(token)
        return self._merge(token) if rank == _NO_RANK else (rank,)

    def _rank(self, token: bytes) -> int:
        table, starts, slot = self._table, self._starts, crc32(token) & (_SLOTS - 1)
        while place := table[slot]:
            start = starts[place - 1]
            if starts[place] - start == len(token) and self._tokens.startswith(token, start):
                return place - 1
            slot = (slot + 1) & (_SLOTS - 1)
        return _NO_RANK

    def _merge(self, word: bytes) -> tuple[int, ...]:
        self.spare_bytes -= len(word)
        parts = [word[place : place + 1] for place in range(len(word))]
        ranks = [self._rank(first + second) for first, second in pairwise(parts)]
        while ranks and (lowest := min(ranks)) != _NO_RANK:
            place = ranks.index(lowest)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
            del ranks[place]
            if place > 0:
                ranks[place - 1] = self._rank(parts[place - 1] + parts[place])
            if place < len(ranks):
                ranks[place] = self._rank(parts[place] + parts[place + 1])
        return tuple(map(self._rank, parts))
