"""However much was said meanwhile, who comes back catches up, as fast as it reads."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.patience import PATIENCE
from tests.process.served import Served, ask, served
from turnkeep.events import delta
from turnkeep.messages import Message, UserItem, text_content
from turnkeep.store.values import Commit, TranscriptEntry

PIECE = "x" * 2_000


async def answered(house: Served, number: int, size: int) -> None:
    """A turn with an answer of so many characters, as a run would have told it."""
    store, where = house.queue.store, house.queue.address("c")
    ids = [f"m{number}", f"m{number}-too"]
    await store.accept([Message(where, one, text_content("hello"), flush=True) for one in ids])
    [claim] = await store.claim(owner="w", limit=1, lease=30.0)
    texts = [PIECE] * (size // len(PIECE))
    await store.publish(claim, 0, [delta(text, claim.run_id, 1) for text in texts])
    entries = [TranscriptEntry(UserItem(m.content, m.message_id)) for m in claim.messages]
    await store.commit(claim, Commit("completed", "".join(texts), entries))


class Reader:
    """A client that resumes from its last whole event whenever it is closed."""

    def __init__(self, **wishes: Any) -> None:
        self.wishes = wishes
        self.position: dict[str, Any] = {}
        self.closes = 0
        self.shown = ""
        self.texts: list[str] = []

    async def until(self, house: Served, turns: int) -> None:
        while len(self.texts) < turns:
            async with house.socket() as socket:
                try:
                    await ask(socket, {"action": "subscribe", "channel": "c", **self.wishes, **self.position})
                    while len(self.texts) < turns:
                        self.take(json.loads(await socket.recv()))
                except ConnectionClosed:
                    self.closes += 1
                    assert self.closes < 20, "it never catches up"

    def take(self, frame: dict[str, Any]) -> None:
        if frame["type"] == "response" and frame["status"] == "in_progress" and "delta" in self.wishes.values():
            self.shown = frame["message"] if frame.get("snapshot") else self.shown + frame["delta"]
        if frame["type"] == "response" and frame["status"] == "completed":
            assert self.shown in ("", frame["message"])
            self.texts.append(frame["message"])
            self.shown = ""
        if "offset" in frame and not frame.get("more"):
            self.position = {"offset": frame["offset"], "epoch": frame["epoch"]}


@pytest.mark.parametrize("wishes", [{}, {"text": "delta"}], ids=["full texts", "deltas"])
@pytest.mark.parametrize(("turns", "size"), [(10, 50_000), (60, 20_000), (2, 300_000), (1, 3_000_000)])
async def test_a_backlog_is_read_to_its_end(turns: int, size: int, wishes: dict[str, Any]) -> None:
    async with served(role="gateway") as house, house.socket() as socket:
        await answered(house, 0, len(PIECE))
        await ask(socket, {"action": "subscribe", "channel": "c"})
        page = await house.queue.store.read(house.queue.address("c"))
        reader = Reader(**wishes)
        reader.position = {"offset": page.top, "epoch": page.epoch}
        for number in range(1, turns + 1):
            await answered(house, number, size)

        async with asyncio.timeout(PATIENCE):
            await reader.until(house, turns)

        socket.transport.abort()  # it has read nothing: a parting word would wait behind all of that
        assert [len(text) for text in reader.texts] == [size] * turns
        assert reader.closes == 0


async def test_a_wrong_second_subscription_leaves_the_first_as_it_is() -> None:
    async with served() as house, house.socket() as socket:
        await ask(socket, {"action": "subscribe", "channel": "c"})
        refused = await ask(socket, {"action": "subscribe", "channel": "c", "history": 5_000})
        assert refused["type"] == "error"
        await house.queue.add_message_to_thread("c", "hello [[say:fine]]", message_id="m", flush=True)
        while (frame := json.loads(await socket.recv())).get("status") != "completed":
            pass
        assert frame["message"] == "fine"


async def test_an_edit_may_be_no_larger_than_a_message() -> None:
    async with served(max_message_bytes=1_000) as house, house.socket() as socket:
        await house.queue.add_message_to_thread("c", "small", message_id="m", not_before=time.time() + 1e6)
        edit = {"message": "x" * 1_001}
        async with house.http.patch(f"{house.url}/api/channels/c/messages/m", json=edit) as told:
            assert (told.status, (await told.json())["error"]["code"]) == (413, "message_too_large")
        refused = await ask(socket, {"action": "edit", "channel": "c", "message_id": "m", **edit})
        assert refused["code"] == "message_too_large"
        [record] = await house.queue.store.open_messages(house.queue.address("c"))
        assert record.message is not None
        assert record.message.text == "small"
