"""People at the doors: who sends until there is a receipt, and who listens through every cut, and what they noted.

They know the published protocol alone. Their notes are two of the ledgers that the judge compares.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

Frame = Mapping[str, Any]

FIXED = frozenset({"Stopped.", "(no answer)"})
"""What is told as the answer of a turn in which nothing was said."""


class Gone(Exception):
    """the connection ended, or the request got no reply"""


class Wire(Protocol):
    """An open socket."""

    async def send(self, frame: Frame) -> None:
        """Raises `Gone`."""
        ...

    async def heard(self) -> Frame:
        """The next frame. Raises `Gone` at the end."""
        ...


class Door(Protocol):
    """A gateway as somebody outside sees it."""

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Frame]:
        """Status and body of the reply. Raises `Gone`."""
        ...

    def socket(self) -> AbstractAsyncContextManager[Wire]:
        """Raises `Gone` on entering when nobody answers."""
        ...


Doors = Callable[[], Door]
"""Any gateway: the next one to try."""


# ---------------------------------------------------------------- sending


@dataclass(slots=True)
class Sent:
    """A message on its way. `accepted` is the moment of its receipt, `requested` when that request was made."""

    channel: str
    person: str
    number: int
    text: str
    wishes: Mapping[str, Any] = field(default_factory=dict)
    accepted: float | None = None
    requested: float | None = None

    @property
    def message_id(self) -> str:
        return f"{self.channel}-{self.person}-{self.number}"

    @property
    def body(self) -> dict[str, Any]:
        return {"message_id": self.message_id, "message": self.text, **self.wishes}


class Sender:
    """One person on one channel, who sends one message after the other, each until it has its receipt."""

    def __init__(self, doors: Doors, source: random.Random, *, repeats: float = 0.05) -> None:
        self._doors = doors
        self._source = source
        self._repeats = repeats
        self.sent: list[Sent] = []
        self.refused: list[str] = []
        """Replies that nobody should get."""

    async def send(self, message: Sent) -> None:
        self.sent.append(message)
        message.accepted = await self._until_accepted(message)
        if self._source.random() < self._repeats:
            await self._until_accepted(message)

    async def send_again(self) -> None:
        """What was sent some time ago, once more."""
        await self._until_accepted(self._source.choice(self.sent))

    async def _until_accepted(self, message: Sent) -> float:
        while True:
            began = _now()
            try:
                status, told = await self._doors().post(f"/api/channels/{message.channel}/messages", message.body)
            except Gone:
                status, told = 503, {}
            if status in (200, 202):
                message.requested = message.requested or began
                return _now()
            if status not in (429, 500, 503):
                self.refused.append(f"{message.message_id}: {status} {told}")
            await asyncio.sleep(self._source.uniform(0.02, 0.1))


# ---------------------------------------------------------------- changing

EDITED = "edited"
"""The channel on which one message waits all the time, and is changed by two people at once."""


class Editor:
    """One of two who change the same message, each change under a key until it is answered. They do not look."""

    def __init__(self, name: str, doors: Doors, source: random.Random, *, pause: float = 0.5) -> None:
        self.name = name
        self._doors = doors
        self._source = source
        self._pause = pause

    async def begin(self) -> None:
        """The message waits for an hour, unless it is withdrawn."""
        message = {"message_id": "m", "message": "to be changed", "window": 3600.0, "max_wait": 3600.0}
        await self._until_done({"channel": EDITED, **message})

    async def edit(self) -> None:
        """Change it for ever."""
        number = 0
        while True:
            number += 1
            text = f"{self.name} {number}"
            await self._until_done(
                {"action": "edit", "channel": EDITED, "message_id": "m", "message": text, "idempotency_key": text}
            )
            await asyncio.sleep(self._source.uniform(0.0, self._pause))

    async def end(self) -> None:
        await self._until_done({"action": "withdraw", "channel": EDITED, "message_id": "m", "idempotency_key": "end"})

    async def _until_done(self, frame: Frame) -> None:
        while True:
            with suppress(Gone, TimeoutError):
                async with asyncio.timeout(5.0), self._doors().socket() as wire:
                    await wire.send(frame)
                    if (await wire.heard())["type"] != "error":
                        return
            await asyncio.sleep(self._source.uniform(0.02, 0.1))


# ---------------------------------------------------------------- listening


@dataclass(frozen=True, slots=True)
class Tear:
    """An answer whose pieces do not make the whole: the epochs of its first piece and of its end, and when it ended."""

    what: str
    begun_in: str
    ended_in: str
    at: float


@dataclass(slots=True)
class Answered:
    """How a turn ended, as told to whoever listened."""

    run_id: str
    offset: int
    message_ids: tuple[str, ...]
    outcome: str
    text: str


class Listener:
    """One subscriber of one channel, who comes back after every cut and goes on where the last whole event ended."""

    def __init__(self, channel: str, doors: Doors, source: random.Random) -> None:
        self.channel = channel
        self._doors = doors
        self._source = source
        self._position: dict[str, Any] = {}
        self._partly: set[tuple[Any, ...]] = set()
        self._shown: str | None = None
        self._shown_in = ""
        """The epoch in which what is shown began."""
        self.answers: dict[str, Answered] = {}
        self.ends: dict[str, set[int]] = defaultdict(set)
        """Offsets of the events that ended a message."""
        self.ended_at: dict[str, float] = {}
        self.accepted: set[str] = set()
        self.repeats: list[str] = []
        self.torn: list[Tear] = []
        self.crossings: list[int] = []
        """Up to where a log was taken for known when it went on under another epoch: if a server had lost its end, some
        of that was said anew.
        """
        self.cuts = 0

    async def listen(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with self._doors().socket() as wire:
                    await self._follow(wire)
            except Gone:
                self.cuts += 1
            await asyncio.sleep(self._source.uniform(0.01, 0.1))

    async def _follow(self, wire: Wire) -> None:
        begun = await self._subscribe(wire, self._position)
        if begun["epoch"] and not (self._position and begun["recovered"]):
            self._begin_anew(begun["offset"])
            await self._subscribe(wire, {"offset": 0, "epoch": begun["epoch"]})
        while True:
            frame = await wire.heard()
            if "offset" in frame:
                self.take(frame)

    def end_in(self, epoch: str) -> None:
        """The log is in this epoch, and nothing more will be heard of it."""
        if self._position.get("epoch") not in (None, epoch):
            self.crossings.append(self._position["offset"])

    async def _subscribe(self, wire: Wire, position: Mapping[str, Any]) -> Frame:
        await wire.send({"action": "subscribe", "channel": self.channel, "text": "delta", "events": "all", **position})
        while True:
            frame = await wire.heard()
            if frame["status"] == "subscribed":
                return frame
            if frame["type"] == "error" and "offset" not in frame:
                raise Gone

    def _begin_anew(self, top: int) -> None:
        """The log holds nothing behind this offset any more: a server is gone with what only it had, told or not."""
        self._position, self._partly, self._shown = {}, set(), None
        left = {each: {at for at in ends if at <= top} for each, ends in self.ends.items()}
        self.ends = defaultdict(set, {each: ends for each, ends in left.items() if ends})
        self.answers = {run_id: one for run_id, one in self.answers.items() if one.offset <= top}

    def take(self, frame: Frame) -> None:
        """One frame of the channel."""
        epoch, offset = frame["epoch"], frame["offset"]
        if frame.get("reason") == "silent":
            return  # of no event: it says again where the channel is
        if self._position.get("epoch") not in (None, epoch):
            self.crossings.append(min(offset - 1, self._position["offset"]))
            if offset <= self._position["offset"]:
                self._begin_anew(offset - 1)  # the log has lost something; else it goes on under another name
        if offset <= self._position.get("offset", 0):
            self.repeats.append(f"{self.channel}: {frame['status']} of offset {offset} again")
            return
        key = (offset, frame["type"], frame["status"], frame["message_id"])
        if key in self._partly:
            return
        self._note(frame)
        if frame.get("more"):
            self._partly.add(key)
        else:
            self._position, self._partly = {"offset": offset, "epoch": epoch}, set()

    def _note(self, frame: Frame) -> None:
        message_id = frame["message_id"]
        match frame["type"], frame["status"]:
            case "status", "accepted":
                self.accepted.add(message_id)
            case "status", "started":
                self._shown, self._shown_in = "", frame["epoch"]
            case "response", "in_progress" if frame.get("snapshot"):
                self._shown, self._shown_in = frame["message"], frame["epoch"]
            case "response", "in_progress":
                self._shown = (self._shown or "") + frame["delta"]
            case "response", "completed":
                self._answered(frame)
                self._end(message_id, frame["offset"])
            case ("status", "completed") | ("error", _):
                self._end(message_id, frame["offset"])

    def _answered(self, frame: Frame) -> None:
        text = "" if frame["message"] in FIXED else frame["message"]
        answered = Answered(frame["run_id"], frame["offset"], tuple(frame["message_ids"]), frame["outcome"], text)
        self.answers[answered.run_id] = answered
        if answered.outcome == "completed" and self._shown is not None and self._shown != text:
            what = f"{self.channel}: run {answered.run_id} showed {self._shown!r} and ended with {text!r}"
            self.torn.append(Tear(what, self._shown_in, frame["epoch"], _now()))
        self._shown = None

    def _end(self, message_id: str, offset: int) -> None:
        self.ends[message_id].add(offset)
        self.ended_at.setdefault(message_id, _now())


def _now() -> float:
    return asyncio.get_running_loop().time()
