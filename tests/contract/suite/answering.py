"""A person answers what waits, in the place of a model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.contract.suite.desk import HERE, LEASE, POLICY, WINDOW, Desk, Start
from turnkeep.errors import Conflict, LeaseLost, ThreadBusy
from turnkeep.messages import AssistantItem, UserItem, text_content
from turnkeep.store.inbox_view import InboxView
from turnkeep.store.values import TranscriptEntry
from turnkeep.usage import Usage

WORDS = [TranscriptEntry(AssistantItem("I am here", author="ann"), 3)]


async def seen(desk: Desk) -> InboxView:
    """What waits, as a person reads it."""
    record = await desk.thread()
    waiting = [one.message for one in await desk.store.open_messages(HERE) if one.status == "waiting"]
    items = [UserItem(message.content, message.message_id) for message in waiting if message is not None]
    return InboxView(tuple(TranscriptEntry(item, 1) for item in items), record.top, record.thread_id)


async def answer(desk: Desk, view: InboxView, *, once: str | None = None) -> None:
    await desk.store.append(HERE, WORDS, author="ann", inbox=view, once=once)


class AnswerPromises:
    @pytest.mark.parametrize("paused", [False, True])
    async def test_what_waits_is_answered_by_a_person_as_one_turn(self, start: Start, paused: bool) -> None:
        desk = await start()
        if paused:
            await desk.store.pause(HERE)
        await desk.say("m1")
        await desk.say("m2")

        await answer(desk, await seen(desk))

        said = [item.text if isinstance(item, AssistantItem) else item.message_id for item in await desk.transcript()]  # type: ignore[union-attr]
        assert said == ["m1", "m2", "I am here"]
        record = await desk.thread()
        assert (record.state, record.paused, record.open_messages, record.turns) == ("idle", paused, 0, 1)
        for message_id in ("m1", "m2"):
            message = await desk.store.message(HERE, message_id)
            assert message is not None
            assert (message.status, message.covers) == ("answered", ("m1", "m2"))
        [run] = await desk.store.runs(HERE)
        assert (run.status, run.message_ids, run.model, run.usage) == ("completed", ("m1", "m2"), None, Usage())
        started, completed = (await desk.events())[-2:]
        assert (started.kind, started.message_ids, started.run_id) == ("started", ("m1", "m2"), run.run_id)
        assert (completed.kind, completed.text, completed.author) == ("completed", "I am here", "ann")
        assert (completed.message_ids, completed.run_id, completed.outcome) == (("m1", "m2"), run.run_id, "completed")
        assert (await desk.store.counts()).completed == 2
        await desk.store.resume(HERE)
        assert not await desk.is_claimable()

    async def test_what_comes_after_the_answer_is_answered_as_ever(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        await answer(desk, await seen(desk))

        await desk.say("m2")
        await desk.wait(WINDOW)

        assert [message.message_id for message in (await desk.claim()).messages] == ["m2"]

    async def test_a_message_for_a_later_time_waits_on(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        await desk.say("later", not_before=desk.now + 60)

        await answer(desk, await seen(desk))

        assert [one.message_id for one in await desk.store.open_messages(HERE)] == ["later"]
        await desk.wait(60 + WINDOW)
        assert [message.message_id for message in (await desk.claim()).messages] == ["later"]

    async def test_a_message_whose_time_comes_meanwhile_is_not_taken_for_answered(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", window=60.0, max_wait=60.0)
        await desk.say("later", not_before=desk.now + 5)
        view = await seen(desk)
        await desk.wait(6)

        await answer(desk, view)

        assert [one.message_id for one in await desk.store.open_messages(HERE)] == ["later"]
        assert (await desk.thread()).state == "waiting"

    @pytest.mark.parametrize("change", ["accept", "edit", "withdraw", "answer", "forget"])
    async def test_an_answer_to_what_has_changed_since_is_refused(self, start: Start, change: str) -> None:
        desk = await start()
        await desk.say("m1")
        await desk.say("m2")
        view = await seen(desk)
        if change == "accept":
            await desk.say("m3")
        elif change == "edit":
            await desk.store.edit(HERE, "m1", text_content("another question"))
        elif change == "withdraw":
            await desk.store.withdraw(HERE, "m1")
        elif change == "forget":
            await desk.store.forget(HERE, force=True)
            await desk.say("m3")
            await desk.say("m4")
            assert (await desk.thread()).top == view.top
        else:
            await answer(desk, view)
        before = await desk.dump(ids=["m1", "m2"])

        with pytest.raises(Conflict):
            await answer(desk, view)

        assert await desk.dump(ids=["m1", "m2"]) == before

    @pytest.mark.parametrize("state", ["leased", "retry", "held"])
    async def test_nobody_answers_over_a_run_in_progress(self, start: Start, state: str) -> None:
        desk = await start()
        await desk.bring(state)
        await desk.say("m2")
        view, before = await seen(desk), await desk.dump(ids=["old", "m2"])

        with pytest.raises(ThreadBusy):
            await answer(desk, view)

        assert await desk.dump(ids=["old", "m2"]) == before

    async def test_what_waits_for_a_provider_can_be_answered_and_is_paid_with_the_turn(self, start: Start) -> None:
        desk = await start()
        claim = await desk.bring("dissolved")
        assert claim is not None

        await answer(desk, await seen(desk))

        record = await desk.thread()
        assert (record.state, record.due, record.open_messages) == ("idle", None, 0)
        assert (await desk.store.runs(HERE))[0].run_id == claim.run_id
        assert (await desk.last_event()).attempt == claim.attempt + 1
        with pytest.raises(LeaseLost):
            await desk.commit(claim)
        await desk.wait(LEASE + 60)
        assert await desk.claims() == []

    async def test_an_answer_under_one_name_happens_once_whatever_waits_then(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1")
        await answer(desk, await seen(desk), once="k1")
        await desk.say("m2")
        before = await desk.dump(ids=["m1", "m2"])

        await answer(desk, await seen(desk), once="k1")
        await desk.store.append(HERE, WORDS, author="ann", once="k1")

        assert await desk.dump(ids=["m1", "m2"]) == before

    async def test_an_answer_is_of_all_that_waits_however_much(self, start: Start) -> None:
        desk = await start(replace(POLICY, max_batch=2))
        for n in range(5):
            await desk.say(f"m{n}", on_busy="queue")

        await answer(desk, await seen(desk))

        assert (await desk.thread()).open_messages == 0
        assert len((await desk.store.runs(HERE))[0].message_ids) == 5
