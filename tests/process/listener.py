"""Somebody on a socket who comes back after every cut where he was, and the judge of what he was told."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import websockets
from websockets.asyncio.client import ClientConnection

from tests.patience import LONG_PATIENCE, within

Frame = dict[str, Any]


class Listener:
    """One socket for some channels. It resumes each where it was, at the next gateway, whenever it is cut."""

    def __init__(self, urls: Sequence[str], channels: Sequence[str]) -> None:
        self.channels = tuple(channels)
        self.frames: dict[str, list[Frame]] = {channel: [] for channel in channels}
        """What was told of each channel, in order, with the replies to subscriptions."""
        self.cuts = 0
        self._urls = urls
        self._positions: dict[str, tuple[int, str]] = {}
        self._waited_for: dict[tuple[str, str | None], asyncio.Future[Frame]] = {}
        self._all = asyncio.Event()

    async def run(self) -> None:
        """Listen until cancelled."""
        for url in itertools.cycle(self._urls):
            with contextlib.suppress(OSError, websockets.WebSocketException, TimeoutError):
                await self._listen(url)
            self.cuts += 1
            await asyncio.sleep(0.02)

    async def heard_of_all(self) -> None:
        """Return when it is subscribed to everything."""
        async with within(LONG_PATIENCE):
            await self._all.wait()

    async def answer(self, channel: str, message_id: str) -> Frame:
        """The final frame of a message."""
        waiting = self._waiting(channel, message_id)
        async with within(LONG_PATIENCE):
            return await waiting

    def _waiting(self, channel: str, message_id: str | None) -> asyncio.Future[Frame]:
        key = (channel, message_id)
        return self._waited_for.setdefault(key, asyncio.get_running_loop().create_future())

    async def _listen(self, url: str) -> None:
        async with websockets.connect(
            url.replace("http", "ws", 1) + "/ws", max_size=None, open_timeout=LONG_PATIENCE
        ) as socket:
            for channel in self.channels:
                await self._subscribe(socket, channel)
            async for text in socket:
                await self._take(socket, json.loads(text))

    async def _subscribe(self, socket: ClientConnection, channel: str) -> None:
        request: Frame = {
            "action": "subscribe",
            "channel": channel,
            "events": "all",
            "text": "delta",
            "id": "subscription",
        }
        if channel in self._positions:
            offset, epoch = self._positions[channel]
            request |= {"offset": offset, "epoch": epoch}
        await socket.send(json.dumps(request))

    async def _take(self, socket: ClientConnection, frame: Frame) -> None:
        if frame.get("reason") == "silent":  # said beside the log
            return
        channel = frame["channel"]
        if "offset" not in frame:  # the store could not be read: a subscription was refused
            await asyncio.sleep(0.05)
            await self._subscribe(socket, channel)
            return
        frame["heard"] = asyncio.get_running_loop().time()
        self.frames[channel].append(frame)
        if not frame.get("more"):
            self._positions[channel] = (frame["offset"], frame["epoch"])
        if len(self._positions) == len(self.channels):
            self._all.set()
        if frame.get("final_message") or frame["type"] == "error":
            waiting = self._waiting(channel, frame["message_id"])
            if not waiting.done():
                waiting.set_result(frame)


# ---------------------------------------------------------------- judging


@dataclass
class Judgement:
    """What was wrong with the frames of some channels. `anew`: how often a snapshot replaced what was shown."""

    frames: int = 0
    holes: int = 0
    repeats: int = 0
    wrong_texts: int = 0
    errors: int = 0
    anew: int = 0
    answers: int = 0

    @property
    def is_clean(self) -> bool:
        return (self.holes, self.repeats, self.wrong_texts) == (0, 0, 0)


def judged(listeners: Iterable[Listener]) -> Judgement:
    """Offsets go on one by one, except that one frame of text may stand for several; texts add up to the answers."""
    found = Judgement()
    for listener in listeners:
        for frames in listener.frames.values():
            _judge(frames, found)
    return found


def _judge(frames: Sequence[Frame], found: Judgement) -> None:
    at, epoch, more, text = 0, "", False, ""
    for frame in frames:
        offset = frame["offset"]
        if frame["status"] == "subscribed":
            text = _returned(frame, (at, epoch), text, found)
            at, epoch, more = offset, frame["epoch"], False
            continue
        found.frames += 1
        is_text = "delta" in frame
        found.repeats += offset < at or (offset == at and not more)
        found.holes += offset > at + 1 and not is_text
        at, epoch, more = offset, frame["epoch"], bool(frame.get("more"))
        if is_text:
            text = frame["message"] if frame.get("snapshot") else text + frame["delta"]
        elif frame.get("final_message") and frame["type"] == "response":
            found.answers += 1
            found.wrong_texts += frame["outcome"] == "completed" and text != frame["message"]
            text = ""
        elif frame["type"] == "error":
            found.errors += 1
            text = ""


def _returned(frame: Frame, position: tuple[int, str], text: str, found: Judgement) -> str:
    """After a subscription: who resumed goes on where he was, or is told that he did not."""
    if position == (0, ""):
        return ""
    if frame["recovered"]:
        found.holes += (frame["offset"], frame["epoch"]) != position
        return text
    found.anew += 1
    return ""
