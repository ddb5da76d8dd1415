"""Which part of a transcript is told, when not all of it fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from turnkeep.messages import CallItem, OutputItem
from turnkeep.store.values import TranscriptEntry


def prune(
    entries: Sequence[TranscriptEntry], *, tokens: int | None = None, messages: int | None = None
) -> list[TranscriptEntry]:
    """The part of a transcript that fits a budget of tokens and of entries (None: no
    limit), in its order.

    Guarantees: the result is within both limits and the same for the same input. System messages
    are kept before all else, from the first on. Then come the newest whole turns; where not even
    the newest turn fits, its end. A call is never parted from its output, nor reasoning or a
    provider's own tool from what it led to.
    """
    room = _Room(tokens, messages)
    picks = {place for place, entry in enumerate(entries) if entry.item.kind == "system" and room.takes([entry])}
    talk = [place for place, entry in enumerate(entries) if entry.item.kind != "system"]
    pieces = _pieces(entries, talk)
    turns = _turns(entries, pieces)
    for turn in reversed(turns):
        if not room.takes(entries[place] for piece in turn for place in piece):
            # and no older one instead, though it may be shorter: a conversation
            # is told without gaps
            if turn is turns[-1]:
                picks.update(_end_of(turn, entries, room))
            break
        picks.update(place for piece in turn for place in piece)
    return [entries[place] for place in sorted(picks)]


class _Room:
    """What is left of the budget."""

    def __init__(self, tokens: int | None, messages: int | None) -> None:
        self._tokens = tokens
        self._messages = messages

    def takes(self, entries: Iterable[TranscriptEntry]) -> bool:
        """Take these in if they fit."""
        candidates = list(entries)
        tokens = None if self._tokens is None else self._tokens - sum(entry.tokens for entry in candidates)
        messages = None if self._messages is None else self._messages - len(candidates)
        if (tokens is not None and tokens < 0) or (messages is not None and messages < 0):
            return False
        self._tokens, self._messages = tokens, messages
        return True


def _pieces(entries: Sequence[TranscriptEntry], places: Sequence[int]) -> list[list[int]]:
    """Cut as finely as is allowed: what belongs together is one piece."""
    outputs = [(entries[p].item, at) for at, p in enumerate(places) if entries[p].item.kind == "output"]
    last_output = {item.call_id: at for item, at in outputs if isinstance(item, OutputItem)}
    pieces: list[list[int]] = []
    bound_until = -1
    for at, place in enumerate(places):
        item = entries[place].item
        if at > bound_until:
            pieces.append([])
        pieces[-1].append(place)
        # providers refuse one without the item that it led to
        if item.kind in ("reasoning", "hosted"):
            bound_until = max(bound_until, at + 1)
        elif isinstance(item, CallItem):
            bound_until = max(bound_until, last_output.get(item.call_id, at))
    return pieces


def _turns(entries: Sequence[TranscriptEntry], pieces: Sequence[list[int]]) -> list[list[list[int]]]:
    """Pieces by turn: one begins with the first user message after something else was said."""
    turns: list[list[list[int]]] = []
    is_answered = True
    for piece in pieces:
        if not turns or (is_answered and entries[piece[0]].item.kind == "user"):
            turns.append([])
        turns[-1].append(piece)
        is_answered = entries[piece[-1]].item.kind != "user"
    return turns


def _end_of(turn: Sequence[list[int]], entries: Sequence[TranscriptEntry], room: _Room) -> list[int]:
    """The newest pieces of a turn that fit."""
    places: list[int] = []
    for piece in reversed(turn):
        if not room.takes(entries[place] for place in piece):
            break
        places += piece
    return places
