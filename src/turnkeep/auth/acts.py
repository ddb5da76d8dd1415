"""What a caller does at any door: sends, changes, stops, decides. Who a message is from, at what rate
it comes in, and what no scope says (who has asked for a call, whose words are instructions). Which
scope somebody has is in `principals.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Literal, cast, get_args

from turnkeep.application import Application
from turnkeep.auth.audit_trail import channel_digest, report
from turnkeep.auth.limits import Limits
from turnkeep.auth.principals import Principal
from turnkeep.errors import (
    InvalidMessage,
    MessageFrozen,
    NotAllowed,
    NotFound,
    Rejection,
    ThreadNotFound,
    TooManyRequests,
)
from turnkeep.inputs import MAX_NAME, optional_text, read_content, read_message
from turnkeep.messages import DEFAULT_TENANT, USER, Address, Content, Message
from turnkeep.store.values import DeadLetter, Decision, HeldCall, MessageRecord, Receipt

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


def message_of(body: Mapping[str, Any], address: Address, limits: Limits, principal: Principal) -> Message:
    """The message that somebody sends. Whoever manages the channel speaks for the operator;
    instructions of anybody else are refused, or kept as a user's where the operator takes those.
    Who answers, and at what price, is the operator's matter too. Raises `Rejection`, `NotAllowed`.
    """
    message = read_message(body, address, limit=limits.message_bytes, user=principal.user)
    _check_parts(message.content, limits, principal)
    if "manage" in principal.rights:
        return message
    if message.model is not None or message.parameters:
        raise NotAllowed("'model', 'effort', 'format' and 'parameters' of a message need the scope 'manage'")
    if message.instructions is None:
        return message
    if not limits.client_instructions:
        raise NotAllowed(
            "instructions need the scope 'manage'; where everybody may give some, set TURNKEEP_CLIENT_INSTRUCTIONS=on"
        )
    return message.but(instructions=None, user_instructions=message.instructions)


def content_of(
    body: Mapping[str, Any], limits: Limits, principal: Principal, *, most_bytes: int | None = None
) -> Content:
    """What a message is changed to, or said before. Raises as `message_of`."""
    content = read_content(body, limit=most_bytes or limits.message_bytes)
    _check_parts(content, limits, principal)
    return content


def _check_parts(content: Content, limits: Limits, principal: Principal) -> None:
    """A file id names a file of the provider's account, which all tenants share: whoever manages
    another tenant than the operator's own manages no file there.
    """
    if limits.file_ids or ("manage" in principal.rights and principal.tenant == DEFAULT_TENANT):
        return
    if any("file_id" in (part.data or ()) for part in content):
        raise NotAllowed(
            "'file_id' names a file of an account that all tenants share: it needs the scope 'manage' in the tenant "
            "'default', or TURNKEEP_FILE_IDS=on; send the file as 'file_data'"
        )


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


async def accept(application: Application, limits: Limits, principal: Principal, message: Message) -> Receipt:
    """Take it in durably. A repeat costs nothing and has its receipt, whatever the rate.

    Raises `Rejection`: `TooManyRequests`, `InboxFull`, `NotFound`; `StoreError`.
    """
    address = message.address
    user = None if principal.user is not None else message.metadata.get(USER)  # else it is the credential's own name
    try:
        limits.check_rate(principal, address, user)
    except TooManyRequests:
        # A client that was not told repeats under the same id: to refuse it would
        # lose what is stored.
        if message.minted or await application.store.message(address, message.message_id) is None:
            raise
        is_free = True
    else:
        is_free = False
    may_create = await limits.creates(address)
    [outcome] = await application.accept([message], create=may_create)
    if isinstance(outcome, ThreadNotFound) and not may_create and not address.names_thread:
        raise limits.threads.refusal()
    if isinstance(outcome, Rejection):
        raise outcome
    # Counted before it was known to be a repeat: to ask first would cost every message a look.
    if outcome.repeated and not is_free:
        limits.give_back(principal, address, user)
    return outcome
