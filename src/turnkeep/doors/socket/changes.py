"""What may be changed on a channel over a socket as over HTTP: a message until a run has begun, a
pause, an answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from turnkeep.application import Application
from turnkeep.auth import acts
from turnkeep.auth.limits import Limits
from turnkeep.auth.principals import Principal
from turnkeep.errors import InvalidMessage, ThreadNotFound
from turnkeep.inputs import MAX_NAME, optional_text
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address

ChangeRequest = Mapping[str, Any]
ChangeResult = tuple[str, dict[str, Any]]
"""The status, and the fields of the frame that says so."""

ASKING = frozenset({"regenerate"})
"""Changes that ask for an answer: they count like messages."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose change it is, and within which limits."""

    principal: Principal
    limits: Limits


Change = Callable[[Application, Caller, Address, ChangeRequest], Awaitable[ChangeResult]]


async def edit(application: Application, caller: Caller, address: Address, request: ChangeRequest) -> ChangeResult:
    content = caller.limits.content_of(request, caller.principal)
    await acts.own_message(application, caller.principal, address, _message_id(request))
    record = await application.store.edit(address, _message_id(request), content, once=_once(caller, request))
    return "edited", {"message_id": record.message_id, "state": record.status}


async def withdraw(application: Application, caller: Caller, address: Address, request: ChangeRequest) -> ChangeResult:
    await acts.own_message(application, caller.principal, address, _message_id(request))
    record = await application.store.withdraw(address, _message_id(request), once=_once(caller, request))
    return "withdrawn", {"message_id": record.message_id, "state": record.status}


async def pause(application: Application, caller: Caller, address: Address, request: ChangeRequest) -> ChangeResult:
    await _existing(application, address)
    await application.store.pause(address, once=_once(caller, request))
    return "paused", {}


async def resume(application: Application, caller: Caller, address: Address, request: ChangeRequest) -> ChangeResult:
    await _existing(application, address)
    await application.store.resume(address, once=_once(caller, request))
    return "resumed", {}


async def regenerate(
    application: Application, caller: Caller, address: Address, request: ChangeRequest
) -> ChangeResult:
    await _existing(application, address)
    once = _once(caller, request)
    receipts = await application.store.regenerate(address, once=once)
    return "regenerating", {"receipts": [receipt.to_json() for receipt in receipts]}


CHANGES: Mapping[str, Change] = {
    "edit": edit,
    "withdraw": withdraw,
    "pause": pause,
    "resume": resume,
    "regenerate": regenerate,
}


def _once(caller: Caller, request: ChangeRequest) -> str | None:
    return acts.once(caller.principal, key_of(request))


def key_of(request: ChangeRequest) -> str | None:
    """How the sender of a frame names it, so that a repeat gives the first answer."""
    return optional_text(request, "idempotency_key", MAX_NAME)


def _message_id(request: ChangeRequest) -> str:
    message_id = optional_text(request, "message_id", MAX_NAME)
    if message_id is None:
        raise InvalidMessage("Missing required 'message_id' field")
    return message_id


async def _existing(application: Application, address: Address) -> None:
    if await application.store.thread(address) is None:
        raise ThreadNotFound("there is no such thread")
