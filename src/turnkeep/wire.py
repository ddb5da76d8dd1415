"""The seed dialect: what `/ws`, SSE and the relay say of events, in frames.

Every frame holds, in this order, `message`, `timestamp`, `status`, `type`, `final_message`,
`message_id`, `thread_id`; error frames hold `error_details` in place of `final_message`. What we
add comes after them. A turn ends with exactly one `response`/`completed`, or one `error`; each
older message of its batch then gets its own `status`/`completed`. All frames of an event but its
last say `more`; who resumes from the last frame without it misses nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from copy import copy
from typing import Any, Self

import orjson

from turnkeep.events import BESIDE_TEXT, Answer, Event, TextDelta
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.remedies import remedy_of
from turnkeep.subscription import SubscriptionStart

Frame = dict[str, Any]

STARTED_TEXT = "Assistant is processing your request..."
PROCESSING = "Assistant is gathering information..."
RESPONDING = "Assistant is responding..."
WORKING = "Assistant is still working on your request..."
DECIDING = "Assistant is waiting for a decision..."
NOTHING_SAID = {"cancelled": "Stopped.", "completed": "(no answer)", "incomplete": "(no answer)"}

DETAIL_KINDS = BESIDE_TEXT | {"accepted", "edited", "withdrawn", "steered", "decided", "paused", "resumed"}
"""What only subscribers with `events: "all"` get: the life of messages, and what a turn shows beside its text."""


def frame_bytes(frame: Frame) -> bytes:
    return orjson.dumps(frame)


def dumps(frame: Frame) -> str:
    return frame_bytes(frame).decode()


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one subscriber wants it. `deltas`: every token in `delta`, not the text so far.
    `everything`: life-cycle events too. `in_envelopes`: as the relay says it.
    """

    deltas: bool = False
    everything: bool = False
    in_envelopes: bool = False
    as_stream: bool = False
    """Each frame is an event of an SSE stream."""
    in_full: bool = False
    """Calls that wait are told with all that is in them (`call_form`)."""


def call_form(call: Mapping[str, Any], *, in_full: bool) -> Frame:
    """A call that waits, or was decided: in full to who decides about such calls; to others without
    what its tool keeps from them, empty and `withheld`.
    """
    show = call.get("show", "name")
    if in_full or show == "all":
        return dict(call)
    # the digest goes with the arguments: few are so many that nobody could try them all
    secrets = {"output"} if show == "arguments" else {"output", "arguments", "digest"}
    return {name: "" if name in secrets else value for name, value in call.items()} | {"withheld": True}


def _aside(frame: Frame) -> Frame:
    """Said beside the log, so at no position of it: nobody resumes from here."""
    # With a position it would be taken for one of the log, and whoever resumes
    # there would miss events.
    return {name: value for name, value in frame.items() if name not in ("offset", "epoch")} | {"more": True}


def _cause(event: Event) -> Frame:
    """Why a run does not go on now, and what an operator does about it."""
    fault = event.error
    if fault is None:
        return {}
    return {
        "phase": event.kind,
        "reason": fault.code,
        "error_details": fault.details,
        "remedy": remedy_of(fault.code),
    }


class Encoder:
    """Turns one channel's events into frames. It knows the text so far, because `message` of
    `in_progress` is cumulative.

    `answer` is what was shown before, `replaces` makes the first text a snapshot. Deltas are taken
    in with `encode` and come out with `flush`, so that several can become one frame.
    """

    __slots__ = ("_answer", "_channel", "_dialect", "_newest", "_pending", "_replaces", "_thread_id")

    def __init__(
        self,
        address: Address,
        thread_id: str | None,
        dialect: Dialect,
        *,
        answer: Answer | None = None,
        replaces: bool = False,
    ) -> None:
        self._channel = address.channel
        self._thread_id = thread_id
        self._dialect = dialect
        self._answer = answer or Answer()
        self._pending: list[str] = []
        self._replaces = replaces
        self._newest: Event | None = None

    @property
    def owes(self) -> bool:
        """There is text that `flush` would tell."""
        return self._newest is not None

    def encode(self, event: Event) -> list[Frame]:
        """The frames of an event; text is kept back for `flush`, and told before anything else is."""
        self._thread_id = event.thread_id or self._thread_id
        if event.kind in ("delta", "snapshot"):
            self._keep(event)
            return []
        # First, or a client would see the end before the last words.
        owed = self.flush()
        frames = self._frames(event)
        # Only the last has the position to resume from: who stops before it is given all of them again.
        for frame in frames[:-1]:
            frame["more"] = True
        return owed + frames

    @property
    def state(self) -> Hashable:
        """All that frames to come depend on, while nothing is owed."""
        answer = self._answer
        return (self._thread_id, self._replaces, answer.run_id, answer.attempt, answer.message_ids, answer.text)

    def copy(self) -> Encoder:
        other = copy(self)
        other._answer, other._pending = self._answer.copy(), list(self._pending)
        return other

    def take_piece(self) -> tuple[Event, str] | None:
        """The text kept back, with the newest event of it, where it is told as nothing but a delta."""
        event = self._newest
        if event is None or self._replaces or not self._dialect.deltas:
            return None
        text = self._pending[0] if len(self._pending) == 1 else "".join(self._pending)
        self._newest, self._pending = None, []
        return event, text

    def pass_delta(self, event: Event) -> bool:
        """Take in a delta that is told at once, and as nothing but a delta."""
        if self._newest is not None or self._replaces or not self._dialect.deltas:
            return False
        self._answer.take(event)
        return True

    def delta_frame(self, event: Event) -> Frame:
        """The frame of a delta, without its text."""
        return self._frame(event, "in_progress", "response", "")

    def flush(self) -> list[Frame]:
        """One frame with all text kept back."""
        event, self._newest = self._newest, None
        if event is None:
            return []
        new_text, self._pending = "".join(self._pending), []
        replaces, self._replaces = self._replaces, False
        frame = self._frame(event, "in_progress", "response", self._answer.text)
        frame["delta"] = new_text
        if replaces:
            frame["snapshot"] = True
        elif self._dialect.deltas:
            frame["message"] = ""
        return [frame]

    def _keep(self, event: Event) -> None:
        self._answer.take(event)
        # It holds all that was pending: told as well, a client would show it twice.
        if event.kind == "snapshot":
            self._pending, self._replaces = [], True
        else:
            self._pending.append(event.text)
        self._newest = event

    def _frames(self, event: Event) -> list[Frame]:
        self._answer.take(event)
        if event.kind in DETAIL_KINDS:
            return [self._quiet(event)] if self._dialect.everything else []
        match event.kind:
            case "started":
                return self._start_frames(event)
            case "completed":
                return self._end_frames(event)
            case "dead":
                return self._dead(event)
        return [self._progress_frame(event)]

    def _progress_frame(self, event: Event) -> Frame:
        """What a run tells while it goes on, in one frame."""
        match event.kind:
            case "processing" if event.is_beside_log:
                return _aside(self._status(event, "processing", WORKING, **_cause(event)))
            case "processing":
                return self._status(event, "processing", PROCESSING, tools=list(event.tools))
            case "responding":
                return self._status(event, "responding", RESPONDING)
            case "held":
                return self._status(event, "processing", DECIDING, calls=self._calls(event))
            case "said":
                frame = self._frame(event, "completed", "response", event.text, final=True)
                return frame | {"author": event.author}
        return self._status(event, "processing", WORKING, **_cause(event))

    def _calls(self, event: Event) -> list[Frame]:
        return [call_form(call, in_full=self._dialect.in_full) for call in event.calls]

    def _start_frames(self, event: Event) -> list[Frame]:
        frames = [self._frame(event, "started", "status", STARTED_TEXT, message_id=one) for one in event.message_ids]
        if event.attempt > 1:
            # A further attempt begins from nothing: what was shown of the one before is taken back.
            frames.append(self._frame(event, "in_progress", "response", "") | {"delta": "", "snapshot": True})
        return frames

    def _end_frames(self, event: Event) -> list[Frame]:
        text = event.text or NOTHING_SAID[event.outcome or "completed"]
        frame = self._frame(event, "completed", "response", text, final=True)
        frame["outcome"] = event.outcome
        if event.author is not None:
            frame["author"] = event.author
        if event.usage is not None:
            frame["usage"] = {**event.usage.to_json(), "cost": event.usage.cost}
        return [frame, *self._older(event)]

    def _dead(self, event: Event) -> list[Frame]:
        fault = event.error
        frame: Frame = {
            "message": fault.message if fault else "",
            "timestamp": event.at,
            "status": "error",
            "type": "error",
            "error_details": fault.details if fault else "",
            "message_id": event.message_ids[-1] if event.message_ids else None,
            "thread_id": self._thread_id,
            **self._extra_fields(event),
            "code": fault.code if fault else "internal_error",
        }
        return [frame, *self._older(event)]

    def _older(self, event: Event) -> list[Frame]:
        """Whoever waits for an older message of the batch learns that it is settled."""
        return [
            self._frame(event, "completed", "status", "", message_id=one, final=True) for one in event.message_ids[:-1]
        ]

    def _status(self, event: Event, status: str, message: str, **extras: Any) -> Frame:
        frame = self._frame(event, status, "status", message)
        return frame | {name: value for name, value in extras.items() if value}

    def _quiet(self, event: Event) -> Frame:
        frame = self._frame(event, event.kind, "status", event.text)
        for name in ("outcome", "policy"):
            if value := getattr(event, name):
                frame[name] = value
        if event.calls:
            frame["calls"] = self._calls(event)
        if event.kind in BESIDE_TEXT:
            frame["place"] = event.place
        if event.detail is not None:
            frame["detail"] = event.detail.to_json()
        if event.usage is not None:
            frame["usage"] = {**event.usage.to_json(), "cost": event.usage.cost}
        return frame

    def _frame(
        self, event: Event, status: str, type_: str, message: str, *, message_id: str | None = None, final: bool = False
    ) -> Frame:
        ids = event.message_ids or self._answer.message_ids
        return {
            "message": message,
            "timestamp": event.at,
            "status": status,
            "type": type_,
            "final_message": final,
            "message_id": message_id or (ids[-1] if ids else None),
            "thread_id": self._thread_id,
            **self._extra_fields(event),
        }

    def _extra_fields(self, event: Event) -> Frame:
        fields: Frame = {"channel": self._channel, "offset": event.offset, "epoch": event.epoch}
        run_id = event.run_id or self._answer.run_id
        if run_id:
            fields["run_id"] = run_id
            fields["attempt"] = event.attempt or self._answer.attempt
        ids = event.message_ids or self._answer.message_ids
        if ids:
            fields["message_ids"] = list(ids)
        return fields


class WireEncoder:
    """The frames of one channel as messages, each of them bytes: events in, messages out.

    A message is one text frame of a socket, or one event of an SSE stream with its blank line. It begins
    with the answer that was shown before its first event (`SubscriptionStart`), is given every event of
    the channel in the order of the log, and knows nothing of who reads it. It may keep text back (`owes`)
    until `flush`, so that several deltas become one message.
    """

    __slots__ = ("_address", "_delta_frame", "_dialect", "_encoder", "_position")

    def __init__(self, address: Address, thread_id: str | None, dialect: Dialect, start: SubscriptionStart) -> None:
        self._address = address
        self._dialect = dialect
        self._encoder = Encoder(address, thread_id, dialect, answer=start.answer, replaces=not start.is_recovered)
        self._position = (start.epoch, start.start)
        self._delta_frame: _DeltaFrame | None = None

    @property
    def owes(self) -> bool:
        """There is text that `flush` would tell."""
        return self._encoder.owes

    @property
    def state(self) -> Hashable:
        """Where it is in the log, and what it knows: equal in encoders that owe nothing and would say
        the same of every event to come.
        """
        return (self._position, self._encoder.state)

    def encode(self, event: Event) -> list[bytes]:
        """The messages of an event; text that was kept back comes first."""
        self._position = (event.epoch, event.offset)
        if event.__class__ is TextDelta:
            self._encoder.encode(event)
            return []
        # Who answers, and which messages, may be others from here on.
        self._delta_frame = None
        return [self.encode_frame(frame) for frame in self._encoder.encode(event)]

    def tell(self, event: Event) -> list[bytes]:
        """The messages of an event, and of what was kept back with it: `encode` and `flush`."""
        frame = self._delta_frame
        # One delta after the other of the same run: all but a few events of a stream.
        if frame is not None and event.__class__ is TextDelta and frame.fits(event) and self._encoder.pass_delta(event):
            self._position = (event.epoch, event.offset)
            return [self._wrap(frame.fill(event, event.text), event.epoch, event.offset)]
        messages = self.encode(event)
        return messages + self.flush() if self._encoder.owes else messages

    def flush(self) -> list[bytes]:
        """All text that was kept back."""
        if (piece := self._encoder.take_piece()) is None:
            return [self.encode_frame(frame) for frame in self._encoder.flush()]
        event, text = piece
        if self._delta_frame is None or not self._delta_frame.fits(event):
            self._delta_frame = _DeltaFrame(event, self._encoder.delta_frame(event))
        data = self._delta_frame.fill(event, text)
        return [self._wrap(data, event.epoch, event.offset)]

    def copy(self) -> Self:
        """One that goes on from here by itself."""
        other = copy(self)
        other._encoder = self._encoder.copy()
        return other

    def encode_frame(self, frame: Frame) -> bytes:
        """A frame as one message."""
        has_position = self._dialect.as_stream and not frame.get("more")
        return self._wrap(frame_bytes(frame), frame["epoch"] if has_position else None, frame.get("offset", 0))

    def _wrap(self, data: bytes, epoch: str | None, offset: int) -> bytes:
        """In what this dialect wraps around a frame."""
        if self._dialect.as_stream:
            # The position is told with the last frame of an event, so that a client that returns
            # gets all of it.
            position = b"" if epoch is None else b"id: %b:%d\n" % (epoch.encode(), offset)
            return b"%bdata: %b\n\n" % (position, data)
        if self._dialect.in_envelopes:
            return b'{"channel":%b,"payload":%b}' % (orjson.dumps(self._address.channel), data)
        return data


class _DeltaFrame:
    """The frame of a delta as bytes, but for its moment, offset and text: the rest is the same for a
    whole run.
    """

    __slots__ = ("_attempt", "_epoch", "_middle", "_run_id", "_tail")

    def __init__(self, event: Event, frame: Frame) -> None:
        self._run_id, self._attempt, self._epoch = event.run_id, event.attempt, event.epoch
        names = list(frame)
        at = names.index("offset")
        self._middle = _members(frame, names[2:at]) + b',"offset":'
        self._tail = _members(frame, names[at + 1 :]) + b',"delta":'

    def fits(self, event: Event) -> bool:
        return event.run_id == self._run_id and event.attempt == self._attempt and event.epoch == self._epoch

    def fill(self, event: Event, text: str) -> bytes:
        moment, offset, words = orjson.dumps(event.at), b"%d" % event.offset, orjson.dumps(text)
        return b"".join((b'{"message":"","timestamp":', moment, self._middle, offset, self._tail, words, b"}"))


def _members(frame: Frame, names: Sequence[str]) -> bytes:
    """Some members of a frame, as they stand between two others."""
    return b"," + orjson.dumps({name: frame[name] for name in names})[1:-1]


def subscription_frame(address: Address, thread_id: str | None, start: SubscriptionStart, *, at: float) -> Frame:
    """The first frame of a subscription: where it begins, and whether anything
    is missing before that.
    """
    return {
        "message": "",
        "timestamp": at,
        "status": "subscribed",
        "type": "status",
        "final_message": False,
        "message_id": None,
        "thread_id": thread_id,
        "channel": address.channel,
        "offset": start.start,
        "epoch": start.epoch,
        "top": start.top,
        "recovered": start.is_recovered,
    }


def envelope(channel: str, frame: Frame) -> Frame:
    """The form in which the relay, and subscribers who ask for it, get a frame."""
    return {"channel": channel, "payload": frame}
