"""Histories of the threads that this process answers, decoded and with their words remembered.

Whoever commits a turn knows what the history is then, so a thread that is answered here again is
read only once. A claim names the state of the history (`Claim.transcript`); what is kept here under
another name is not used.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import orjson

from turnkeep.conversation.manager import SYSTEM_MARK, recall
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import AssistantItem, CallItem, Item, OutputItem, SystemItem, UserItem
from turnkeep.models.past import Past, PastTurn
from turnkeep.store.contract import Threads
from turnkeep.store.transcript_version import NO_TRANSCRIPT, TranscriptVersion
from turnkeep.store.values import Claim, History, TranscriptEntry

CAPACITY = 32_000_000
"""Bytes of all histories that are kept; those that were told longest ago go first."""

_PER_ITEM, _PER_CHARACTER = 700, 3
"""Bytes, about: an entry is kept as objects, as text, and as bytes in the words of a protocol."""

_SLACK = 1.25
"""How much more than was asked for is kept before it is cut."""


@dataclass(frozen=True, slots=True)
class Recollection:
    """What a run is told of the past. `summary` stands for what is gone."""

    past: Past
    summary: str | None


@dataclass(frozen=True, slots=True)
class _Copy:
    """One history at one version: the newest `tokens` of it at least, or all that there is."""

    version: TranscriptVersion
    past: Past
    summary: str | None
    tokens: int
    is_complete: bool
    size: int


class HistoryCache:
    """Bounded by bytes. Lives on one event loop; a thread has one run at a time, and the store says which."""

    def __init__(self, store: Threads, *, capacity: int = CAPACITY) -> None:
        self._store = store
        self._capacity = capacity
        self._size = 0
        self._copies: OrderedDict[str, _Copy] = OrderedDict()

    async def recall(self, claim: Claim, *, tokens: int) -> Recollection:
        """The newest whole turns that fit, and the system messages of older ones."""
        if claim.transcript == NO_TRANSCRIPT:
            self._keep(claim.thread_id, _copy_of(claim, History((), None, complete=True), tokens))
            return Recollection(Past(), None)
        copy = self._find(claim, tokens)
        if copy is None:
            history = await self._store.history(claim.address, tokens=tokens, claim=claim)
            if not history.complete and await self._is_marked(claim):
                return _recollection(await recall(self._store, claim.address, tokens=tokens, claim=claim))
            copy = _copy_of(claim, history, tokens)
            self._keep(claim.thread_id, copy)
        return Recollection(copy.past.newest(tokens), copy.summary)

    def extend(self, claim: Claim, entries: Sequence[TranscriptEntry], version: TranscriptVersion | None) -> None:
        """Take in the turn that the run of this claim has committed, which made this of the history."""
        copy = self._copies.get(claim.thread_id)
        if copy is None:
            return
        if version is None or copy.version != claim.transcript or not _follows(version, copy.version):
            self._forget(claim.thread_id)
            return
        turn = _turn(entries)
        past = copy.past.plus(turn) if turn.items else copy.past
        self._keep(claim.thread_id, _cut(replace(copy, version=version, past=past, size=copy.size + _size(turn))))

    def _find(self, claim: Claim, tokens: int) -> _Copy | None:
        copy = self._copies.get(claim.thread_id)
        if copy is None or copy.version != claim.transcript or not (copy.is_complete or tokens <= copy.tokens):
            return None
        copy = _within_bounds(copy, claim.items)
        if copy is not None:
            self._keep(claim.thread_id, copy)
        return copy

    async def _is_marked(self, claim: Claim) -> bool:
        """Whether older turns may hold system messages, which are told although the rest is not."""
        record = await self._store.thread(claim.address)
        return record is not None and SYSTEM_MARK in record.metadata

    def _keep(self, thread_id: str, copy: _Copy) -> None:
        self._forget(thread_id)
        self._copies[thread_id] = copy
        self._size += copy.size
        while self._size > self._capacity:
            self._forget(next(iter(self._copies)))

    def _forget(self, thread_id: str) -> None:
        if (copy := self._copies.pop(thread_id, None)) is not None:
            self._size -= copy.size


def _follows(version: TranscriptVersion, before: TranscriptVersion) -> bool:
    """Whether one turn was added and nothing else. An edit during the run leaves nobody here who
    knows the history.
    """
    return (version.turns, version.edits) == (before.turns + 1, before.edits)


def _cut(copy: _Copy) -> _Copy:
    """Without what nobody asks for any more: now and then, not with every turn."""
    if copy.past.tokens <= _SLACK * copy.tokens:
        return copy
    past = copy.past.newest(copy.tokens)
    return replace(copy, past=past, is_complete=False, size=sum(map(_size, past.turns)))


def _within_bounds(copy: _Copy, items: int) -> _Copy | None:
    """Without the turns that the store has let go at its bounds; None where that does not add up."""
    count, excess = 0, len(copy.past.items) - items
    while excess > 0 and count < len(copy.past.turns):
        excess -= len(copy.past.turns[count].items)
        count += 1
    if excess < 0 and (count or copy.is_complete):
        return None
    if not count:
        return copy
    size = copy.size - sum(map(_size, copy.past.turns[:count]))
    return replace(copy, past=copy.past.without_oldest(count), size=size)


def _copy_of(claim: Claim, history: History, tokens: int) -> _Copy:
    past = _recollection(history).past
    size = sum(map(_size, past.turns))
    return _Copy(claim.transcript, past, history.summary, tokens, history.complete, size)


def _recollection(history: History) -> Recollection:
    turns = [_turn(list(entries)) for _, entries in groupby(history.entries, key=lambda entry: entry.turn)]
    return Recollection(Past.of(turns), history.summary)


def _turn(entries: Sequence[TranscriptEntry]) -> PastTurn:
    return PastTurn((entry.item for entry in entries), sum(entry.tokens for entry in entries))


def _size(turn: PastTurn) -> int:
    return sum(_PER_ITEM + _PER_CHARACTER * _length(item) for item in turn.items)


def _length(item: Item) -> int:
    match item:
        case UserItem():
            return sum(len(part.text) + (len(orjson.dumps(part.data)) if part.data else 0) for part in item.content)
        case AssistantItem() | SystemItem():
            return len(item.text)
        case CallItem():
            return len(item.arguments)
        case OutputItem():
            return len(item.output)
    return len(item.text) + len(repr(item.raw))
