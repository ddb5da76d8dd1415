"""What a caller does at any door with what is there: changes, stops, decides. Whose message it is, and what no
scope says (who has asked for a call). Which scope somebody has is in `principals.py`; what may come in, and at what
rate, in `limits.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, cast, get_args

from turnkeep.application import Application
from turnkeep.auth.audit_trail import channel_digest, report
from turnkeep.auth.principals import Principal
from turnkeep.errors import InvalidMessage, MessageFrozen, NotAllowed, NotFound
from turnkeep.inputs import MAX_NAME, optional_text
from turnkeep.messages import USER, Address, Message
from turnkeep.store.values import DeadLetter, Decision, HeldCall, MessageRecord

DecisionVerdict = Literal["approved", "denied", "output"]
VERDICTS: tuple[DecisionVerdict, ...] = get_args(DecisionVerdict)
MAX_DIGEST = 64
"""Characters of the digest of a call: SHA-256 in hexadecimal."""


def once(principal: Principal, key: str | None) -> str | None:
    """The name of a call for the store, from the key that its caller gave it: another's key names
    another call.
    """
    if key is None:
        return None
    if not 1 <= len(key) <= MAX_NAME:
        raise InvalidMessage(f"an idempotency key has 1 to {MAX_NAME} characters, not {len(key)}")
    return "\0".join((principal.tenant, principal.subject, key))


async def own_message(application: Application, principal: Principal, address: Address, message_id: str) -> None:
    """Raises `NotAllowed` for a waiting message of somebody else, unless who
    asks manages the channel.
    """
    if "manage" in principal.rights:
        return
    record = await application.store.message(address, message_id)
    if record is not None and record.message is not None and _sender(record.message) != principal.user:
        raise NotAllowed("this message is somebody else's: to change it needs the scope 'manage'")


def own_letter(principal: Principal, letter: DeadLetter) -> None:
    """Raises `NotAllowed` for a dead letter of somebody else, unless who asks manages the channel."""
    if "manage" not in principal.rights and _sender(letter.message) != principal.user:
        raise NotAllowed("this message is somebody else's: to send it again needs the scope 'manage'")


async def stop(
    application: Application, principal: Principal, address: Address, *, drop_inbox: bool, once: str | None
) -> bool:
    """Stop the run in progress; `drop_inbox` withdraws what waits, of others only for who manages
    the channel.
    """
    if drop_inbox and "manage" not in principal.rights:
        for record in await application.store.open_messages(address):
            if record.message is not None and _sender(record.message) == principal.user:
                # a run may have taken it meanwhile: that one is stopped
                with suppress(MessageFrozen, NotFound):
                    await application.store.withdraw(address, record.message_id, once=once)
        # what still waits is of others
        drop_inbox = False
    return await application.store.cancel(address, drop_inbox=drop_inbox, once=once)


def _sender(message: Message) -> str | None:
    return message.metadata.get(USER)


async def decide(
    application: Application, principal: Principal, address: Address, body: Mapping[str, Any], *, once: str | None
) -> dict[str, Any]:
    """Take a decision about a held call: `call_id`, `digest`, `decision` (approved, denied,
    output), `output`.

    It counts for the arguments whose digest it names. Who sent the messages of the turn approves
    none of its calls, unless the tool allows that. Raises `Rejection`, `NotAllowed`, `NotFound`.
    """
    call_id, digest = optional_text(body, "call_id", MAX_NAME), optional_text(body, "digest", MAX_DIGEST)
    verdict, output = body.get("decision"), body.get("output", "")
    if call_id is None or digest is None or verdict not in VERDICTS or not isinstance(output, str):
        raise InvalidMessage(
            "a decision needs 'call_id', its 'digest', 'decision' (approved, denied, output) and 'output' as text"
        )
    call = await _held_call(application, address, call_id)
    # an approval alone makes the tool run: who asked may deny his call, or give its output
    if verdict == "approved" and not call.self_approval and await _asked_for_it(application, principal, address):
        raise NotAllowed(f"tool {call.name!r} wants the approval of somebody else than who asked for it")
    decision = Decision(cast(Any, verdict), output, principal.subject)
    outcome = await application.store.decide(address, call_id, digest, decision, once=once)
    about = {"channel": channel_digest(address.channel), "call": call_id, "digest": digest, "decision": str(verdict)}
    await report("call_decided", tenant=principal.tenant, by=principal.subject, **about)
    return outcome.to_json()


async def _held_call(application: Application, address: Address, call_id: str) -> HeldCall:
    record = await application.store.thread(address)
    call = next((call for call in record.calls if call.call_id == call_id), None) if record else None
    if call is None:
        raise NotFound(f"no call {call_id!r} waits on this channel")
    return call


async def _asked_for_it(application: Application, principal: Principal, address: Address) -> bool:
    """Whether a message of the turn that waits is of who decides. Where nobody is asked who he is,
    nobody can tell.
    """
    if principal.user is None and "admin" in principal.rights:
        return False
    return any(_is_of(principal, record) for record in await application.store.open_messages(address))


def _is_of(principal: Principal, record: MessageRecord) -> bool:
    return record.status == "running" and record.message is not None and _sender(record.message) == principal.user
