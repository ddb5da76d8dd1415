"""Sending one message and hearing the answer: from a server, or in this process. Both give frames
of the seed dialect.

The first frame is the receipt, ``{"status": "accepted", "receipt": …}``. A frame whose status is
``settled`` tells of a message that was settled before, with its answer if that can be had.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import aiohttp

from turnkeep.application import Application
from turnkeep.cli import context, output, service_tools
from turnkeep.client import TurnkeepClient
from turnkeep.client.server_link import StreamState, without_password
from turnkeep.client.turnkeep_client import answer_among
from turnkeep.errors import NotAllowed, NotAuthenticated, Rejection, StoreUnavailable, TurnkeepError
from turnkeep.inputs import read_message
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import item_to_json
from turnkeep.settings import Settings
from turnkeep.store.values import Receipt
from turnkeep.tools.pins import Pins
from turnkeep.wire import Dialect, Encoder, Frame

PATIENCE = 2.0
"""Seconds for a server that is starting again; longer, and a wrong address would be told late."""

GUESTS = 4
"""Runs at once in a process that came to send one message."""
LEAVING = 5.0
"""Seconds that runs of other channels may take to end in such a process; then they are given back."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One message on its way."""

    channel: str
    text: str
    message_id: str
    instructions: str | None = None

    @property
    def about(self) -> dict[str, Any]:
        """All but the text."""
        fields = {"message_id": self.message_id, "instructions": self.instructions, "flush": True}
        return {name: value for name, value in fields.items() if value is not None}


class ServerUnreachable(TurnkeepError):
    """the server cannot be reached"""

    code = "server_unreachable"
    retryable = True


async def from_server(base: str, ask: Ask) -> AsyncGenerator[Frame, None]:
    """Send to a server and stream from it. Once there is a receipt the message is durable, and its
    answer worth waiting for, however long the server is away.
    """
    accepted_id = ""

    def on_state(state: StreamState) -> None:
        if state == "away" and accepted_id:
            _note_that_it_is_away(accepted_id)

    async with TurnkeepClient(base, patience=PATIENCE) as client:
        try:
            stream = client.stream(ask.channel, deltas=True, everything=True, on_state=on_state)
            async with aclosing(stream) as frames:
                # listens first, then sends, so that nothing is missed
                first = await anext(frames)
                receipt = await client.send(ask.channel, ask.text, **ask.about)
                accepted_id = str(receipt["message_id"])
                is_repeat = receipt.pop("repeated")
                yield {"type": "status", "status": "accepted", "message_id": accepted_id, "receipt": receipt}
                # of a message that was settled before no event comes any more
                if is_repeat and (settled_frame := await _settled_there(client, ask.channel, accepted_id)):
                    yield settled_frame
                yield first
                async for frame in frames:
                    yield frame
        except (NotAuthenticated, NotAllowed) as refusal:
            raise NotAllowed(f"the server asks for a credential: {refusal}") from refusal
        except StoreUnavailable as error:
            raise _unreachable(base, error) from error


async def _settled_there(client: TurnkeepClient, channel: str, message_id: str) -> Frame | None:
    """What became of a message that has its receipt, however long the server is away."""
    while True:
        try:
            record = await client.get_message(channel, message_id)
            items = (await client.list_messages(channel))["items"] if record["status"] == "answered" else ()
        except StoreUnavailable:
            _note_that_it_is_away(message_id)
        else:
            return _settled_frame(message_id, record["status"], record["run_id"], items)


def _note_that_it_is_away(message_id: str) -> None:
    output.note(f"the server went away; message {message_id} is kept, waiting until it is back")


def _unreachable(base: str, error: StoreUnavailable) -> TurnkeepError:
    """What to say of a server that was not reached; one that has no store says so itself."""
    cause = error.__cause__
    if not isinstance(cause, aiohttp.ClientError | TimeoutError):
        return error
    number = cause.errno if isinstance(cause, OSError) else None
    reason = os.strerror(number).lower() if number and number > 0 else str(cause) or type(cause).__name__
    where = f"the server at {without_password(base)} cannot be reached ({reason})"
    return ServerUnreachable(f"{where}: start it, or correct or unset TURNKEEP_URL")


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
    message = read_message({"message": ask.text, **ask.about}, address, limit=application.settings.max_message_bytes)
    async with application.events(ask.channel) as stream:
        # A channel that is the id of a thread names one that is there; it cannot make one.
        [outcome] = await application.accept([message], create=not address.names_thread)
        if isinstance(outcome, Rejection):
            raise outcome
        for frame in await _receipt_frames(application, ask, outcome):
            yield frame
        dialect = Dialect(deltas=True, everything=True, in_full=True)
        encoder = Encoder(address, outcome.thread_id, dialect, answer=stream.subscription_start.answer)
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
    settled_frame = await _settled_here(application, ask) if receipt.repeated else None
    return [frame] if settled_frame is None else [frame, settled_frame]


async def _settled_here(application: Application, ask: Ask) -> Frame | None:
    store, address = application.store, application.address(ask.channel)
    if (record := await store.message(address, ask.message_id)) is None:
        return None
    entries = (await store.history(address)).entries if record.status == "answered" else ()
    items = [{"turn": entry.turn, **item_to_json(entry.item)} for entry in entries]
    return _settled_frame(record.message_id, record.status, record.run_id, items)


def _settled_frame(
    message_id: str, status: str, run_id: str | None, items: Sequence[Mapping[str, Any]]
) -> Frame | None:
    """None while it is not; `answer` is what the transcript holds of it."""
    if status in ("waiting", "delayed", "running"):
        return None
    frame: Frame = {
        "type": "status", "status": "settled", "message_id": message_id, "outcome": status, "run_id": run_id,
    }  # fmt: skip
    answer = answer_among(items, message_id)
    return frame if answer is None else {**frame, "answer": answer}
