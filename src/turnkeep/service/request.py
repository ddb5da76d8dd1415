"""The messages of a direct call, taken apart: instructions, what is past, what is asked, what has
happened since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from turnkeep.conversation import items_of
from turnkeep.errors import InvalidMessage
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Item, SystemItem, UserItem
from turnkeep.models.past import pair


@dataclass(frozen=True, slots=True)
class DirectRequest:
    """`new` is answered together. `since` holds calls that the caller has run, and their outputs."""

    instructions: str | None
    past: tuple[Item, ...]
    new: tuple[UserItem, ...]
    since: tuple[Item, ...]

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, Any] | Item]) -> Self:
        """A whole conversation: what is asked are the last user messages. Raises `InvalidMessage`."""
        if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
            raise InvalidMessage("messages are a list of messages, like [{'role': 'user', 'content': 'Hello'}]")
        items = [item for message in messages for item in items_of(message)]
        system = [item.text for item in items if isinstance(item, SystemItem)]
        talk = [item for item in items if item.kind != "system"]
        last = max((index for index, item in enumerate(talk) if item.kind == "user"), default=None)
        if last is None:
            raise InvalidMessage("there is no user message to answer, give at least one")
        first = last
        while first > 0 and talk[first - 1].kind == "user":
            first -= 1
        new = tuple(item for item in talk[first : last + 1] if isinstance(item, UserItem))
        return cls("\n\n".join(system) or None, tuple(talk[:first]), new, tuple(pair(talk[last + 1 :])))

    @classmethod
    def of_session(cls, messages: Sequence[Mapping[str, Any] | Item]) -> Self:
        """What is new in a session that remembers the rest. Raises `InvalidMessage`."""
        request = cls.of(messages)
        if request.past or request.since:
            raise InvalidMessage(
                "with a session, messages are what is new: user messages, and system messages for this call; "
                "earlier ones and answers are remembered already"
            )
        return request
