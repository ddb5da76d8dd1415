"""Conversations: lists of items that responses are bound to, with the platform's lock.

A response bound to a conversation reads its items and appends input and output once it is
complete. While it is open, and `lock_release_delay` seconds longer, no other response may use
the conversation.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any

from turnkeep.clock import Clock
from turnkeep.lean_dataclass import dataclass
from turnkeep.simulator import response_checks
from turnkeep.simulator.options import Options
from turnkeep.simulator.problems import Problem, conversation_locked, not_found
from turnkeep.simulator.prompt import Json
from turnkeep.simulator.seeded_ids import SeededIds

# What one request to the platform may carry, for a new conversation and for an old one.
LIMIT = 20
_HEADS = {"message": "msg_", "function_call": "fc_", "function_call_output": "fco_", "reasoning": "rs_"}


@dataclass(slots=True)
class BoundConversation:
    """`items` with the moment from which each is listed; `holder` is the response that locks it."""

    id: str
    created_at: int
    metadata: dict[str, str]
    items: list[tuple[float, Json]] = field(default_factory=list)
    holder: str | None = None
    locked_until: float = 0.0

    def to_json(self) -> Json:
        return {
            "id": self.id,
            "object": "conversation",
            "created_at": self.created_at,
            "metadata": self.metadata,
        }


class Conversations:
    """All conversations of one simulator."""

    def __init__(self, ids: SeededIds, clock: Clock) -> None:
        self._ids = ids
        self._clock = clock
        self._all: dict[str, BoundConversation] = {}

    def create(self, body: Mapping[str, Any]) -> BoundConversation:
        _check_parameters(body, ("items", "metadata"))
        response_checks.check_items_limit(body.get("items"), LIMIT)
        items = response_checks.items(body.get("items"), "items")
        metadata = response_checks.metadata(body.get("metadata"))
        conversation = BoundConversation(self._ids.new("conv_"), int(self._clock.now()), metadata)
        self._all[conversation.id] = conversation
        self._append(conversation, items, self._clock.now())
        return conversation

    def get(self, conversation_id: str) -> BoundConversation:
        conversation = self._all.get(conversation_id)
        if conversation is None:
            raise not_found("Conversation", conversation_id)
        return conversation

    def update(self, conversation_id: str, body: Mapping[str, Any]) -> BoundConversation:
        _check_parameters(body, ("metadata",))
        conversation = self.get(conversation_id)
        conversation.metadata = response_checks.metadata(body.get("metadata"))
        return conversation

    def delete(self, conversation_id: str) -> Json:
        del self._all[self.get(conversation_id).id]
        return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}

    def clear(self) -> None:
        self._all.clear()

    def add(self, conversation_id: str, body: Mapping[str, Any]) -> list[Json]:
        _check_parameters(body, ("items",))
        conversation = self.get(conversation_id)
        response_checks.check_items_limit(body.get("items"), LIMIT)
        return self._append(conversation, response_checks.items(body.get("items"), "items"), self._clock.now())

    def list_items(self, conversation_id: str) -> list[Json]:
        """What can be seen by now, oldest first."""
        now = self._clock.now()
        return [item for visible, item in self.get(conversation_id).items if visible <= now]

    def item(self, conversation_id: str, item_id: str) -> Json:
        for item in self.list_items(conversation_id):
            if item["id"] == item_id:
                return item
        raise not_found("Item", item_id)

    def remove(self, conversation_id: str, item_id: str) -> BoundConversation:
        conversation = self.get(conversation_id)
        self.item(conversation_id, item_id)
        conversation.items = [entry for entry in conversation.items if entry[1]["id"] != item_id]
        return conversation

    def lock(self, conversation_id: str, response_id: str) -> list[Json]:
        """Take the lock and give the items; refuses with
        ``conversation_locked`` while another response has it.
        """
        conversation = self.get(conversation_id)
        # A 400 that has to be repeated: clients know it by its code alone, which is why the words
        # and the code are the platform's.
        if conversation.holder is not None or self._clock.now() < conversation.locked_until:
            raise conversation_locked()
        conversation.holder = response_id
        return [item for _, item in conversation.items]

    def release(self, conversation_id: str, response_id: str, options: Options) -> None:
        conversation = self._all.get(conversation_id)
        if conversation is not None and conversation.holder == response_id:
            conversation.holder = None
            # How long the platform holds its lock after an end is not documented, hence an option.
            conversation.locked_until = self._clock.now() + options.lock_release_delay

    def append(self, conversation_id: str, items: Iterable[Json], options: Options) -> None:
        """Add what a response read and said. A conversation deleted meanwhile takes nothing."""
        conversation = self._all.get(conversation_id)
        if conversation is not None:
            # Clients that clean up after an aborted stream have looked too early and found nothing.
            self._append(conversation, items, self._clock.now() + options.persistence_lag)

    def _append(self, conversation: BoundConversation, items: Iterable[Json], visible: float) -> list[Json]:
        entries = [stored_item(item, self._ids) for item in items]
        conversation.items += [(visible, item) for item in entries]
        return entries


def stored_item(item: Json, ids: SeededIds) -> Json:
    """An item as it is kept: with an id, messages also with a status."""
    kind = item.get("type", "message")
    full = dict(item)
    if full.get("id") is None:
        full["id"] = ids.new(_HEADS.get(kind, "item_"))
    if kind == "message":
        full.setdefault("status", "completed")
    return full


def page(items: Sequence[Json], query: Mapping[str, str]) -> Json:
    """A page of a list: `limit` 1 to 100 (20), `order` asc or desc (desc), `after` an id."""
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise Problem(400, f"Invalid value: '{order}'. Supported values are: 'asc' and 'desc'.", param="order")
    limit = _limit(query.get("limit", "20"))
    entries = list(items) if order == "asc" else list(reversed(items))
    if (after := query.get("after")) is not None:
        at = next((at for at, item in enumerate(entries) if item["id"] == after), None)
        if at is None:
            raise not_found("Item", after)
        entries = entries[at + 1 :]
    data = entries[:limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(entries) > limit,
    }


def _limit(text: str) -> int:
    if len(text) > 3 or not text.isdecimal() or not 1 <= int(text) <= 100:
        raise Problem(400, f"Invalid 'limit': expected a value between 1 and 100, but got '{text}'.", param="limit")
    return int(text)


def _check_parameters(body: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in body:
        if name not in names:
            raise Problem(400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
