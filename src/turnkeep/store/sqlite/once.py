"""Operations of the SQLite engine that are done once under one name: their results as rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from turnkeep.errors import ThreadNotFound
from turnkeep.events import TurnFault
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address, Message, Part
from turnkeep.store.operations import RESULT_LIFETIME, operation_id, operations_of
from turnkeep.store.shared_ledger import Circuit, Reservation
from turnkeep.store.sqlite.codec import encode, restore
from turnkeep.store.sqlite.transaction import FORGOTTEN_HEAD, Transaction
from turnkeep.store.values import Directive, Document, HeldCall, MessageRecord, Receipt, ThreadOptions, ThreadRecord
from turnkeep.usage import Usage

Restore = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Once:
    """One call that its caller named, and how its result is read again."""

    operation: str
    restore: Restore

    @classmethod
    def of(cls, once: str | None, name: str, *arguments: Any) -> Once | None:
        """None for a call without a name."""
        if once is None:
            return None
        # the thread begins the id, so that all results of one are found when it is forgotten
        thread = next((operations_of(one) for one in arguments if isinstance(one, Address)), "")
        return cls(f"{thread}{operation_id(once, name, *arguments)}", _RESULTS.get(name, _plain))

    def once(self, act: Callable[[Transaction], Any]) -> Callable[[Transaction], Any]:
        """The same act, done once: again the first result, and nothing is touched."""

        def act_once(tx: Transaction) -> Any:
            result_text = tx.connection.execute(
                "SELECT result FROM operation WHERE id = ? AND until > ?", (self.operation, tx.now)
            ).get
            # saying the result again would say what was forgotten, and doing it again
            # would do it twice
            if result_text == FORGOTTEN_HEAD:
                raise ThreadNotFound("this was done, and the thread has been forgotten since")
            if result_text is not None:
                return restore("result", self.restore, result_text)
            result = act(tx)
            # in the act itself: neither the change nor its result is ever there without the other
            tx.mark()
            tx.connection.execute(
                "REPLACE INTO operation (id, until, result) VALUES (?, ?, ?)",
                (self.operation, tx.now + RESULT_LIFETIME, encode(result)),
            )
            return result

        return act_once


def _plain(data: Any) -> Any:
    return data


def _call(data: Mapping[str, Any]) -> HeldCall:
    return HeldCall(**data)


def _receipt(data: Mapping[str, Any]) -> Receipt:
    return Receipt(**data)


def _message_record(data: Mapping[str, Any]) -> MessageRecord:
    message = None if data["message"] is None else _message(data["message"])
    values = {**data, "message": message, "receipt": _receipt(data["receipt"]), "covers": tuple(data["covers"])}
    return MessageRecord(**values)


def _message(data: Mapping[str, Any]) -> Message:
    content = tuple(Part(**part) for part in data["content"])
    return Message(**{**data, "address": Address(**data["address"]), "content": content})


def _thread(data: Mapping[str, Any] | None) -> ThreadRecord | None:
    if data is None:
        return None
    values = {
        **data,
        "address": Address(**data["address"]),
        "options": ThreadOptions(**data["options"]),
        "usage": Usage(**data["usage"]),
        "calls": tuple(map(_call, data["calls"])),
    }
    return ThreadRecord(**values)


def _document(data: Mapping[str, Any] | None) -> Document | None:
    return None if data is None else Document(**data)


def _circuit(data: Mapping[str, Any]) -> Circuit:
    return Circuit(**{**data, "fault": TurnFault(**data["fault"])})


_RESULTS: Mapping[str, Restore] = {
    "renew": lambda data: {token: Directive(**one) for token, one in data.items()},
    "decide": _call,
    "edit": _message_record,
    "withdraw": _message_record,
    "thread": _thread,
    "update": _thread,
    "regenerate": lambda data: [_receipt(one) for one in data],
    "put": _document,
    "take": _document,
    "reserve": lambda data: Reservation(**data),
    "trip": _circuit,
    "open_sink": tuple,
}
"""How results are read again that JSON does not give back as they were."""
