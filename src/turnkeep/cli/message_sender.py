"""Sending one message and hearing the answer: from a server, or in this process.
Both give frames of the seed dialect.

The first frame is the receipt, ``{"status": "accepted", "receipt": …}``. A frame whose status is
``settled`` tells of a message that was settled before.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import aiohttp
import orjson
from yarl import URL

from turnkeep.application import Application
from turnkeep.backoff import Backoff
from turnkeep.cli import context, service_tools
from turnkeep.errors import NotAllowed, NotAuthenticated, Rejection, TurnkeepError
from turnkeep.inputs import read_message
from turnkeep.models.sse import Framer
from turnkeep.settings import Settings
from turnkeep.store.values import Receipt
from turnkeep.tools.pins import Pins
from turnkeep.wire import Dialect, Encoder, Frame

SILENCE = 45.0
"""Seconds after which a stream that says nothing, not even a heartbeat, is taken for lost."""
TRIES = 20
PATIENCE = Backoff(delay=0.1, cap=3.0)

GUESTS = 4
"""Runs at once in a process that came to send one message."""
LEAVING = 5.0
"""Seconds that runs of other channels may take to end in such
a process; then they are given back.
"""


@dataclass(frozen=True, slots=True)
class Ask:
    """One message on its way."""

    channel: str
    text: str
    message_id: str
    instructions: str | None = None

    @property
    def body(self) -> dict[str, Any]:
        fields = {"message": self.text, "message_id": self.message_id, "instructions": self.instructions, "flush": True}
        return {name: value for name, value in fields.items() if value is not None}


class ServerUnreachable(TurnkeepError):
    """the server cannot be reached"""

    code = "server_unreachable"
    retryable = True


async def from_server(base: str, ask: Ask) -> AsyncGenerator[Frame, None]:
    """Send to a server and stream from it. A lost connection is taken up
    where it ended; nothing is sent twice.
    """
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=SILENCE)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        listener = _AnswerListener(session, base.rstrip("/"), ask)
        failures = 0
        while True:
            try:
                async with aclosing(listener.frames()) as frames:
                    async for frame in frames:
                        failures = 0
                        yield frame
            except (aiohttp.ClientError, TimeoutError) as error:
                failures += 1
                # Without a receipt nothing is lost yet and the failure is said at once; with one
                # the message is durable, and its answer worth waiting for.
                if not listener.accepted_id or failures > TRIES:
                    raise ServerUnreachable(_unreachable(base, error, listener.accepted_id)) from error
            # After a clean end too: a server that drains ends its streams, and
            # another one goes on with them.
            await asyncio.sleep(PATIENCE.after(max(1, failures)))


class _AnswerListener:
    """One message's conversation with a server, over one or several connections."""

    def __init__(self, session: aiohttp.ClientSession, base: str, ask: Ask) -> None:
        self._session = session
        # Dots too: clients and proxies take a channel named ".." for a step up.
        self._channel = f"{base}/api/channels/{quote(ask.channel, safe='').replace('.', '%2E')}"
        self._ask = ask
        self._position = ""
        self.accepted_id = ""
        """The message id, once there is a receipt."""

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Listen first, then send, so that nothing is missed."""
        # Encoded already: yarl would undo it and ask for another channel.
        url = URL(f"{self._channel}/events?text=delta&events=all", encoded=True)
        headers = {"Last-Event-ID": self._position} if self._position else {}
        async with self._session.get(url, headers=headers) as response:
            await _demand_success(response)
            framer = Framer()
            async for data in response.content.iter_any():
                for frame in await self._send_once():
                    yield frame
                for _, payload in framer.push(data):
                    self._position = framer.last_id.decode()
                    yield orjson.loads(payload)

    async def _send_once(self) -> list[Frame]:
        """Send, unless that is done."""
        if self.accepted_id:
            return []
        url = URL(f"{self._channel}/messages", encoded=True)
        async with self._session.post(url, json=self._ask.body) as response:
            await _demand_success(response)
            receipt, is_repeat = await response.json(), response.status == 200
        self.accepted_id = str(receipt["message_id"])
        frame: Frame = {"type": "status", "status": "accepted", "message_id": self.accepted_id, "receipt": receipt}
        # Of a message that was settled before no event comes any more.
        return [frame, *(await self._earlier_outcome() if is_repeat else [])]

    async def _earlier_outcome(self) -> list[Frame]:
        url = URL(f"{self._channel}/messages/{quote(self.accepted_id, safe='')}", encoded=True)
        async with self._session.get(url) as response:
            await _demand_success(response)
            record = await response.json()
        return _settled_frames(self.accepted_id, record["status"], record["run_id"])


async def _demand_success(response: aiohttp.ClientResponse) -> None:
    """Raises what the server says."""
    if response.status < 400:
        return
    code, message = _words_of(await response.read())
    if code is None:
        raise ServerUnreachable(f"{response.url.origin()} answers {response.status}, is it turnkeep?")
    if code in (NotAuthenticated.code, NotAllowed.code):
        raise NotAllowed(f"the server asks for a credential: {message}")
    raise _kinds(TurnkeepError).get(code, TurnkeepError)(message)


def _words_of(body: bytes) -> tuple[str | None, str]:
    """Code and message of a refusal; no code where this is none of ours."""
    try:
        error = orjson.loads(body)["error"]
        code, message = error["code"], error["message"]
    except (ValueError, KeyError, TypeError):
        return None, ""
    return code if isinstance(code, str) else None, str(message)


def _kinds(root: type[TurnkeepError]) -> dict[str, type[TurnkeepError]]:
    """The error tree by code."""
    kinds = {root.code: root}
    for kind in root.__subclasses__():
        # A class without a code of its own has its parent's, and must not take its place.
        kinds |= {code: one for code, one in _kinds(kind).items() if code not in kinds}
    return kinds


def _unreachable(url: str, error: Exception, message_id: str) -> str:
    parts = urlsplit(url)
    base = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # without a password
    if message_id:
        return f"the server at {base} went away; message {message_id} is kept and will be answered when it is back"
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number).lower() if number and number > 0 else str(error) or type(error).__name__
    return f"the server at {base} cannot be reached ({reason}): start it, or correct or unset TURNKEEP_URL"


async def in_this_process(settings: Settings, ask: Ask) -> AsyncGenerator[Frame, None]:
    """Answer with a worker of our own, on the store that is set."""
    guest_settings = settings.model_copy(update={"concurrency": GUESTS, "drain": min(settings.drain, LEAVING)})
    pins = Pins()
    async with service_tools.open_toolbox(guest_settings, context.environment(), pins) as tools:
        application = Application(guest_settings, toolbox=tools)
        application.start_worker()
        async with application, aclosing(_events(application, ask)) as frames:
            pins.use(application.store)
            async for frame in frames:
                yield frame


async def _events(application: Application, ask: Ask) -> AsyncGenerator[Frame, None]:
    address = application.address(ask.channel)
    message = read_message(ask.body, address, limit=application.settings.max_message_bytes)
    async with application.events(ask.channel) as stream:
        # A channel that is the id of a thread names one that is there; it cannot make one.
        [outcome] = await application.accept([message], create=not address.names_thread)
        if isinstance(outcome, Rejection):
            raise outcome
        for frame in await _receipt_frames(application, ask, outcome):
            yield frame
        encoder = Encoder(
            address, outcome.thread_id, Dialect(deltas=True, everything=True), answer=stream.subscription_start.answer
        )
        async for event in stream:
            for frame in (*encoder.encode(event), *encoder.flush()):
                yield frame


async def _receipt_frames(application: Application, ask: Ask, receipt: Receipt) -> list[Frame]:
    frame: Frame = {
        "type": "status",
        "status": "accepted",
        "message_id": receipt.message_id,
        "receipt": receipt.to_json(),
        "simulated": application.is_simulated,
    }
    record = (
        await application.store.message(application.address(ask.channel), receipt.message_id)
        if receipt.repeated
        else None
    )
    return [frame, *(_settled_frames(receipt.message_id, record.status, record.run_id) if record else [])]


def _settled_frames(message_id: str, status: str, run_id: str | None) -> list[Frame]:
    if status in ("waiting", "delayed", "running"):
        return []
    return [{"type": "status", "status": "settled", "message_id": message_id, "outcome": status, "run_id": run_id}]
