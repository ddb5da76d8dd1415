"""What a `ConversationManager` is told is there again, on every engine, for other processes too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.scenario.house import opened
from turnkeep import ConversationManager
from turnkeep.conversation import recall
from turnkeep.messages import Address, Item, SystemItem
from turnkeep.store import open_store

CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TALK: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Look!"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "a castle"},
    {"role": "assistant", "content": "I see a castle."},
]


async def test_a_conversation_outlives_its_manager(store: str) -> None:
    async with ConversationManager(store=store, ttl=3600) as manager:
        for message in TALK:
            await manager.add_message("s", message, "gpt-4o")
        assert (await manager.get_conversation("s")).messages == TALK
    if store == "memory:":
        return
    async with ConversationManager(store=store, max_messages=3) as later:
        assert (await later.get_conversation("s")).messages == [TALK[0], TALK[4]], "a call is never told without output"
        assert await later.clear("s")
        assert (await later.get_conversation("s")).messages == []


async def test_its_time_to_live_is_that_of_its_thread(store: str) -> None:
    kept = open_store(store)
    await kept.open()
    await ConversationManager(store=kept, ttl=3600).add_message("s", {"role": "user", "content": "hi"})
    await ConversationManager(store=kept, ttl=60).add_message("s", {"role": "user", "content": "hi"})
    record = await kept.thread(Address("default", "assistant", "s"))
    await kept.close()
    assert record is not None
    assert record.expires_at - record.active_at == 3600


async def test_a_summary_takes_the_place_of_what_does_not_fit(store: str) -> None:
    async def summarize(before: str | None, items: Sequence[Item]) -> str:
        return f"{before or ''}{len(items)};"

    kept = open_store(store)
    await kept.open()
    manager = ConversationManager(store=kept, max_messages=6, summarize=summarize)
    await manager.add_message("s", {"role": "system", "content": "Be brief."})
    for number in range(20):
        await manager.add_message("s", {"role": "user" if number % 2 else "assistant", "content": str(number)})
    conversation = await manager.get_conversation("s")
    address = Address("default", "assistant", "s")
    told = await recall(kept, address, tokens=40)
    await kept.close()
    assert conversation.summary
    assert len(conversation.items) <= 6
    assert conversation.items[0] == SystemItem("Be brief.")
    summed_up = sum(int(count) for count in conversation.summary.split(";") if count)
    assert summed_up + len(conversation.items) - 1 == 20
    assert SystemItem("Be brief.") in [entry.item for entry in told.entries]


async def test_a_context_that_a_refusal_has_named_is_kept_to_from_then_on(store: str) -> None:
    refusal = "The input (9000 tokens) is longer than the model's context length (2500 tokens)."
    async with opened(store, openai_model="a-model-of-nobody") as house, house.stream("c") as stream:
        for number in range(6):
            await house.send("c", f"{number} " + "word " * 400, f"m{number}")
            await house.settled(stream, f"m{number}")
        house.fault(kind="400", message=refusal, times=1)
        await house.send("c", "too much by now", "m6")
        await house.settled(stream, "m6")
        before = len(house.simulator.ledger)

        await house.send("c", "again", "m7")
        assert (await house.settled(stream, "m7"))[-1].kind == "completed"

        assert len(house.simulator.ledger) == before + 1
        assert (await house.queue.store.counts()).dead_letters == 0
