"""The SSE twin of `/ws`: the same frames, `id: epoch:offset`, resumed by `Last-Event-ID`.

The first one says where the stream begins; `recovered: false` after a resume means that something
is missing before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from starlette.responses import Response

from turnkeep.doors.error_answers import error_body
from turnkeep.doors.http.endpoint import HttpCall
from turnkeep.doors.http.sent_events import COMMENT, SentEvents, named_frame, response_resources
from turnkeep.errors import InvalidMessage, NotAuthenticated
from turnkeep.events import Event
from turnkeep.messages import Address
from turnkeep.streams import EventStream
from turnkeep.wire import Dialect, WireEncoder, subscription_frame

HEARTBEAT = 15.0
EVERY = 0.05


async def stream_events(call: HttpCall) -> Response:
    """GET …/events: everything after `after` (or `Last-Event-ID`), then what happens. It counts
    among the sockets of its credential or address until it ends.
    """
    address = call.address
    epoch, after = _position(call)
    deltas, everything = call.word("text", "delta", "full"), call.word("events", "all")
    dialect = Dialect(
        deltas=deltas == "delta", everything=everything == "all", as_stream=True, in_full=call.principal.sees_calls
    )
    async with response_resources() as resources:
        resources.enter_context(call.limits.streaming(call.holder))
        record = await call.application.store.thread(address)
        stream = EventStream(call.application.hub, call.application.store, address, after=after, epoch=epoch)
        frames = _frames(call, stream, address, record.thread_id if record else None, dialect)
        return SentEvents(frames, resources.aclose)


def _position(call: HttpCall) -> tuple[str | None, int | None]:
    last = call.request.headers.get("last-event-id", "")
    # replacements of EventSource send the word where they have seen no event yet
    position = call.request.query_params.get("after") if last in ("", "undefined", "null") else last
    if not position:
        return None, None
    epoch, _, offset = position.rpartition(":")
    if not offset.isascii() or not offset.isdigit() or len(offset) > 16:
        raise InvalidMessage("'after' must be epoch:offset, as in the id of an event")
    return epoch, int(offset)


async def _frames(
    call: HttpCall, stream: EventStream, address: Address, thread_id: str | None, dialect: Dialect
) -> AsyncIterator[bytes]:
    """Text is told at once if there was none for a while, else merged for up to 50 ms. It ends with
    the credential.
    """
    loop = asyncio.get_running_loop()
    with call.watch_credential(stream.wake) as credential:
        async with stream:
            encoder = WireEncoder(address, thread_id, dialect, stream.subscription_start)
            start = subscription_frame(address, thread_id, stream.subscription_start, at=call.application.clock.now())
            # How long EventSource waits before it comes back is otherwise the browser's own matter.
            yield b"retry: 1000\n\n" + encoder.encode_frame(start)
            quiet, heard_at = 0.0, loop.time()
            while credential.end is None:
                until_heartbeat = max(0.0, heard_at + HEARTBEAT - loop.time())
                events = await stream.arrivals(EVERY if encoder.owes else until_heartbeat)
                if not events:
                    messages = encoder.flush()
                    if messages:
                        quiet = loop.time()
                        yield b"".join(messages)
                    elif loop.time() - heard_at >= HEARTBEAT:
                        heard_at = loop.time()
                        yield COMMENT
                    continue
                heard_at = now = loop.time()
                # What is here together is written together: a write costs more than what is in it.
                messages = _messages_of(encoder, events, at_once=dialect.deltas)
                # Text is merged between two frames of 50 ms: each token alone costs more bytes around
                # it than in it.
                if encoder.owes and now - quiet >= EVERY:
                    quiet = now
                    messages += encoder.flush()
                if messages:
                    yield b"".join(messages)
            yield closed_event(credential.end)


def _messages_of(encoder: WireEncoder, events: Sequence[Event], *, at_once: bool) -> list[bytes]:
    tell, messages = encoder.tell if at_once else encoder.encode, list[bytes]()
    for event in events:
        messages += tell(event)
    return messages


def closed_event(reason: NotAuthenticated) -> bytes:
    """The last event of a stream whose credential has ended."""
    return named_frame("closed", {"error": error_body(reason)})
