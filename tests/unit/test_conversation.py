"""`ConversationManager`: what was said is told again, within limits, in the same rows that a queue uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from turnkeep.conversation import ConversationManager, recall
from turnkeep.conversation.manager import SUMMED_UP, redis_url
from turnkeep.errors import ConfigurationError, InvalidMessage, OutcomeUnknown, ThreadBusy
from turnkeep.messages import Address, AssistantItem, CallItem, Item, Message, OutputItem, SystemItem, text_content
from turnkeep.store import Policies, Policy
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import TranscriptEntry
from turnkeep.testing.fake_clock import FakeClock

ADDRESS = Address("default", "assistant", "s")
Make = Callable[..., ConversationManager]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> MemoryStore:
    return MemoryStore(Policies(Policy(expiry=1000.0)), clock=clock)


@pytest.fixture
def manager(store: MemoryStore) -> Make:
    def make(**options: Any) -> ConversationManager:
        return ConversationManager(store=store, **options)

    return make


async def say(manager: ConversationManager, *pairs: tuple[str, str], session: str = "s") -> None:
    for role, text in pairs:
        await manager.add_message(session, {"role": role, "content": text}, "gpt-4o")


async def texts(manager: ConversationManager, session: str = "s") -> list[tuple[str, str]]:
    return [(m["role"], m["content"]) for m in (await manager.get_conversation(session)).messages]


# ---------------------------------------------------------------- remembering


async def test_what_was_said_is_told_again(manager: Make) -> None:
    said = [("system", "be brief"), ("user", "Hello!"), ("assistant", "Hi.")]
    await say(manager(), *said)
    conversation = await manager().get_conversation("s")
    assert [(m["role"], m["content"]) for m in conversation.messages] == said
    assert (conversation.session_id, conversation.complete, conversation.summary) == ("s", True, None)
    assert conversation.tokens == 6 + 6 + 6


async def test_an_unknown_session_is_an_empty_conversation(manager: Make) -> None:
    conversation = await manager().get_conversation("nobody")
    assert (conversation.messages, conversation.tokens, conversation.complete) == ([], 0, True)


async def test_tool_calls_come_back_as_they_were_written(manager: Make) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
    written: list[dict[str, Any]] = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": "wait", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
    ]
    one = manager()
    for message in written:
        await one.add_message("s", message)
    conversation = await one.get_conversation("s")
    assert conversation.messages == written
    assert conversation.items[1:] == (
        AssistantItem("wait"),
        CallItem("c1", "look", '{"a":1}'),
        OutputItem("c1", "found"),
    )


async def test_items_are_taken_as_they_are(manager: Make) -> None:
    one = manager()
    await one.add_message("s", AssistantItem("from a person", author="Ana"))
    assert (await one.get_conversation("s")).items == (AssistantItem("from a person", author="Ana"),)


async def test_images_pass_through_in_the_words_of_either_protocol(manager: Make) -> None:
    one = manager()
    for image in (
        {"type": "image_url", "image_url": {"url": "https://x/a.png", "detail": "low"}},
        {"type": "input_image", "image_url": "https://x/a.png", "detail": "low"},
    ):
        await one.add_message("s", {"role": "user", "content": [{"type": "input_text", "text": "see"}, image]})
    first, second = (await one.get_conversation("s")).messages
    assert first == second
    assert first["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "https://x/a.png", "detail": "low"}},
    ]


@pytest.mark.parametrize(
    "part", [{"type": "file", "file": {"file_id": "file_1"}}, {"type": "input_file", "file_id": "file_1"}]
)
async def test_files_pass_through_in_the_words_of_either_protocol(manager: Make, part: dict[str, Any]) -> None:
    one = manager()
    await one.add_message("s", {"role": "user", "content": [part]})
    [message] = (await one.get_conversation("s")).messages
    assert message["content"] == [{"type": "file", "file": {"file_id": "file_1"}}]


async def test_a_session_without_a_name_is_refused(manager: Make) -> None:
    with pytest.raises(InvalidMessage, match="at least one character"):
        await manager().get_conversation("")


@pytest.mark.parametrize(
    "message",
    [
        {"content": "no role"},
        {"role": "clown", "content": "?"},
        {"role": "user"},
        {"role": "user", "content": 7},
        {"role": "user", "content": [{"type": "video"}]},
        {"role": "user", "content": ["hi"]},
        {"role": "user", "content": [{"text": "no type"}]},
        {"role": "tool", "content": "whose?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
    ],
)
async def test_what_is_no_message_is_refused_with_a_sentence(manager: Make, message: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage):
        await manager().add_message("s", message)
    assert (await manager().get_conversation("s")).items == ()


async def test_a_message_whose_reply_was_lost_is_added_once(store: MemoryStore) -> None:
    class Forgetful(MemoryStore):
        lost = 0

        async def append(self, address: Address, entries: Sequence[TranscriptEntry], **options: Any) -> None:
            await super().append(address, entries, **options)
            if self.lost < 2:
                self.lost += 1
                raise OutcomeUnknown

    one = ConversationManager(store=Forgetful())
    await say(one, ("user", "once"))
    assert await texts(one) == [("user", "once")]


async def test_a_conversation_does_not_change_under_a_run(manager: Make, store: MemoryStore) -> None:
    message = Message(ADDRESS, "m1", text_content("hi"))
    await store.begin([message], owner="w", lease=30.0)
    with pytest.raises(ThreadBusy):
        await say(manager(), ("user", "and?"))


async def test_what_is_cleared_is_gone(manager: Make) -> None:
    one = manager()
    await say(one, ("user", "secret"))
    assert await one.clear("s") is True
    assert await texts(one) == []
    assert await one.clear("s") is False


async def test_tenants_and_queues_do_not_see_each_other(manager: Make) -> None:
    await say(manager(), ("user", "mine"))
    assert await texts(manager(tenant="other")) == []
    assert await texts(manager(queue_prefix="other")) == []


# ---------------------------------------------------------------- limits


async def test_only_what_fits_is_told_and_all_is_kept(manager: Make) -> None:
    await say(manager(), ("system", "be brief"), *[("user", f"question {n}") for n in range(50)])
    few = await manager(max_messages=10).get_conversation("s")
    assert [m["content"] for m in few.messages] == ["be brief", *[f"question {n}" for n in range(41, 50)]]
    assert not few.complete
    light = await manager(max_tokens=40).get_conversation("s")
    assert light.tokens <= 40
    assert light.messages[0]["content"] == "be brief"
    assert len((await manager().get_conversation("s")).messages) == 51


async def test_a_conversation_ends_after_its_time_without_activity(manager: Make, clock: FakeClock) -> None:
    one = manager(ttl=100.0)
    await say(one, ("user", "1"))
    clock.advance(99.0)
    await say(one, ("user", "2"))
    clock.advance(99.0)
    assert len(await texts(one)) == 2
    clock.advance(101.0)
    assert await texts(one) == []


async def test_a_thread_that_lives_longer_is_not_shortened(manager: Make, store: MemoryStore, clock: FakeClock) -> None:
    await say(manager(), ("user", "of the queue, 1000 seconds"))
    await say(manager(ttl=100.0), ("user", "2"))
    clock.advance(900.0)
    assert len(await texts(manager())) == 2
    await say(manager(ttl=5000.0), ("user", "3"))
    clock.advance(4000.0)
    assert len(await texts(manager())) == 3


@pytest.mark.parametrize("limits", [{"ttl": 0}, {"max_tokens": -1}, {"max_messages": 0}])
def test_limits_that_make_no_sense_are_refused(manager: Make, limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="use a number above 0"):
        manager(**limits)


# ---------------------------------------------------------------- summaries


async def test_older_parts_become_a_summary_when_they_do_not_fit(manager: Make) -> None:
    asked: list[tuple[str | None, int]] = []

    async def summarize(before: str | None, items: Sequence[Item]) -> str:
        asked.append((before, len(items)))
        return f"{len(asked)} summaries"

    one = manager(max_messages=8, summarize=summarize)
    await say(one, ("system", "be brief"), *[("user" if n % 2 else "assistant", str(n)) for n in range(1, 21)])
    conversation = await one.get_conversation("s")
    assert [before for before, _ in asked] == [None, "1 summaries", "2 summaries"], "not at every message"
    assert conversation.messages[0] == {"role": "system", "content": SUMMED_UP + "3 summaries"}
    assert SystemItem("be brief") in conversation.items
    assert [m["content"] for m in conversation.messages][-1] == "20"
    assert len(conversation.items) <= 8
    assert sum(count for _, count in asked) + len(conversation.items) - 1 == 20, "every message is in one of the two"


async def test_the_summary_is_part_of_the_budget(manager: Make, store: MemoryStore) -> None:
    one = manager(max_tokens=60)
    await say(one, *[("user", f"question number {n}") for n in range(9)])
    before = await one.get_conversation("s")
    await store.compact(ADDRESS, through_turn=1, summary="they asked many things and wanted to know them all at once")
    after = await one.get_conversation("s")
    assert after.tokens < before.tokens <= 60


# ---------------------------------------------------------------- what a run recalls


async def test_a_run_recalls_system_messages_of_older_turns(manager: Make, store: MemoryStore) -> None:
    await say(manager(), ("system", "be brief"), *[("user", f"question {n}") for n in range(50)])
    history = await recall(store, ADDRESS, tokens=60)
    assert history.entries[0].item == SystemItem("be brief")
    assert history.entries[-1].item.kind == "user"
    assert sum(entry.tokens for entry in history.entries) <= 60
    assert len(history.entries) > 5


async def test_a_run_does_not_look_for_them_where_there_are_none(manager: Make) -> None:
    class Counting(MemoryStore):
        reads = 0

        async def history(self, *args: Any, **options: Any) -> Any:
            self.reads += 1
            return await super().history(*args, **options)

    store = Counting()
    await say(ConversationManager(store=store), *[("user", f"question {n}") for n in range(50)])
    assert len((await recall(store, ADDRESS, tokens=60)).entries) > 5
    assert store.reads == 1


# ---------------------------------------------------------------- where


def test_redis_is_named_by_its_place() -> None:
    assert redis_url({"host": "localhost", "port": 6379}) == "redis://localhost:6379/0"
    assert redis_url({"host": "r", "password": "p@ss/", "db": 3, "tls": True}) == "rediss://:p%40ss%2F@r:6379/3"
    with pytest.raises(ConfigurationError, match="redis has no option of this name:\n  hots: did you mean host"):
        redis_url({"hots": "localhost"})


def test_two_places_at_once_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="give one of them"):
        ConversationManager("redis://localhost", store="memory:")


async def test_its_own_store_is_opened_by_the_first_use() -> None:
    async with ConversationManager(store="memory:") as one:
        await say(one, ("user", "hi"))
        assert await texts(one) == [("user", "hi")]
