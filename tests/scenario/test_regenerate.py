"""The last turn is answered again as it was asked; where that cannot be, nothing has changed."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.scenario.house import TestHouse, gate_answers, opened
from turnkeep.errors import InboxFull, NotFound, ThreadBusy
from turnkeep.messages import UserItem


async def asked(house: TestHouse) -> list[tuple[str | None, dict[str, str]]]:
    said = [item for item in await house.transcript("c") if isinstance(item, UserItem)]
    return [(item.instructions, dict(item.metadata or {})) for item in said]


async def test_the_instructions_and_metadata_of_a_message_come_along(store: str) -> None:
    async with opened(store) as house:
        house.simulator.options = replace(house.simulator.options, keep_bodies=True)
        await house.queue.ask("c", "hello [[say:one]]", instructions="Say it in French.", metadata={"user": "u1"})
        async with house.stream("c") as stream:
            [receipt] = await house.queue.regenerate("c")
            await house.settled(stream, receipt.message_id)

        assert await asked(house) == [("Say it in French.", {"user": "u1"})]
        first, second = house.simulator.ledger
        assert first.body["instructions"] == second.body["instructions"]
        assert "French" in second.body["instructions"]


async def test_a_refusal_stops_nothing_whatever_messages_do_there(store: str) -> None:
    async with opened(store) as house:
        await house.queue.ask("c", "first [[say:one]]")
        await house.queue.change_thread("c", options={"on_busy": "interrupt"})
        async with house.stream("c") as stream:
            gate = gate_answers(house.simulator)
            await house.send("c", "second [[words:3]] [[pace:1]]", "second", flush=True)
            await house.until(stream, lambda event: event.kind == "delta")
            with pytest.raises(ThreadBusy):
                await house.queue.regenerate("c")
            gate.set()
            ended = await house.settled(stream, "second")

        assert ended[-1].kind == "completed"
        assert await house.said_by_user("c") == ["first [[say:one]]", "second [[words:3]] [[pace:1]]"]
        assert await house.queue.store.open_messages(house.address("c")) == []


async def test_it_does_not_turn_the_order_round(store: str) -> None:
    async with opened(store) as house:
        with pytest.raises(NotFound):
            await house.queue.regenerate("c")
        await house.send("c", "first", "first", window=30.0, max_wait=30.0)
        with pytest.raises(ThreadBusy):
            await house.queue.regenerate("c")
        [waiting] = await house.queue.store.open_messages(house.address("c"))
        assert waiting.status == "waiting"


async def test_a_refusal_leaves_no_copies_behind(store: str) -> None:
    async with opened(store, max_inbox=3, window=0.2) as house:
        async with house.stream("c") as stream:
            await house.send_all("c", ["one", "two", "three [[say:ok]]"])
            await house.settled(stream, "m2")
        await house.send_all("c", ["later", "much later"], not_before=time.time() + 1e6)

        with pytest.raises(InboxFull):
            await house.queue.regenerate("c")

        waiting = await house.queue.store.open_messages(house.address("c"))
        assert [record.message_id for record in waiting] == ["m3", "m4"]
        assert len(await house.said_by_user("c")) == 3
