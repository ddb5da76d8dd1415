"""The HTTP door, `/api`: what an endpoint is, one authenticated call of it, and the JSON forms of
our records.

Every endpoint is authenticated and allowed in one place, reads strictly, and answers errors as
`{"error": {code, message}}` with the status that `error_answers` has for them. The table of all endpoints is `routes`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, field
from functools import wraps
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from turnkeep.application import Application
from turnkeep.auth import acts
from turnkeep.auth.audit_trail import Act, report
from turnkeep.auth.credential_watch import CredentialWatch, StreamCredential
from turnkeep.auth.limits import Holder, Limits, holder
from turnkeep.auth.principals import Access, Principal, Scope, credentials_of_request
from turnkeep.doors.error_answers import error_response
from turnkeep.doors.http.paths import segment_name
from turnkeep.doors.http_transport import has_whole_body, stand_aside
from turnkeep.errors import InvalidMessage, MessageTooLarge, TurnkeepError
from turnkeep.inputs import checked_channel, read_json
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.remedies import remedy_of
from turnkeep.store.ids import thread_name
from turnkeep.store.values import DeadLetter, MessageRecord, RunRecord, ThreadRecord
from turnkeep.telemetry import get_log
from turnkeep.wire import call_form

__all__ = [
    "HttpCall",
    "HttpDoor",
    "HttpEndpoint",
    "audit",
    "dead_json",
    "error_response",
    "message_json",
    "run_json",
    "thread_json",
]

log = get_log(__name__)

READS = ("GET", "HEAD")
SOON = 1.0
"""Seconds in which a body is expected to be there."""
NOBODY = Principal(scopes=frozenset(), channels=())


class HttpCall:
    """One authenticated and allowed request."""

    def __init__(
        self,
        request: Request,
        principal: Principal,
        application: Application,
        limits: Limits,
        credentials: CredentialWatch,
    ) -> None:
        self.request = request
        self.principal = principal
        self.application = application
        self.limits = limits
        self._credentials = credentials

    @property
    def access(self) -> Access:
        return self._credentials.access

    @property
    def address(self) -> Address:
        """The channel of the path that was routed, in the tenant of the credential."""
        channel = checked_channel(self.path("channel"))
        return self.application.address(channel, self.principal.tenant)

    @property
    def once(self) -> str | None:
        """How the caller names this call, so that a repeat gives the first answer: the header
        Idempotency-Key.
        """
        return acts.once(self.principal, self.request.headers.get("idempotency-key"))

    def once_for(self, part: object) -> str | None:
        """The name of a part of this call, if its caller names it. A key that is used at another path as well
        names another call there.
        """
        return None if self.once is None else f"{self.once}\0{self.request.url.path}\0{part}"

    async def make_thread(self, purpose: str = "", *, metadata: Mapping[str, str | None] | None = None) -> ThreadRecord:
        """A new thread of the tenant; of a call that its caller names the same each time, with other `metadata`
        another. Raises `TooManyRequests`, and `ThreadNotFound` where it was made before and is forgotten.
        """
        texts = {name: text for name, text in (metadata or {}).items() if text is not None}
        once, tenant = self.once_for((purpose, sorted(texts.items()))), self.principal.tenant
        thread_id = thread_name(once)
        if not await self.limits.threads.has_room(tenant):
            is_there = once and await self.application.store.thread(self.application.address(thread_id, tenant))
            if not is_there:
                raise self.limits.threads.refusal()
        return await self.application.create_thread(thread_id, metadata=texts, tenant=tenant, once=once)

    @property
    def holder(self) -> Holder:
        """Whose places this call takes."""
        return holder(self.principal, self.request.client.host if self.request.client else None)

    def path(self, name: str) -> str:
        return segment_name(self.request.path_params[name])

    def allow(self, scope: Scope | None) -> None:
        """Raises `NotAllowed`. A path without a channel is about the whole tenant."""
        if scope is not None:
            names_channel = "channel" in self.request.path_params
            self.principal.require(scope, self.address.channel if names_channel else None)

    def watch_credential(self, on_end: Callable[[], object]) -> AbstractContextManager[StreamCredential]:
        """Know when whoever called may not be told more, to the end of the block: `on_end` is called
        then. For what may last long.
        """
        return self._credentials.stream_of(self.principal, on_end)

    async def body(self, *, empty: bool = False) -> dict[str, Any]:
        """The JSON object that was sent. Read piece by piece, and no further than the limit; one
        that takes long counts among those of its credential that do.
        """
        data = bytearray()
        if has_whole_body(self.request.scope):  # nearly always: nothing is waited for
            await self._arrive(data)
        else:
            await self._arrive_soon(data)
        if empty and not data.strip():
            return {}
        return read_json(bytes(data), limit=self.limits.frame_bytes)

    async def _arrive_soon(self, data: bytearray) -> None:
        # Not after a body that would be read in vain: who asks leave to send it (`Expect`) need not.
        length = self.request.headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self.limits.frame_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(SOON):
                await self._arrive(data)
        except TimeoutError:
            with self.limits.arriving(self.holder):
                await self._arrive(data)

    async def _arrive(self, data: bytearray) -> None:
        """Wait for the rest of the body."""
        while True:
            event = await self.request.receive()
            if event["type"] == "http.disconnect":
                raise ClientDisconnect
            data += event.get("body", b"")
            # Counted while it comes: a body in chunks says no length beforehand, and one that does
            # may lie.
            if len(data) > self.limits.frame_bytes:
                raise self._too_large()
            if not event.get("more_body", False):
                return

    def _too_large(self) -> MessageTooLarge:
        return MessageTooLarge(f"the body has more than the {self.limits.frame_bytes} bytes that are read")

    def word(self, name: str, *words: str) -> str | None:
        """Which of these words the query says under this name, if any."""
        text = self.request.query_params.get(name)
        if text is not None and text not in words:
            raise InvalidMessage(f"'{name}' must be {' or '.join(words)}")
        return text

    def number(self, name: str, default: int, largest: int) -> int:
        text = self.request.query_params.get(name)
        if text is None:
            return default
        # `int` raises another error for more than 4,300 digits, and is slow long before.
        digits = text.lstrip("0")[:20] or "0"
        if not text or not text.isascii() or not digits.isdigit() or int(digits) > largest:
            raise InvalidMessage(f"'{name}' must be a whole number from 0 to {largest}")
        return int(digits)


async def audit(call: HttpCall, event: Act, **about: str | Iterable[str] | bool | None) -> None:
    """Write down what this call has done."""
    await report(event, tenant=call.principal.tenant, by=call.principal.subject, **about)


Handler = Callable[[HttpCall], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class HttpEndpoint:
    """Everything about a route: what makes it, who may, what goes in, what comes out
    (names of `schemas`).

    `scope` None: whoever has a credential; `public`: without one. `is_metered`: it counts as a
    request of its credential; messages have rates of their own. `answers` None: no body. `refuse`:
    the form of its errors, which `refusal` names; None: a sentence.
    """

    method: str
    path: str
    handler: Handler
    scope: Scope | None
    summary: str
    answers: Mapping[int, str | None]
    body: str | None = None
    body_may_be_empty: bool = False
    query: Mapping[str, str] = field(default_factory=dict)
    media: str = "application/json"
    public: bool = False

    @property
    def can_be_named(self) -> bool:
        """Whether an Idempotency-Key makes a repeat safe."""
        about = self.path.startswith(("/api/channels/", "/api/dead/", "/api/threads"))
        return self.method not in READS and about and self.body != "NewMessage"

    is_metered: bool = True
    refuse: Callable[[TurnkeepError], Response] = error_response
    refusal: str | None = "Error"


class HttpDoor:
    """Endpoints, bound to a queue."""

    def __init__(self, application: Application, credentials: CredentialWatch, limits: Limits) -> None:
        self._application = application
        self._credentials = credentials
        self._access = credentials.access
        self._limits = limits

    def route(self, endpoint: HttpEndpoint) -> Route:
        return Route(endpoint.path, self._answering(endpoint), methods=[endpoint.method])

    def _answering(self, endpoint: HttpEndpoint) -> Callable[[Request], Awaitable[Response]]:
        """Authenticate, allow, act, and tell what went wrong: the one place of this door that
        catches everything.
        """

        @wraps(endpoint.handler)  # its name: programs that watch an application tell endpoints apart by it
        async def answer(request: Request) -> Response:
            try:
                call = await self._call(endpoint, request)
                return await endpoint.handler(call)
            except TurnkeepError as error:
                # A refusal that is held back must hold no place: it makes room as soon as somebody
                # needs it.
                disconnect = stand_aside(request.scope)
                await self._limits.hold_back(request.client.host if request.client else None, disconnect)
                return endpoint.refuse(error)
            except ClientDisconnect:
                # As nginx counts it: nobody is there to read an answer, and it is no error of ours.
                return Response(status_code=499)
            except Exception:
                log.exception("request_broke", door="http", route=endpoint.path)
                return endpoint.refuse(TurnkeepError())

        return answer

    async def _call(self, endpoint: HttpEndpoint, request: Request) -> HttpCall:
        changes = endpoint.method not in READS
        query = request.query_params if request.scope["query_string"] else {}  # most have none, and it is parsed
        credentials = credentials_of_request(request.headers, request.cookies, query, changes=changes)
        principal = NOBODY if endpoint.public else await self._access.authenticate(credentials)
        call = HttpCall(request, principal, self._application, self._limits, self._credentials)
        call.allow(endpoint.scope)
        if endpoint.is_metered and not endpoint.public:
            self._limits.check_request(principal)
        return call


def message_json(record: MessageRecord) -> dict[str, Any]:
    data: dict[str, Any] = {
        "message_id": record.message_id,
        "status": record.status,
        "run_id": record.run_id,
        "covers": list(record.covers),
        "settled_at": record.settled_at,
        "receipt": record.receipt.to_json(),
    }
    if record.steer:
        data["steer"] = record.steer
    if record.message is not None:
        data["content"] = [part.to_json() for part in record.message.content]
        data["arrival"] = record.message.arrival or None
    return data


def run_json(run: RunRecord, *, in_full: bool) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "status": run.status,
        "message_ids": list(run.message_ids),
        "attempt": run.attempt,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "model": run.model,
        "usage": {**run.usage.to_json(), "cost": run.usage.cost},
        "error": run.fault.to_json() if run.fault else None,
        "calls": [call_form(call.to_json(), in_full=in_full) for call in run.calls],
    }


def thread_json(record: ThreadRecord, *, in_full: bool) -> dict[str, Any]:
    data = asdict(record)
    del data["address"]
    data |= {
        "channel": record.address.channel,
        "queue": record.address.queue,
        "metadata": dict(record.metadata),
        "usage": {**record.usage.to_json(), "cost": record.usage.cost},
        "calls": [call_form(call.to_json(), in_full=in_full) for call in record.calls],
    }
    return data


def dead_json(letter: DeadLetter) -> dict[str, Any]:
    return {
        "dead_id": letter.dead_id,
        "channel": letter.address.channel,
        "thread_id": letter.thread_id,
        "message_id": letter.message.message_id,
        "content": [part.to_json() for part in letter.message.content],
        "error": letter.fault.to_json(),
        "remedy": remedy_of(letter.fault.code),
        "attempts": letter.attempts,
        "deaths": letter.deaths,
        "run_id": letter.run_id,
        "at": letter.at,
    }
