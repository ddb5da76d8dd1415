"""The past of a thread as requests tell it: whole turns, each of which remembers its words.

A long thread tells the same thousands of entries with every message. What pairing, fitting and the
words of a protocol make of a turn depends on that turn alone, unless ids of calls meet or a server
wants something moved. So it is done once for each turn (`past_words`), and a request
puts the words together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from turnkeep.messages import CallItem, Item, UserItem
from turnkeep.models.pairing import pair


class PastTurn:
    """What one turn added to a thread, and its words in the form in which they were asked for last."""

    __slots__ = (
        "begins_with_user",
        "call_ids",
        "call_names",
        "form",
        "has_system",
        "is_paired",
        "items",
        "tokens",
        "words",
    )

    def __init__(self, items: Iterable[Item], tokens: int) -> None:
        self.items = tuple(items)
        self.tokens = tokens
        calls = [item for item in self.items if isinstance(item, CallItem)]
        self.call_ids = frozenset(call.call_id for call in calls)
        self.call_names = frozenset(call.name for call in calls)
        self.has_system = any(item.kind == "system" for item in self.items)
        self.begins_with_user = bool(self.items) and isinstance(self.items[0], UserItem)
        self.is_paired = len(self.call_ids) == len(calls) and pair(self.items) == list(self.items)
        self.form: object = None
        self.words: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """Whole turns, oldest first.

    `is_divisible`: pairing it is pairing each turn by itself, and changes nothing.
    """

    turns: tuple[PastTurn, ...] = ()
    items: tuple[Item, ...] = ()
    tokens: int = 0
    is_divisible: bool = True
    has_system: bool = False
    call_ids: frozenset[str] = frozenset()
    call_names: frozenset[str] = frozenset()

    @classmethod
    def of(cls, turns: Sequence[PastTurn]) -> Past:
        call_ids = [turn.call_ids for turn in turns if turn.call_ids]
        distinct_ids = frozenset().union(*call_ids)
        return cls(
            tuple(turns),
            tuple(chain.from_iterable(turn.items for turn in turns)),
            sum(turn.tokens for turn in turns),
            all(turn.is_paired for turn in turns)
            and all(turn.begins_with_user for turn in turns[1:])
            and len(distinct_ids) == sum(map(len, call_ids)),
            any(turn.has_system for turn in turns),
            distinct_ids,
            frozenset().union(*(turn.call_names for turn in turns if turn.call_names)),
        )

    def plus(self, turn: PastTurn) -> Past:
        """With one more turn, at the cost of that turn."""
        fits = turn.is_paired and (turn.begins_with_user or not self.turns)
        return Past(
            (*self.turns, turn),
            self.items + turn.items,
            self.tokens + turn.tokens,
            self.is_divisible and fits and self.call_ids.isdisjoint(turn.call_ids),
            self.has_system or turn.has_system,
            self.call_ids | turn.call_ids if turn.call_ids else self.call_ids,
            self.call_names | turn.call_names if turn.call_names else self.call_names,
        )

    def without_oldest(self, count: int) -> Past:
        """Without so many turns. What is known of ids and names may still tell of those that went."""
        if not count:
            return self
        if self.has_system or not self.is_divisible:
            return Past.of(self.turns[count:])
        oldest = self.turns[:count]
        return replace(
            self,
            turns=self.turns[count:],
            items=self.items[sum(len(turn.items) for turn in oldest) :],
            tokens=self.tokens - sum(turn.tokens for turn in oldest),
        )

    def without_newest(self, count: int) -> Past:
        turns = self.turns[-count:] if count else ()
        if not turns:
            return self
        items = sum(len(turn.items) for turn in turns)
        tokens = sum(turn.tokens for turn in turns)
        return replace(
            self,
            turns=self.turns[: -len(turns)],
            items=self.items[: len(self.items) - items],
            tokens=self.tokens - tokens,
        )

    def newest(self, tokens: int) -> Past:
        """The newest whole turns that fit."""
        rest, count = self.tokens, 0
        while rest > tokens:
            rest -= self.turns[count].tokens
            count += 1
        return self.without_oldest(count)

    def leads_to(self, items: Sequence[Item]) -> bool:
        """Whether what follows in a request leaves this past as it is."""
        ids = {item.call_id for item in items if isinstance(item, CallItem)}
        # One without content asks for an answer to what was said before, and is no word of a request.
        begins_with_words = bool(items) and isinstance(items[0], UserItem) and bool(items[0].content)
        return self.is_divisible and begins_with_words and self.call_ids.isdisjoint(ids)
