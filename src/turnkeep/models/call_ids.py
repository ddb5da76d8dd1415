"""Names of tool calls: unique within a transcript, whatever the server sends."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from functools import cached_property

import orjson

from turnkeep.messages import CallItem, Item

LONGEST_CALL_ID = 64
"""What OpenAI takes; a transcript may be continued there."""


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
