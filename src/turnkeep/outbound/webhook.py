"""Signed webhooks: every final event as one POST, signed as Standard Webhooks describe it.

Headers ``webhook-id`` (the same for every repeat), ``webhook-timestamp`` and ``webhook-signature``:
``v1,`` and the base64 of HMAC-SHA256 over ``id.timestamp.body``. Any 2xx is a receipt. Redirects
are not followed. Addresses that are not public are refused where the socket is made, unless the
settings allow them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Self

import aiohttp
import orjson

from turnkeep.clock import Clock, SystemClock
from turnkeep.errors import ConfigurationError
from turnkeep.outbound.parking import Away, DeliveryFailure
from turnkeep.store.sinks import Delivery
from turnkeep.tools.addresses import AddressRefused, checked_sockets

TIMEOUT = 10.0
MOST_AT_ONCE = 20
HOW_TO_MAKE_ONE = 'echo "whsec_$(openssl rand -base64 32)"'
LEAST_SECRET = 16
"""Bytes of a secret that nobody guesses."""
PASSING_STATUSES = frozenset({408, 425, 429})
"""Refusals of a moment: they say nothing about the event."""


class Webhook:
    """Delivers to `url`.

    Enter it before use. Of several secrets, apart by blanks, each signs: a receiver that knows one
    of them goes on while they are exchanged.
    """

    kind = "webhook"
    tenant: str | None = None
    finals = True

    def __init__(self, url: str, secret: str, *, allow_private: bool = False, clock: Clock | None = None) -> None:
        if not secret:
            raise ConfigurationError("TURNKEEP_WEBHOOK_URL needs TURNKEEP_WEBHOOK_SECRET, which signs what is sent")
        self._url = url
        self._keys = [signing_key(one) for one in secret.split()]
        self._allow_private = allow_private
        self._clock = clock or SystemClock()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Where the socket is made: between a check and a request a name may get another address.
        guard = None if self._allow_private else checked_sockets((), public=True)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(socket_factory=guard),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT),
            headers={"user-agent": "turnkeep", "content-type": "application/json"},
        )
        return self

    async def __aexit__(self, *_: Any) -> None:
        if self._session is not None:
            await self._session.close()

    def wants(self, delivery: Delivery) -> bool:
        return delivery.event.is_final

    async def deliver(self, deliveries: Sequence[Delivery]) -> int:
        """One after the other, until one fails."""
        count = 0
        for delivery in deliveries[:MOST_AT_ONCE]:
            try:
                await self._post(delivery)
            except DeliveryFailure:
                # What was received before this one stays received, and is not sent again.
                if not count:
                    raise
                break
            count += 1
        return count

    async def _post(self, delivery: Delivery) -> None:
        body = orjson.dumps(payload(delivery))
        headers = signature_headers(event_id(delivery), int(self._clock.now()), body, *self._keys)
        if self._session is None:
            raise Away("the webhook is closed")
        try:
            # A redirect is not followed: nobody has set the address that it leads to.
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                status = answer.status
        except aiohttp.ClientConnectorError as error:
            raise Away(_failure_text(error)) from error
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise DeliveryFailure(_failure_text(error)) from error
        if status in PASSING_STATUSES:
            raise Away(f"the receiver answered {status}")
        if not 200 <= status < 300:
            raise DeliveryFailure(f"the receiver answered {status}")


def _failure_text(error: Exception) -> str:
    if isinstance(getattr(error, "os_error", error), AddressRefused):
        return "the address of TURNKEEP_WEBHOOK_URL is not public, allow it with TURNKEEP_WEBHOOK_ALLOW_PRIVATE=1"
    return f"{type(error).__name__}: {error}"


def signing_key(secret: str) -> bytes:
    """Of a secret as Standard Webhooks has it. Raises `ConfigurationError` for another."""
    if not secret.startswith("whsec_"):
        raise ConfigurationError(f"TURNKEEP_WEBHOOK_SECRET must be whsec_ and base64, make one: {HOW_TO_MAKE_ONE}")
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise ConfigurationError("TURNKEEP_WEBHOOK_SECRET: what follows whsec_ must be base64") from error
    if len(key) < LEAST_SECRET:
        raise ConfigurationError(f"TURNKEEP_WEBHOOK_SECRET has {len(key)} bytes, use {LEAST_SECRET} or more at random")
    return key


def signature_headers(event: str, timestamp: int, body: bytes, *keys: bytes) -> dict[str, str]:
    """The three headers."""
    signed_content = b".".join((event.encode(), str(timestamp).encode(), body))
    signatures = [base64.b64encode(hmac.new(key, signed_content, hashlib.sha256).digest()).decode() for key in keys]
    signature_list = " ".join(f"v1,{signature}" for signature in signatures)
    return {"webhook-id": event, "webhook-timestamp": str(timestamp), "webhook-signature": signature_list}


def event_id(delivery: Delivery) -> str:
    """The same for every delivery of one event, and for no other."""
    event = delivery.event
    identity = orjson.dumps([delivery.thread_id, event.epoch, event.offset])
    return f"evt_{hashlib.sha256(identity).hexdigest()[:32]}"


def payload(delivery: Delivery) -> dict[str, Any]:
    """``turn.completed`` or ``turn.failed``, and what there is to know."""
    event, address = delivery.event, delivery.address
    data: dict[str, Any] = {
        "tenant": address.tenant,
        "channel": address.channel,
        "thread_id": delivery.thread_id,
        "run_id": event.run_id,
        "message_ids": list(event.message_ids),
        "message": event.text,
        "outcome": event.outcome,
        "offset": event.offset,
        "epoch": event.epoch,
    }
    if event.usage is not None:
        data["usage"] = {**event.usage.to_json(), "cost": event.usage.cost}
    if event.error is not None:
        data["error"] = event.error.to_json()
    at = datetime.fromtimestamp(event.at, UTC).isoformat().replace("+00:00", "Z")
    return {"type": "turn.completed" if event.kind == "completed" else "turn.failed", "timestamp": at, "data": data}
