"""The past of a thread as requests tell it: whole turns, whose words are remembered.

A long thread tells the same thousands of entries with every message. What pairing, fitting and the
words of a protocol make of a turn depends on that turn alone, unless ids of calls meet or a server
wants something moved. So it is done once for each turn (`PastForms` of `fit`), and the words of all
stand behind each other (`PastWords`): a request looks at what is new alone.

Pairing is the last look at a transcript before it becomes a request: every call has exactly one
output. Providers refuse a request with a call that lacks its output, an output that lacks its call,
or a reasoning item that lacks what it led to; one such item would make a thread unanswerable for
ever. Ids of calls are unique within a transcript, whatever the server sends.
"""

from __future__ import annotations

import uuid
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import field, replace
from functools import cached_property
from itertools import chain

import orjson

from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import CallItem, Item, OutputItem, UserItem

MISSING_OUTPUT = "outcome unknown, interrupted"

LONGEST_CALL_ID = 64
"""What OpenAI takes; a transcript may be continued there."""


@dataclass(slots=True, eq=False)
class PastWords:
    """The words of turns that follow each other, in one form, without brackets.

    Not kept with each turn: to look at a thousand of them, wherever they are in memory, costs more than to copy all
    that they say from one place.
    """

    form: object
    text: bytearray = field(default_factory=bytearray)
    starts: list[int] = field(default_factory=list)
    """Where the words of each turn begin."""

    def grow(self, words_of_turns: Iterable[bytes], count: int) -> bytes:
        """Add those of further turns, some of which may have none; those of the newest `count` of all. What is older
        is let go once it is more than they are.
        """
        for words in words_of_turns:
            self.starts.append(len(self.text) + bool(self.text))
            self.text += b"," + words if self.text and words else words
        if (start := self.starts[-count]) > len(self.text) // 2:
            del self.text[:start]
            self.starts = [place - start for place in self.starts[-count:]]
            start = 0
        return bytes(memoryview(self.text)[start:])


class PastTurn:
    """What one turn added to a thread."""

    __slots__ = (
        "begins_with_user",
        "call_ids",
        "call_names",
        "has_system",
        "is_paired",
        "items",
        "misfit",
        "tokens",
        "words",
    )

    words: PastWords | None
    """Those of the turns up to this one, where a past ended with it when it was told last."""
    misfit: object
    """The form in which it was found to have no words of its own."""

    def __init__(self, items: Iterable[Item], tokens: int) -> None:
        self.items = _in_call_order(tuple(items))
        self.tokens = tokens
        calls = [item for item in self.items if isinstance(item, CallItem)]
        self.call_ids = frozenset(call.call_id for call in calls)
        self.call_names = frozenset(call.name for call in calls)
        self.has_system = any(item.kind == "system" for item in self.items)
        self.begins_with_user = bool(self.items) and isinstance(self.items[0], UserItem)
        self.is_paired = len(self.call_ids) == len(calls) and pair(self.items) == list(self.items)
        self.words = self.misfit = None

    def is_told(self, form: object, count: int) -> bool:
        """Whether the words of so many turns up to this one are there, in this form."""
        return self.words is not None and self.words.form is form and len(self.words.starts) >= count


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


def pair(items: Sequence[Item]) -> list[Item]:
    """The same transcript, fit to be sent.

    Guarantees: each call is followed, right after the group of calls it belongs to, by exactly one
    output, in the order of the calls, made up with status ``unknown`` where none is there; outputs
    without a call and second outputs are gone; a reasoning item stays before its call or answer and
    is gone without one. All else is kept, in order. A transcript that is fit already comes back as
    it is, and pairing twice is pairing once.
    """
    # most turns call nothing and think nothing: there is nothing to pair
    if not any(item.kind in ("call", "output", "reasoning") for item in items):
        return list(items)
    return without_idle_reasoning(_regroup(*_match(items)))


def repair(items: Sequence[Item]) -> list[Item]:
    """What to send once more after a provider refused a paired transcript: the same without
    reasoning items.

    They are sealed by the provider and may no longer be readable to it (other key, other server).
    """
    return pair([item for item in items if item.kind != "reasoning"])


def _in_call_order(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """The items as they are paired, if that is only another order."""
    # Calls run at the same time, so every second turn with two of them has their results the other
    # way round: its thread would have to be paired as a whole with each message.
    pairs = pair(items)
    is_order_alone = len(pairs) == len(items) and set(map(id, pairs)) == set(map(id, items))
    return tuple(pairs) if is_order_alone else items


def _match(items: Sequence[Item]) -> tuple[list[Item], dict[int, int]]:
    """The items without stray outputs, and the place of each answered call with the
    place of its output.
    """
    waiting: defaultdict[str, deque[int]] = defaultdict(deque)
    result: list[Item] = []
    output_of: dict[int, int] = {}
    for item in items:
        if isinstance(item, OutputItem):
            if not waiting[item.call_id]:
                continue
            # Where servers give two calls one id, the older is answered first.
            output_of[waiting[item.call_id].popleft()] = len(result)
        elif isinstance(item, CallItem):
            waiting[item.call_id].append(len(result))
        result.append(item)
    return result, output_of


def _regroup(items: list[Item], output_of: dict[int, int]) -> list[Item]:
    """Each group of calls with all its outputs right behind it."""
    result: list[Item] = []
    group: list[int] = []
    for place, item in enumerate(items):
        if group and not _continues(items, place):
            result += _outputs(items, group, output_of)
            group = []
        if isinstance(item, OutputItem):
            continue
        if isinstance(item, CallItem):
            group.append(place)
        result.append(item)
    return result + _outputs(items, group, output_of)


def _continues(items: list[Item], place: int) -> bool:
    """Whether the entry at this place still belongs to the group of calls before it."""
    while place < len(items) and items[place].kind in ("reasoning", "hosted"):
        place += 1
    return place < len(items) and items[place].kind == "call"


def _outputs(items: list[Item], group: list[int], output_of: dict[int, int]) -> list[Item]:
    # In the order of the calls and not of the results: Ollama and the chat templates of many models
    # know no ids of calls, and take the first result for that of the first call.
    return [items[output_of[call]] if call in output_of else _unknown_output(items[call]) for call in group]


def _unknown_output(call: Item) -> OutputItem:
    assert isinstance(call, CallItem)  # noqa: S101
    # Neither done nor not done: saying either would make the model repeat it, or rely on it.
    return OutputItem(call.call_id, MISSING_OUTPUT, "unknown")


def without_idle_reasoning(items: Sequence[Item]) -> list[Item]:
    """The items without reasoning that leads to no call and no answer."""
    result: list[Item] = []
    leads_somewhere = False
    for item in reversed(items):
        if item.kind != "reasoning":
            leads_somewhere = item.kind in ("call", "assistant", "hosted")
        elif not leads_somewhere:
            continue
        result.append(item)
    return result[::-1]


class CallIds:
    """Keeps the ids of a server that are good and replaces those that are missing,
    too long or taken.

    Some servers count from zero in every answer or send no id. Two calls of one name in a
    transcript would be taken for one: the second would get the result of the first.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = items

    # Most answers call nothing, and a transcript may be long.
    @cached_property
    def _ids_in_use(self) -> set[str]:
        return {item.call_id for item in self._items if isinstance(item, CallItem)}

    def unique(self, call_id: str) -> str:
        # A new id is no loss: only our own transcript refers to it.
        if not call_id or len(call_id) > LONGEST_CALL_ID or call_id in self._ids_in_use:
            call_id = f"call_{uuid.uuid4().hex}"
        self._ids_in_use.add(call_id)
        return call_id


def readable_arguments(arguments: str) -> str:
    """The arguments of a call as they go back: an object, though it be one that holds what the
    model wrote.

    Many servers parse them, and one bad call must not make a thread unanswerable.
    """
    return arguments if is_object(arguments) else orjson.dumps({"malformed": arguments}).decode()


def is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except ValueError:
        return False
