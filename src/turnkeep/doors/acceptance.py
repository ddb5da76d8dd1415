"""A message on its way in, from whichever door: its rate, its thread, its receipt."""

from __future__ import annotations

from turnkeep.application import Application
from turnkeep.auth.limits import Limits
from turnkeep.auth.principals import Principal
from turnkeep.errors import Rejection, ThreadNotFound, TooManyRequests
from turnkeep.messages import Message
from turnkeep.runs.budget import USER
from turnkeep.store.values import Receipt


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
