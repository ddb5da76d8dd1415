"""What may be asked on a socket: each action, its scope, and the frames that answer it.

An action reads its fields, acts on the application in the name of the socket's principal, and says
so with one frame. Who the connection belongs to, how its frames get out and how it ends is the
session's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from typing import Any, Protocol

from starlette.websockets import WebSocket

from turnkeep.application import Application
from turnkeep.auth import acts
from turnkeep.auth.limits import Holder, Limits
from turnkeep.auth.principals import LONGEST_CREDENTIAL, Access, Credentials, Principal, Scope
from turnkeep.doors.error_answers import error_body
from turnkeep.doors.socket.changes import ASKING, CHANGES, Caller, key_of
from turnkeep.doors.socket.writers import PeerWriter, SocketEnded
from turnkeep.errors import InvalidMessage, NotAllowed, NotAuthenticated, TurnkeepError
from turnkeep.inputs import OURS, drops_inbox, optional_text, read_channel, read_json
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.subscription import SubscriptionStart
from turnkeep.telemetry import get_log
from turnkeep.wire import Dialect, Frame, subscription_frame

NOT_AUTHENTICATED, NOT_ALLOWED = 4401, 4403
"""Codes with which a credential that was shown on the open socket ends it."""
LONGEST_HISTORY = 1_000
"""Events of the past that a subscription may ask for."""
LARGEST_OFFSET = 1 << 53
"""JavaScript counts in doubles: a larger offset could not have been told to a page."""
LONGEST_EPOCH = 200

log = get_log(__name__)

Request = dict[str, Any]


class SocketSession(Protocol):
    """What an action may do with the connection that it came by."""

    @property
    def principal(self) -> Principal: ...

    def change_principal(self, principal: Principal) -> None:
        """Go on with this credential of the same subject."""
        ...

    @property
    def application(self) -> Application: ...

    @property
    def limits(self) -> Limits: ...

    @property
    def access(self) -> Access: ...

    @property
    def addresses(self) -> Collection[Address]:
        """The channels that it is subscribed to."""
        ...

    async def subscribe(self, subscription: Subscription) -> None: ...

    async def unsubscribe(self, channel: str) -> None: ...

    @property
    def holder(self) -> Holder:
        """Whose refusals are told the later the more there are."""
        ...

    @property
    def writer(self) -> PeerWriter: ...

    def close(self, code: int, reason: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a subscriber wants to see, from where on, and how its first frame is made."""

    address: Address
    dialect: Dialect
    first_frame: Callable[[SubscriptionStart], Frame]
    after: int | None
    epoch: str | None
    history: int


@dataclass(frozen=True, slots=True)
class Action:
    """What may be asked on a socket. `scope` None: it is about no channel."""

    act: Callable[[SocketSession, Request], Awaitable[None]]
    scope: Scope | None


def read_action(request: Request) -> tuple[str, Request, bool]:
    """The name of the action and its fields, in either form, and whether it came in an envelope.
    Raises `InvalidMessage`.
    """
    # The seeds' clients subscribe on a channel of this name; everything else says `action` beside its fields.
    if request.get("channel") == "subscription" and isinstance(request.get("payload"), dict):
        payload = request["payload"]
        action = payload.get("action")
        if not isinstance(action, str) or action not in ENVELOPED_ACTIONS:
            raise InvalidMessage("on the channel 'subscription' the action must be subscribe or unsubscribe")
        return action, payload, True
    name = request.get("action")
    # A relay that hands our own frames back to us would otherwise send each answer as a new message, for ever.
    if name is None and not any(ours in request for ours in OURS):
        name = "message"
    if not isinstance(name, str) or name not in ACTIONS:
        raise InvalidMessage(f"unknown action, expected one of {', '.join(sorted(ACTIONS))}")
    return name, request, False


async def answer_requests(session: SocketSession, websocket: WebSocket) -> None:
    """Answer what comes, until the peer ends the connection."""
    while True:
        event = await websocket.receive()
        if event["type"] == "websocket.disconnect":
            return
        await _answer(session, event.get("text"))


async def _answer(session: SocketSession, text: str | None) -> None:
    """One frame in; whatever is wrong with it comes back as a typed error frame."""
    request: Request = {}
    try:
        if text is None:
            raise InvalidMessage("binary frames are not taken, send JSON as text")
        request = read_json(text, limit=session.limits.frame_bytes)
        await perform(session, request)
    except TurnkeepError as error:
        # Refusals are told the later the more there are, so that guessing and flooding cost who
        # does it.
        await session.limits.hold_back(session.holder)
        session.writer.send(error_frame(error, request, at=session.application.clock.now()))
    except SocketEnded:
        raise
    except Exception:
        # A mistake of ours ends one request: the other channels of this socket go on.
        log.exception("request_broke", door="websocket")
        session.writer.send(error_frame(TurnkeepError(), request, at=session.application.clock.now()))


async def perform(session: SocketSession, request: Request) -> None:
    """Raises `TurnkeepError`."""
    name, request, in_envelope = read_action(request)
    action = (ENVELOPED_ACTIONS if in_envelope else ACTIONS)[name]
    if action.scope is not None and action.scope not in session.principal.rights_everywhere:
        session.principal.require(action.scope, _address(session, request).channel)
    if name != "message":  # which has rates of its own
        session.limits.check_request(session.principal)
    await action.act(session, request)


async def _message(session: SocketSession, request: Request) -> None:
    address = _address(session, request)
    message = session.limits.message_of(request, address, session.principal)
    receipt = await session.limits.accept(session.application, session.principal, message)
    frame = _status(session, request, "accepted", message_id=receipt.message_id, thread_id=receipt.thread_id)
    session.writer.send(frame | {"receipt": receipt.to_json(), "channel": address.channel})


async def _subscribe(session: SocketSession, request: Request, *, in_envelopes: bool = False) -> None:
    address = _address(session, request)
    after, epoch = read_position(request)
    history = _count(request, "history", LONGEST_HISTORY)
    dialect = read_dialect(request, session.principal, in_envelopes=in_envelopes)
    record = await session.application.store.thread(address)
    thread_id = record.thread_id if record else None

    def first_frame(start: SubscriptionStart) -> Frame:
        frame = subscription_frame(address, thread_id, start, at=session.application.clock.now())
        return frame | _echo(request)

    await session.subscribe(Subscription(address, dialect, first_frame, after, epoch, history))


async def _unsubscribe(session: SocketSession, request: Request) -> None:
    address = _address(session, request)
    await session.unsubscribe(address.channel)
    session.writer.send(_status(session, request, "unsubscribed") | {"channel": address.channel})


async def _ping(session: SocketSession, request: Request) -> None:
    session.writer.send(_status(session, request, "pong"))


async def _typing(session: SocketSession, request: Request) -> None:
    address = _address(session, request)
    due_in = await session.application.store.typing(address, once=_once(session, request))
    session.writer.send(_status(session, request, "typing") | {"channel": address.channel, "due_in": due_in})


async def _flush(session: SocketSession, request: Request) -> None:
    address = _address(session, request)
    is_done = await session.application.store.flush(address, once=_once(session, request))
    session.writer.send(_status(session, request, "flushed") | {"channel": address.channel, "done": is_done})


async def _cancel(session: SocketSession, request: Request) -> None:
    address = _address(session, request)
    drop_inbox, once = drops_inbox(request), _once(session, request)
    is_done = await acts.stop(session.application, session.principal, address, drop_inbox=drop_inbox, once=once)
    session.writer.send(_status(session, request, "cancelling") | {"channel": address.channel, "done": is_done})


async def _decide(session: SocketSession, request: Request) -> None:
    """Decide or submit a requested action: call_id, digest, decision
    (approved, denied, output), output.
    """
    address = _address(session, request)
    once = _once(session, request)
    call = await acts.decide(session.application, session.principal, address, request, once=once)
    session.writer.send(_status(session, request, "decided") | {"channel": address.channel, "call": call})


async def _change(session: SocketSession, request: Request) -> None:
    address = _address(session, request)
    if request["action"] in ASKING:
        session.limits.check_rate(session.principal, address)
    caller = Caller(session.principal, session.limits)
    status, fields = await CHANGES[request["action"]](session.application, caller, address, request)
    session.writer.send(_status(session, request, status) | {"channel": address.channel} | fields)


async def _auth(session: SocketSession, request: Request) -> None:
    """Go on with a fresh credential of the same tenant; what it does not reach ends the connection."""
    try:
        principal = await session.access.authenticate(credentials_in(request))
        if principal.tenant != session.principal.tenant or principal.subject != session.principal.subject:
            raise NotAllowed("this credential is somebody else's")
        for address in session.addresses:
            principal.require("read", address.channel)
    except NotAuthenticated as error:
        session.close(NOT_AUTHENTICATED, str(error)[:100])
    except NotAllowed as error:
        session.close(NOT_ALLOWED, str(error)[:100])
    else:
        session.change_principal(principal)
        session.writer.send(_status(session, request, "authenticated") | {"expires_at": principal.expires_at})


ACTIONS: Mapping[str, Action] = {
    "auth": Action(_auth, None),
    "ping": Action(_ping, None),
    "message": Action(_message, "send"),
    "subscribe": Action(_subscribe, "read"),
    "unsubscribe": Action(_unsubscribe, "read"),
    "typing": Action(_typing, "send"),
    "flush": Action(_flush, "send"),
    "cancel": Action(_cancel, "send"),
    "decide": Action(_decide, "approve"),
    **dict.fromkeys(CHANGES, Action(_change, "send")),
}
ENVELOPED_ACTIONS: Mapping[str, Action] = {
    "subscribe": Action(partial(_subscribe, in_envelopes=True), "read"),
    "unsubscribe": ACTIONS["unsubscribe"],
}
"""What may be asked in an envelope, on the channel `subscription`."""


def credentials_in(frame: Mapping[str, object]) -> Credentials:
    """The credential that a frame shows. Raises `InvalidMessage`."""
    return Credentials(
        bearer=optional_text(frame, "token", LONGEST_CREDENTIAL),
        ticket=optional_text(frame, "ticket", LONGEST_CREDENTIAL),
    )


def _once(session: SocketSession, request: Request) -> str | None:
    return acts.once(session.principal, key_of(request))


def _address(session: SocketSession, request: Request) -> Address:
    return session.application.address(read_channel(request), session.principal.tenant)


def read_position(request: Mapping[str, Any]) -> tuple[int | None, str | None]:
    """From which offset of which epoch on. Raises `InvalidMessage`."""
    if request.get("offset") is None:
        return None, None
    offset = _count(request, "offset", LARGEST_OFFSET)
    if request.get("epoch") == "":  # as it was told before the channel had a log
        return offset, ""
    return offset, optional_text(request, "epoch", LONGEST_EPOCH)


def _count(request: Mapping[str, Any], name: str, largest: int) -> int:
    value = request.get(name, 0)
    # True is an int in Python, and would be an offset of 1.
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise InvalidMessage(f"'{name}' must be a whole number from 0 to {largest}")
    return value


def read_dialect(request: Mapping[str, Any], principal: Principal, *, in_envelopes: bool = False) -> Dialect:
    """How frames are to be written: in envelopes for a subscriber who asked in one. Raises
    `InvalidMessage`.
    """
    for name, choices in (("text", ("delta", "full", None)), ("events", ("all", None))):
        if request.get(name) not in choices:
            raise InvalidMessage(f"'{name}' must be one of {', '.join(str(a) for a in choices if a)}")
    return Dialect(
        deltas=request.get("text") == "delta", everything=request.get("events") == "all",
        in_envelopes=in_envelopes, in_full=principal.sees_calls,
    )  # fmt: skip


def _status(
    session: SocketSession,
    request: Mapping[str, Any],
    status: str,
    *,
    message_id: str | None = None,
    thread_id: str | None = None,
) -> Frame:
    frame: Frame = {
        "message": "",
        "timestamp": session.application.clock.now(),
        "status": status,
        "type": "status",
        "final_message": False,
        "message_id": message_id,
        "thread_id": thread_id,
    }
    return frame | _echo(request)


def error_frame(error: TurnkeepError, request: Mapping[str, Any], *, at: float) -> Frame:
    """What was wrong with a request, beside what it said of itself, so that its sender knows which
    one it was.
    """
    public = error_body(error)
    message_id = request.get("message_id")
    channel = request.get("channel")
    frame: Frame = {
        "message": public["message"] if isinstance(error, InvalidMessage) else error.public,
        "timestamp": at,
        "status": "error",
        "type": "error",
        "error_details": public["message"][:500],
        "message_id": message_id if isinstance(message_id, str) else None,
        "thread_id": None,
    }
    if isinstance(channel, str):
        frame["channel"] = channel
    return frame | {k: v for k, v in public.items() if k != "message"} | _echo(request)


def _echo(request: Mapping[str, Any]) -> Frame:
    request_id = request.get("id")
    return {"id": request_id} if isinstance(request_id, str | int) and not isinstance(request_id, bool) else {}
