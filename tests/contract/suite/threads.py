"""The record behind a channel: transcript, metadata, expiry."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.contract.suite.desk import BUSY, HERE, LEASE, QUEUE, STATES, TENANT, Desk, Start, at, give_up
from turnkeep.errors import InboxFull, InvalidMessage, LeaseLost, NotFound, ThreadBusy, ThreadNotFound, WrongState
from turnkeep.messages import (
    AssistantItem,
    CallItem,
    Citation,
    HostedItem,
    Item,
    OutputItem,
    Part,
    ProviderData,
    ReasoningItem,
    SystemItem,
    UserItem,
)
from turnkeep.messages import text_content as text
from turnkeep.runs.journal import user_item
from turnkeep.store.passages import TextSearch
from turnkeep.store.sealing import SealedStore
from turnkeep.store.thread_search import ThreadSearch
from turnkeep.store.values import Claim, Commit, Policies, Policy, ThreadOptions, ThreadRecord, TranscriptEntry

HOUR, DAY = 3600.0, 86400.0

SIGNED = ProviderData("models.example/v1", {"extra_content": {"google": {"thought_signature": "c2ln"}}, "n": 1.5})

EVERY_ITEM: list[Item] = [
    SystemItem("rules"),
    UserItem((Part("text", "look 😀"), Part("image", data={"url": "a"})), "m0", at=5.5),
    ReasoningItem({"id": "rs_1", "summary": [{"text": "hm"}]}),
    ReasoningItem({"reasoning_content": "hm", "reasoning_details": [{"index": 0, "x": []}]}, site="models.example/v1"),
    ReasoningItem({"type": "thinking", "thinking": "hm", "signature": "c2ln"}, site="models.example/v1"),
    HostedItem("web_search", {"type": "web_search_call", "action": {"q": ["x", None]}}, "x", site="models.example/v1"),
    CallItem("call_1", "pay", '{"amount": 5}', SIGNED),
    OutputItem("call_1", "no", "denied"),
    OutputItem("call_1", "no", "denied", "denied", "ann", 5.5),
    AssistantItem("done", interrupted=True, phase="final_answer", author="ann", provider_data=SIGNED),
    AssistantItem("so it is", citations=(Citation(0, 2, "https://a.example", "A", "so", "file_1"), Citation(3, 5))),
]


async def _taken_over(desk: Desk, claim: Claim) -> Claim:
    await desk.wait(LEASE + 1)
    return await desk.claim("another")


async def _answered_by_another(desk: Desk, claim: Claim) -> None:
    await desk.commit(await _taken_over(desk, claim))


LOSSES: dict[str, Callable[[Desk, Claim], Awaitable[object]]] = {
    "taken over": _taken_over,
    "answered by another": _answered_by_another,
    "settled": lambda desk, claim: desk.commit(claim),
    "given back": lambda desk, claim: desk.store.release(claim),
    "forgotten": lambda desk, claim: desk.store.forget(HERE, force=True),
}
"""What takes a claim from its run."""


def spoken(*words: str, tokens: int = 10) -> list[TranscriptEntry]:
    """A turn that a caller adds: a user item, then what was said to it."""
    first, *rest = words
    return [
        TranscriptEntry(UserItem(text(first), first), tokens),
        *(TranscriptEntry(AssistantItem(word), tokens) for word in rest),
    ]


async def ids_of(desk: Desk, **limits: Any) -> list[int]:
    """The turns that a reading of the transcript gives."""
    return [entry.turn for entry in (await desk.store.history(HERE, **limits)).entries]


TRANSCRIPT_CHANGES: dict[str, Callable[[Desk], Awaitable[Any]]] = {
    "append": lambda desk: desk.store.append(HERE, spoken("q")),
    "regenerate": lambda desk: desk.store.regenerate(HERE),
    "compact": lambda desk: desk.store.compact(HERE, through_turn=2, summary="they talked"),
    "another summary": lambda desk: desk.store.compact(HERE, through_turn=0, summary="they spoke"),
}


class ThreadPromises:
    async def test_an_unknown_channel_has_no_thread(self, start: Start) -> None:
        desk = await start()

        assert await desk.store.thread(HERE) is None
        assert await desk.store.open_messages(HERE) == []
        assert await desk.store.runs(HERE) == []
        history = await desk.store.history(HERE)
        assert (history.entries, history.summary, history.complete) == ((), None, True)
        assert not await desk.store.cancel(HERE, drop_inbox=True)
        assert (await desk.store.counts()).threads == 0

    async def test_a_thread_can_be_created_before_anything_is_said(self, start: Start) -> None:
        desk = await start()

        record = await desk.store.thread(HERE, create=True)

        assert record is not None
        assert (record.address, record.state, record.paused, record.due) == (HERE, "idle", False, None)
        assert (record.created_at, record.active_at, record.messages, record.turns) == (desk.now, desk.now, 0, 0)
        assert (record.items, record.bytes, record.summary, record.assistant) == (0, 0, None, None)
        assert dict(record.metadata) == {}
        assert record.options == ThreadOptions()
        assert record.thread_id.startswith("thread_")
        assert await desk.store.thread(HERE, create=True) == record

    async def test_thread_ids_are_unique(self, start: Start) -> None:
        desk = await start()
        records = [await desk.store.thread(at(f"c{n}"), create=True) for n in range(50)]

        assert len({record.thread_id for record in records if record}) == 50

    async def test_metadata_is_merged_and_null_removes(self, start: Start) -> None:
        desk = await start()
        await desk.store.thread(HERE, create=True)
        await desk.store.update(HERE, {"metadata": {"a": "1", "b": "2"}})

        record = await desk.store.update(HERE, {"metadata": {"b": None, "c": "3"}})

        assert dict(record.metadata) == {"a": "1", "c": "3"}
        assert await desk.store.thread(HERE) == record

    async def test_assistant_and_options_are_replaced(self, start: Start) -> None:
        desk = await start()
        await desk.store.thread(HERE, create=True)
        await desk.store.update(HERE, {"assistant": "asst_1", "options": ThreadOptions(window=3.0, on_busy="queue")})

        record = await desk.store.update(HERE, {"options": {"max_wait": 9.0}})

        assert (record.assistant, record.options) == ("asst_1", ThreadOptions(max_wait=9.0))
        assert (await desk.store.update(HERE, {"assistant": None})).assistant is None

    async def test_an_update_of_something_else_is_refused(self, start: Start) -> None:
        desk = await start()
        await desk.store.thread(HERE, create=True)
        before = await desk.dump()

        with pytest.raises(InvalidMessage):
            await desk.store.update(HERE, {"metadata": {"a": "1"}, "turns": 5})
        with pytest.raises(ThreadNotFound):
            await desk.store.update(at("unknown"), {"metadata": {"a": "1"}})

        assert await desk.dump() == before

    async def test_an_idle_thread_expires(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, expiry=1000.0))
        await desk.commit(await desk.lease("m1"))
        first = await desk.thread()
        assert first.expires_at == desk.now + 1000.0
        await desk.wait(999.0)
        assert (await desk.store.counts()).threads == 1
        await desk.wait(1.0)

        assert (await desk.store.counts()).threads == 0
        assert await desk.store.thread(HERE) is None
        assert await desk.store.message(HERE, "m1") is None
        assert [record async for record in desk.store.scan()] == []
        receipt = await desk.say("m2")
        assert receipt.thread_id != first.thread_id
        assert await desk.transcript() == []

    @pytest.mark.parametrize("state", [state for state in STATES if state != "idle"])
    async def test_a_thread_with_open_messages_never_expires(self, start: Start, state: str) -> None:
        desk = await start(Policy(window=2.0, expiry=1000.0))
        await desk.bring(state)
        await desk.wait(100_000.0)
        await desk.store.expire()

        assert await desk.waiting_ids() == ["old"]
        assert (await desk.store.counts()).threads == 1

    async def test_a_thread_with_delayed_messages_never_expires(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, expiry=1000.0))
        await desk.say("later", not_before=desk.now + 50_000)
        await desk.wait(49_999)
        await desk.store.expire()
        await desk.wait(1 + 2)

        assert (await desk.claim()).message_ids == ("later",)

    async def test_reading_slides_the_expiry(self, start: Start) -> None:
        desk = await start(Policy(expiry=1000.0))
        await desk.store.thread(HERE, create=True)
        for _ in range(3):
            await desk.wait(900.0)
            assert await desk.store.thread(HERE) is not None
        await desk.wait(900.0)
        await desk.store.history(HERE)
        await desk.wait(999.0)
        assert (await desk.thread()).expires_at == desk.now + 1000.0

    async def test_reading_slides_the_expiry_in_steps_of_one_percent(self, start: Start) -> None:
        desk = await start(Policy(expiry=1000.0))
        await desk.store.thread(HERE, create=True)
        await desk.wait(9.75)
        assert (await desk.thread()).active_at == desk.now - 9.75
        await desk.wait(0.25)
        assert (await desk.thread()).active_at == desk.now

    async def test_looking_from_far_slides_nothing(self, start: Start) -> None:
        desk = await start(Policy(expiry=1000.0))
        await desk.store.thread(HERE, create=True)
        await desk.wait(999.0)
        await desk.store.counts()
        await desk.store.stats()
        await desk.store.read(HERE)
        await desk.store.message(HERE, "m1")
        assert [record.active_at async for record in desk.store.scan()] == [desk.now - 999.0]
        await desk.wait(1.0)

        assert await desk.store.thread(HERE) is None

    async def test_writing_slides_the_expiry(self, start: Start) -> None:
        desk = await start(Policy(expiry=1000.0))
        await desk.store.thread(HERE, create=True)
        writes: list[Callable[[], Awaitable[Any]]] = [
            lambda: desk.store.update(HERE, {"metadata": {"a": "1"}}),
            lambda: desk.store.append(HERE, spoken("a")),
            lambda: desk.store.pause(HERE),
            lambda: desk.store.resume(HERE),
            lambda: desk.store.compact(HERE, through_turn=0, summary="s"),
        ]
        for write in writes:
            await desk.wait(999.0)
            await write()
            [record] = [record async for record in desk.store.scan()]
            assert record.active_at == desk.now

    async def test_a_thread_may_live_longer_than_its_queue_says_and_is_never_shortened(self, start: Start) -> None:
        desk = await start(Policy(expiry=1000.0))
        await desk.store.thread(HERE, create=True)

        assert (await desk.store.update(HERE, {"ttl": 5000.0})).expires_at == desk.now + 5000.0
        assert (await desk.store.update(HERE, {"ttl": 2000.0})).expires_at == desk.now + 5000.0
        await desk.wait(4999.0)
        assert await desk.store.thread(HERE) is not None

    async def test_the_first_to_say_may_let_a_thread_live_shorter(self, start: Start) -> None:
        desk = await start(Policy(expiry=1000.0))
        await desk.store.thread(HERE, create=True)

        assert (await desk.store.update(HERE, {"ttl": 10.0})).expires_at == desk.now + 10.0
        await desk.wait(10.0)

        assert await desk.store.thread(HERE) is None

    async def test_expire_deletes_what_is_over_and_says_how_many(self, start: Start) -> None:
        policies = Policies(Policy(expiry=1000.0), {"long": Policy(expiry=5000.0)})
        desk = await start(policies=policies)
        for n in range(7):
            await desk.store.thread(at(f"c{n}"), create=True)
        await desk.store.thread(at(queue="long"), create=True)
        await desk.wait(500.0)
        await desk.store.thread(at("young"), create=True)
        await desk.wait(500.0)

        gone = [await desk.store.expire(limit=3) for _ in range(4)]

        assert sum(gone) == 7
        assert gone[-1] == 0
        assert {record.address async for record in desk.store.scan()} == {at(queue="long"), at("young")}

    # ---------------------------------------------------------------- transcript

    async def test_every_item_comes_back_as_it_was(self, start: Start) -> None:
        desk = await start()
        await desk.store.append(HERE, [TranscriptEntry(item, tokens=n) for n, item in enumerate(EVERY_ITEM)])

        history = await desk.store.history(HERE)

        assert [entry.item for entry in history.entries] == EVERY_ITEM
        assert [entry.tokens for entry in history.entries] == list(range(len(EVERY_ITEM)))
        assert history.complete

    async def test_history_gives_the_newest_whole_turns(self, start: Start) -> None:
        desk = await start()
        for turn in range(1, 5):
            await desk.store.append(HERE, spoken(f"q{turn}", f"a{turn}", tokens=10))

        assert await ids_of(desk) == [1, 1, 2, 2, 3, 3, 4, 4]
        assert await ids_of(desk, tokens=40) == [3, 3, 4, 4]
        assert await ids_of(desk, tokens=59) == [3, 3, 4, 4]
        assert await ids_of(desk, items=3) == [4, 4]
        assert await ids_of(desk, items=6, tokens=20) == [4, 4]
        assert await ids_of(desk, tokens=19) == []
        assert await ids_of(desk, items=0) == []
        assert await ids_of(desk, before_turn=3) == [1, 1, 2, 2]
        assert await ids_of(desk, before_turn=3, items=2) == [2, 2]
        assert await ids_of(desk, before_turn=1) == []

    async def test_history_says_whether_something_older_was_left_out(self, start: Start) -> None:
        desk = await start()
        for turn in range(1, 4):
            await desk.store.append(HERE, spoken(f"q{turn}"))

        assert (await desk.store.history(HERE)).complete
        assert (await desk.store.history(HERE, items=3)).complete
        assert not (await desk.store.history(HERE, items=2)).complete
        assert not (await desk.store.history(HERE, tokens=0)).complete
        assert (await desk.store.history(HERE, before_turn=2)).complete

    async def test_a_transcript_is_bounded_by_items_in_whole_turns(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, history_items=5))
        for turn in range(1, 6):
            await desk.store.append(HERE, spoken(f"q{turn}", f"a{turn}"))

        assert await ids_of(desk) == [4, 4, 5, 5]
        assert (await desk.thread()).items == 4
        assert (await desk.thread()).turns == 5

    async def test_a_transcript_is_bounded_by_bytes_in_whole_turns(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, history_bytes=5_000))
        for turn in range(1, 8):
            await desk.store.append(HERE, spoken(f"q{turn}", "x" * 1_000))

        turns = await ids_of(desk)

        assert 3 <= len(set(turns)) <= 4
        assert turns[-1] == 7
        assert len(turns) == 2 * len(set(turns))
        assert (await desk.thread()).bytes <= 5_000

    async def test_the_last_turn_is_never_cut(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, history_items=2, history_bytes=100))
        await desk.store.append(HERE, spoken("q1", "a1"))

        await desk.store.append(HERE, spoken("q2", *(f"a{n}" * 50 for n in range(5))))

        assert await ids_of(desk) == [2] * 6

    @pytest.mark.parametrize("loss", LOSSES)
    async def test_a_lost_claim_reads_nothing_of_the_past(self, start: Start, loss: str) -> None:
        """It would take the answer to its own batch for the past, and give the model that batch twice."""
        desk = await start()
        await desk.commit(await desk.lease("m0"))
        claim = await desk.lease("m1")
        assert await desk.store.history(HERE, claim=claim) == await desk.store.history(HERE)

        await LOSSES[loss](desk, claim)

        with pytest.raises(LeaseLost):
            await desk.store.history(HERE, claim=claim)
        await desk.store.history(HERE)  # whoever has no claim may ask

    async def test_a_run_that_is_being_stopped_reads_the_past(self, start: Start) -> None:
        desk = await start()
        await desk.commit(await desk.lease("m0"))
        claim = await desk.lease("m1")
        await desk.store.cancel(HERE)

        assert await desk.store.history(HERE, claim=claim) == await desk.store.history(HERE)

    async def test_a_commit_bounds_the_transcript_too(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, history_items=4))
        for n in range(4):
            await desk.commit(await desk.lease(f"m{n}"))

        assert await ids_of(desk) == [3, 3, 4, 4]

    async def test_the_next_claim_names_the_history_that_a_commit_left(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, history_items=4))
        for n in range(4):
            claim = await desk.lease(f"m{n}")
            first, again = await desk.commit(claim), await desk.commit(claim)
            await desk.wait(1)
            following = await desk.lease(f"n{n}")
            await desk.store.release(following)
            await desk.store.withdraw(HERE, f"n{n}")

            assert first.transcript == again.transcript == following.transcript
            assert following.items == min(2 * n + 2, 4)

    @pytest.mark.parametrize("change", TRANSCRIPT_CHANGES)
    async def test_a_claim_tells_that_the_transcript_was_changed(self, start: Start, change: str) -> None:
        """Also where the clock stands still, nothing is removed, or as much is added as was removed."""
        desk = await start()
        for n in range(3):
            await desk.commit(await desk.lease(f"m{n}"))
        left = await desk.commit(await desk.lease("before"))

        await TRANSCRIPT_CHANGES[change](desk)
        claim = await (desk.claim() if change == "regenerate" else desk.lease("after"))

        assert claim.transcript != left.transcript
        assert claim.items == len(await desk.transcript())

    async def test_a_commit_may_add_nothing(self, start: Start) -> None:
        desk = await start()
        await desk.store.commit(await desk.lease("m1"), Commit("cancelled", "", ()))

        record = await desk.thread()
        assert (record.turns, record.items) == (1, 0)

    @pytest.mark.parametrize("state", BUSY)
    async def test_the_transcript_changes_only_between_turns(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.store.append(HERE, spoken("q", "a"))
        await desk.bring(state)
        before = await desk.dump(ids=["old"])

        with pytest.raises(ThreadBusy):
            await desk.store.append(HERE, spoken("more"))
        with pytest.raises(ThreadBusy):
            await desk.store.regenerate(HERE)

        assert await desk.dump(ids=["old"]) == before

    @pytest.mark.parametrize("state", ["idle", "waiting"])
    async def test_an_append_changes_no_window(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.bring(state)
        due = (await desk.thread()).due

        await desk.store.append(HERE, spoken("q", "a"))

        record = await desk.thread()
        assert (record.state, record.due, record.items) == (state, due, 2)

    async def test_an_append_creates_the_thread(self, start: Start) -> None:
        desk = await start()

        await desk.store.append(HERE, [TranscriptEntry(SystemItem("rules"))])

        assert await desk.transcript() == [SystemItem("rules")]

    async def test_what_somebody_else_says_is_announced(self, start: Start) -> None:
        desk = await start()
        await desk.store.append(
            HERE, [TranscriptEntry(SystemItem("note")), TranscriptEntry(AssistantItem("hello"))], author="ann"
        )
        await desk.store.append(HERE, [TranscriptEntry(AssistantItem("quiet"))])

        [event] = await desk.events()

        assert (event.kind, event.text, event.author) == ("said", "hello", "ann")

    async def test_an_append_under_one_name_happens_once(self, start: Start) -> None:
        desk = await start()
        await desk.store.append(HERE, spoken("q", "a"), author="ann", once="k1")
        before = await desk.dump()

        await desk.store.append(HERE, spoken("q", "a"), author="ann", once="k1")
        assert await desk.dump() == before

        await desk.store.append(HERE, spoken("q", "a"), once="k2")
        await desk.store.append(HERE, spoken("q", "a"))
        assert len(await desk.transcript()) == 6

    async def test_an_append_under_one_name_can_be_repeated_while_a_run_has_begun(self, start: Start) -> None:
        desk = await start()
        await desk.store.append(HERE, spoken("q", "a"), once="k1")
        await desk.bring("leased")

        await desk.store.append(HERE, spoken("q", "a"), once="k1")

        assert len(await desk.transcript()) == 2

    async def test_the_last_turn_of_a_user_is_answered_again_in_its_place(self, start: Start) -> None:
        desk = await start()
        await desk.commit(await desk.lease("m1"))
        wishes: dict[str, Any] = {"instructions": "in French", "assistant_instructions": "Rhyme.", "model": "m-2"}
        wishes["parameters"] = {"n": []}
        second = await desk.lease("m2", "m3", metadata={"user": "u1"}, **wishes)
        asked = [TranscriptEntry(user_item(message)) for message in second.messages]
        await desk.store.commit(second, Commit("completed", "a", [*asked, TranscriptEntry(AssistantItem("a"))]))
        await desk.store.append(HERE, [TranscriptEntry(AssistantItem("by the way"))])

        receipts = await desk.store.regenerate(HERE)

        claim = await desk.claim()
        assert [m.text for m in claim.messages] == ["text of m2", "text of m3"]
        assert claim.message_ids == tuple(receipt.message_id for receipt in receipts)
        told = {(m.instructions, m.assistant_instructions, m.metadata["user"]) for m in claim.messages}
        assert told == {("in French", "Rhyme.", "u1")}
        assert [(m.model, m.parameters) for m in claim.messages] == [("m-2", {"n": []})] * len(claim.messages)
        assert [receipt.due_in for receipt in receipts] == [0.0, 0.0]
        assert await desk.transcript() == [UserItem(text("text of m1"), "m1"), AssistantItem("answer")]
        await desk.commit(claim, "another")
        record = await desk.thread()
        assert (record.items, record.turns, record.messages) == (5, 4, 5)
        assert await ids_of(desk) == [1, 1, 4, 4, 4]

    async def test_nothing_is_answered_again_without_a_user(self, start: Start) -> None:
        desk = await start()
        with pytest.raises(ThreadNotFound):
            await desk.store.regenerate(HERE)
        await desk.store.append(HERE, [TranscriptEntry(AssistantItem("hello"))])
        before = await desk.dump()

        with pytest.raises(NotFound):
            await desk.store.regenerate(HERE)

        assert await desk.dump() == before

    async def test_nothing_is_answered_again_before_messages_that_wait(self, start: Start) -> None:
        desk = await start()
        await desk.commit(await desk.lease("m1"))
        await desk.say("m2", not_before=desk.now + 50.0)
        await desk.say("m3")
        before = await desk.dump(ids=["m1", "m2", "m3"])

        with pytest.raises(ThreadBusy):
            await desk.store.regenerate(HERE)

        assert await desk.dump(ids=["m1", "m2", "m3"]) == before

    async def test_a_turn_for_which_there_is_no_room_stays(self, start: Start) -> None:
        desk = await start(Policy(max_inbox=2))
        await desk.commit(await desk.lease("m1", "m2"))
        await desk.say("m3", not_before=desk.now + 50.0)
        before = await desk.dump()

        with pytest.raises(InboxFull):
            await desk.store.regenerate(HERE)

        assert await desk.dump() == before

    async def test_a_summary_stands_for_older_turns(self, start: Start) -> None:
        desk = await start()
        for turn in range(1, 5):
            await desk.store.append(HERE, spoken(f"q{turn}", f"a{turn}"))

        await desk.store.compact(HERE, through_turn=2, summary="they talked")
        await desk.store.compact(HERE, through_turn=2, summary="they talked")

        history = await desk.store.history(HERE)
        assert [entry.turn for entry in history.entries] == [3, 3, 4, 4]
        assert history.summary == "they talked"
        record = await desk.thread()
        assert (record.summary, record.items, record.turns) == ("they talked", 4, 4)
        with pytest.raises(ThreadNotFound):
            await desk.store.compact(at("unknown"), through_turn=1, summary="")

    # ---------------------------------------------------------------- many threads

    async def test_a_scan_gives_each_thread_once(self, start: Start) -> None:
        desk = await start()
        places = {at(f"c{n}", queue, tenant) for n in range(12) for queue in ("q1", "q2") for tenant in ("t1", "t2")}
        for where in places:
            await desk.say("m1", where=where)

        async def scan(**chosen: Any) -> list[Any]:
            return [record.address async for record in desk.store.scan(**chosen)]

        found = await scan()
        assert (set(found), len(found)) == (places, 48)
        assert set(await scan(tenant="t1")) == {where for where in places if where.tenant == "t1"}
        assert set(await scan(queue="q2")) == {where for where in places if where.queue == "q2"}
        assert len(await scan(tenant="t2", queue="q1")) == 12

    async def test_a_search_gives_the_threads_by_activity_newest_first_in_pages(self, start: Start) -> None:
        desk = await start()
        for channel in ("a", "b", "c"):
            await desk.say("m1", where=at(channel))
            await desk.wait(1)
        await desk.say("m2", where=at("a"))
        await desk.say("m1", where=at("a", tenant="other"))

        async def page(**chosen: Any) -> list[ThreadRecord]:
            return await desk.store.search(ThreadSearch(tenant=TENANT, queue=QUEUE, **chosen))

        everything = await page()
        assert [record.address.channel for record in everything] == ["a", "c", "b"]
        first = await page(limit=2)
        last = first[-1]
        rest = await page(limit=2, before=(last.active_at, last.thread_id))
        assert [*first, *rest] == everything
        assert await page(before=(rest[-1].active_at, rest[-1].thread_id)) == []
        assert len(await desk.store.search(ThreadSearch())) == 4

    async def test_a_search_goes_on_behind_any_moment(self, start: Start) -> None:
        """A cursor comes from outside: whoever makes one up gets a page, and no error."""
        desk = await start()
        await desk.say("m1", where=at("a"))
        for moment, count in ((1e308, 1), (1e20, 1), (2.0**63, 1), (0.5, 0), (-0.5, 0), (-1e20, 0), (-1e308, 0)):
            page = await desk.store.search(ThreadSearch(TENANT, QUEUE, before=(moment, "thread_x")))
            assert len(page) == count, moment

    async def test_threads_of_one_moment_are_each_on_one_page(self, start: Start) -> None:
        desk = await start()
        for n in range(7):
            await desk.say("m1", where=at(f"c{n}"))
        seen: list[str] = []
        before = None
        while page := await desk.store.search(ThreadSearch(TENANT, QUEUE, before=before, limit=3)):
            seen += [record.address.channel for record in page]
            before = (page[-1].active_at, page[-1].thread_id)

        assert sorted(seen) == [f"c{n}" for n in range(7)]

    async def test_threads_come_by_activity_whatever_was_done_to_them(self, start: Start) -> None:
        desk = await start()
        source = random.Random(19)
        channels = [f"{state}-{n}" for state in ("idle", "leased", "held", "waiting") for n in range(3)]
        for place in channels:
            await desk.bring(place.partition("-")[0], at(place))
            await desk.wait(source.choice((0, 0.4, 3)))
        acts = (
            desk.store.pause,
            desk.store.resume,
            lambda where: desk.store.update(where, {"metadata": {"a": "b"}}),
            lambda where: desk.store.append(where, spoken("assistant", "x"), author="ann"),
            lambda where: desk.store.forget(where, force=True),
            lambda where: desk.say(f"m{source.random()}", where=where),
        )
        for _ in range(24):
            with suppress(ThreadBusy, ThreadNotFound):
                await source.choice(acts)(at(source.choice(channels)))
            await desk.wait(source.choice((0, 0.4, 61)))

        everything = [record async for record in desk.store.scan(tenant=TENANT, queue=QUEUE)]
        everything.sort(key=lambda record: (record.active_at, record.thread_id), reverse=True)
        listed: list[ThreadRecord] = []
        before = None
        while page := await desk.store.search(ThreadSearch(TENANT, QUEUE, before=before, limit=4)):
            listed += page
            before = (page[-1].active_at, page[-1].thread_id)
        assert listed == everything
        assert len(listed) > 4  # more than a page

    async def test_a_search_finds_by_state_channel_and_metadata(self, start: Start) -> None:
        desk = await start()
        await desk.bring("held", at("held"))
        await desk.bring("idle", at("Paris-1"))
        await desk.bring("waiting", at("w"))
        await desk.store.update(at("w"), {"metadata": {"title": "A trip to paris"}})
        await desk.store.pause(at("stopped"))

        async def found(**chosen: Any) -> set[str]:
            records = await desk.store.search(ThreadSearch(TENANT, QUEUE, **chosen))
            return {record.address.channel for record in records}

        assert await found(place="held") == {"held"}
        assert await found(place="paused") == {"stopped"}
        assert await found(place="idle") == {"Paris-1"}
        assert await found(place="leased") == set()
        assert "Paris-1" in await found(text="PARIS")
        await desk.store.update(at("w"), {"metadata": {"title": 'A "trip" to Ärzte'}})
        shown = set() if isinstance(desk.store, SealedStore) else {"w"}
        assert [await found(text=text) for text in ('"TRIP"', "ärzte", "Ärz", "to ")] == [shown] * 4
        assert await found(text="nowhere") == set()

    async def test_what_was_said_is_found_newest_first_with_the_words_around_it(self, start: Start) -> None:
        desk = await start()
        if isinstance(desk.store, SealedStore):  # which shows its engine nothing to search in
            with pytest.raises(WrongState):
                await desk.store.find_passages(TextSearch("paris"))
            return
        long_words = "Rome\n" + "x" * 300 + " Paris " + "y" * 300
        for channel, words in (("a", 'We met in "PARIS".'), ("b", long_words), ("c", "Oslo")):
            claim = await desk.lease("m1", where=at(channel))
            await desk.commit(claim, words)
            await desk.wait(1)
        await desk.store.append(at("a", tenant="other"), spoken("user", "Paris"))

        async def found(text: str, **chosen: Any) -> list[tuple[str, str]]:
            passages = await desk.store.find_passages(TextSearch(text, TENANT, QUEUE, **chosen))
            return [(passage.address.channel, passage.kind) for passage in passages]

        assert await found("paris") == [("b", "assistant"), ("a", "assistant")]
        assert await found("paris", limit=1) == [("b", "assistant")]
        assert await found("text of m1") == [("c", "user"), ("b", "user"), ("a", "user")]
        assert await found('"paris"') == [("a", "assistant")]
        assert await found("model-1") == await found("kind") == []
        [passage, _] = await desk.store.find_passages(TextSearch("paris", TENANT, QUEUE))
        assert passage.excerpt == "…" + "x" * 79 + " Paris " + "y" * 79 + "…"
        await desk.store.forget(at("b"))
        assert await found("paris") == [("a", "assistant")]

    async def test_a_search_keeps_no_thread_alive_and_finds_none_that_is_over(self, start: Start) -> None:
        desk = await start(Policy(expiry=100.0))
        await desk.bring("idle", at("c"))
        await desk.wait(60)
        assert len(await desk.store.search(ThreadSearch())) == 1
        await desk.wait(60)
        assert await desk.store.search(ThreadSearch()) == []

    async def test_a_scan_finds_threads_that_nobody_used_for_some_time(self, start: Start) -> None:
        desk = await start()
        await desk.store.thread(at("old"), create=True)
        await desk.wait(100)
        await desk.store.thread(at("new"), create=True)
        await desk.wait(50)

        async def idle_for(seconds: float) -> set[str]:
            return {record.address.channel async for record in desk.store.scan(idle_for=seconds)}

        assert await idle_for(0) == {"old", "new"}
        assert await idle_for(50) == {"old", "new"}
        assert await idle_for(50.25) == {"old"}
        assert await idle_for(151) == set()

    async def test_a_clock_that_was_set_back_hides_no_thread(self, start: Start) -> None:
        desk = await start()
        await desk.store.thread(at("c"), create=True)
        desk.clock.advance(-50)

        assert [record.address.channel async for record in desk.store.scan()] == ["c"]

    async def test_a_scan_tells_what_reading_the_thread_tells(self, start: Start) -> None:
        desk = await start()
        for state in STATES:
            await desk.bring(state, at(state))

        async for record in desk.store.scan():
            assert record == await desk.store.thread(record.address)

    async def test_threads_may_be_deleted_during_a_scan(self, start: Start) -> None:
        desk = await start()
        for n in range(30):
            await desk.store.thread(at(f"c{n}"), create=True)

        seen = set()
        async for record in desk.store.scan():
            seen.add(record.address)
            await desk.store.forget(record.address)

        assert len(seen) == 30
        assert (await desk.store.counts()).threads == 0

    async def test_stats_add_up(self, start: Start) -> None:
        desk = await start()
        await desk.commit(await desk.lease("m1", where=at("old")))
        await desk.wait(40 * DAY)
        await desk.commit(await desk.lease("m1", where=at("week")))
        await desk.wait(5 * DAY)
        await desk.commit(await desk.lease("m1", where=at("day")))
        await desk.wait(12 * HOUR)
        await desk.commit(await desk.lease("m1", where=at("now", tenant="t2")))
        await desk.say("m2", where=at("now", tenant="t2"))

        stats = await desk.store.stats()

        assert (stats.threads, stats.messages, stats.turns) == (4, 5, 4)
        assert dict(stats.ages) == {"1h": 1, "1d": 1, "7d": 1, "30d": 0, "older": 1}
        assert (stats.oldest, stats.newest) == (desk.now - 45.5 * DAY, desk.now)
        assert stats.storage >= 0
        assert (await desk.store.stats(tenant="t2")).threads == 1
        assert (await desk.store.stats(queue="none")).threads == 0
        assert (await desk.store.stats(queue="none")).oldest is None

    async def test_a_thread_is_forgotten_with_everything_of_it(self, start: Start) -> None:
        desk = await start()
        await desk.commit(await desk.lease("m1"))
        await desk.store.fail(await desk.lease("m2"), give_up())
        thread_id = (await desk.thread()).thread_id

        assert await desk.store.forget(HERE)
        assert not await desk.store.forget(HERE)

        assert await desk.store.thread(HERE) is None
        assert await desk.store.thread(at(thread_id)) is None
        assert await desk.store.message(HERE, "m1") is None
        assert await desk.store.runs(HERE) == []
        assert await desk.transcript() == []
        assert await desk.events() == []
        assert await desk.store.dead() == []
        assert (await desk.store.counts()).threads == 0

    async def test_a_thread_is_forgotten_by_its_id(self, start: Start) -> None:
        desk = await start()
        await desk.commit(await desk.lease("m1"))

        assert await desk.store.forget(at((await desk.thread()).thread_id))

        assert await desk.store.thread(HERE) is None

    @pytest.mark.parametrize("state", [*(state for state in STATES if state != "idle"), "delayed"])
    async def test_a_thread_with_open_messages_is_forgotten_by_force_only(self, start: Start, state: str) -> None:
        desk = await start()
        if state == "delayed":
            await desk.say("old", not_before=desk.now + 10)
        else:
            await desk.bring(state)
        before = await desk.dump(ids=["old"])
        with pytest.raises(ThreadBusy):
            await desk.store.forget(HERE)
        assert await desk.dump(ids=["old"]) == before

        assert await desk.store.forget(HERE, force=True)

        await desk.wait(10_000)
        assert await desk.claims() == []
        counts = await desk.store.counts()
        assert (counts.threads, counts.open_messages, counts.active, counts.waiting) == (0, 0, 0, 0)

    async def test_forgetting_leaves_the_neighbours(self, start: Start) -> None:
        desk = await start()
        neighbours = [at("c2"), at(tenant="t2"), at(queue="q2"), at("c:"), at("")]
        for where in [HERE, *neighbours]:
            await desk.commit(await desk.lease("m1", where=where))
        before = [await desk.dump(where, ids=["m1"]) for where in neighbours]

        await desk.store.forget(HERE)

        after = [await desk.dump(where, ids=["m1"]) for where in neighbours]
        for one, other in zip(before, after, strict=True):
            assert one.pop("counts") != other.pop("counts")
            assert one == other

    async def test_threads_are_counted_by_what_they_wait_for(self, start: Start) -> None:
        desk = await start()
        for state in ("idle", "leased", "retry", "dissolved", "held"):
            await desk.bring(state, at(state))
        await desk.say("m1", where=at("ready"), flush=True)
        await desk.say("m1", where=at("window"))
        await desk.say("m1", where=at("later"), not_before=desk.now + 10)
        await desk.say("m1", where=at("paused"))
        await desk.store.pause(at("paused"))

        counts = await desk.store.counts()
        assert (counts.active, counts.waiting, counts.delayed, counts.held, counts.paused) == (1, 1, 4, 1, 1)
        assert (counts.threads, counts.open_messages) == (9, 8)

        await desk.wait(10)
        counts = await desk.store.counts()
        assert (counts.active, counts.waiting, counts.delayed, counts.held, counts.paused) == (1, 3, 2, 1, 1)

    async def test_the_age_of_the_oldest_that_waits_is_told(self, start: Start) -> None:
        desk = await start()
        assert (await desk.store.counts()).oldest_wait == 0
        await desk.say("m1", where=at("first"), flush=True)
        await desk.wait(7.5)
        await desk.say("m1", where=at("second", "q2"), flush=True)
        await desk.say("m1", where=at("later", "q2"), not_before=desk.now + 100)
        await desk.wait(20)

        assert (await desk.store.counts()).oldest_wait == 27
        assert (await desk.store.counts(queue="q2")).oldest_wait == 20
        assert (await desk.store.counts(tenant="nobody")).oldest_wait == 0
        await desk.claims()
        assert (await desk.store.counts()).oldest_wait == 0, "who is being answered waits no more"

    async def test_counts_are_told_by_tenant_and_queue(self, start: Start) -> None:
        desk = await start()
        for tenant in ("t1", "t2"):
            for queue in ("q1", "q2"):
                await desk.commit(await desk.lease("m1", where=at("c", queue, tenant)))
                await desk.say("m2", where=at("c", queue, tenant))
        await desk.store.fail(await desk.lease(where=at("c", "q1", "t1")), give_up())

        one = await desk.store.counts(tenant="t1", queue="q1")
        half = await desk.store.counts(tenant="t1")
        everything = await desk.store.counts()

        assert (one.threads, one.completed, one.failed, one.dead_letters, one.open_messages) == (1, 1, 1, 1, 0)
        assert (half.threads, half.completed, half.failed, half.delayed, half.open_messages) == (2, 2, 1, 1, 1)
        assert (everything.threads, everything.completed, everything.delayed) == (4, 4, 3)
