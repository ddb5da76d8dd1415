"""The order of roles that strict servers ask for: whose words may follow whose, and where the operator's stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from turnkeep.messages import AssistantItem, CallItem, Item, OutputItem, Part, ReasoningItem, UserItem

NO_ANSWER = "(no answer)"
EARLIER = "(earlier conversation)"


def preface(items: list[Item], text: str) -> list[Item]:
    """What the operator says, before the first words of the user."""
    for place, item in enumerate(items):
        if isinstance(item, UserItem):
            content = (Part("text", f"{text}\n"), *item.content)
            return [*items[:place], replace(item, content=content), *items[place + 1 :]]
    return [UserItem((Part("text", text),)), *items]


def join_roles(items: Iterable[Item]) -> Iterator[Item]:
    """Neighbours of one role as one, beginning with the user's."""
    last: Item | None = None
    for item in items:
        if last is None and not isinstance(item, UserItem):
            last = UserItem((Part("text", EARLIER),))
        if isinstance(last, UserItem) and isinstance(item, UserItem):
            last = replace(last, content=(*last.content, *item.content))
        elif isinstance(last, AssistantItem) and isinstance(item, AssistantItem):
            last = replace(last, text=f"{last.text}\n\n{item.text}")
        # A thought would stand between two texts of the assistant that have to become one.
        elif not (isinstance(last, AssistantItem) and isinstance(item, ReasoningItem)):
            if last is not None:
                yield last
            last = item
    if last is not None:
        yield last


def one_by_one(items: Iterable[Item]) -> Iterator[Item]:
    """Each call, behind the thoughts that led to it, right before its output."""
    thoughts: list[Item] = []
    waiting: dict[str, list[Item]] = {}
    for item in items:
        if isinstance(item, ReasoningItem):
            thoughts.append(item)
            continue
        if isinstance(item, CallItem):
            waiting[item.call_id] = [*thoughts, item]
        else:
            yield from waiting.pop(item.call_id, ()) if isinstance(item, OutputItem) else thoughts
            yield item
        thoughts = []
    yield from (item for call in waiting.values() for item in call)


def bridge(items: Sequence[Item]) -> Iterator[Item]:
    """A word of the assistant between what a tool gave and what the user says then."""
    last: Item | None = None
    for item in items:
        if isinstance(last, OutputItem) and isinstance(item, UserItem):
            yield AssistantItem(NO_ANSWER)
        yield item
        last = item
