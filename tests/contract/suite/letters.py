"""Dead letters: listed, redriven, discarded."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.suite.desk import HERE, POLICY, QUEUE, TENANT, WINDOW, Desk, Start, at, give_up, said
from turnkeep.errors import MessageConflict, NotFound
from turnkeep.messages import text_content
from turnkeep.store.values import Policy


async def die(desk: Desk, *message_ids: str, where: tuple[str, str, str] = (TENANT, QUEUE, "c")) -> list[str]:
    """Let these messages die together; the ids of their letters."""
    tenant, queue, channel = where
    known = {letter.dead_id for letter in await desk.store.dead(limit=10_000)}
    claim = await desk.lease(*message_ids, where=at(channel, queue, tenant))
    await desk.store.fail(claim, give_up(effects=True))
    return [letter.dead_id for letter in await desk.store.dead(limit=10_000) if letter.dead_id not in known]


class LetterPromises:
    async def test_letters_are_listed_in_the_order_of_time_and_acceptance(self, start: Start) -> None:
        desk = await start()
        await die(desk, "m1", "m2", "m3")
        await desk.wait(1)
        await die(desk, "m4", where=("t", "q", "other"))
        await desk.wait(1)
        await die(desk, "m5")

        letters = await desk.store.dead()

        assert [letter.message.message_id for letter in letters] == ["m1", "m2", "m3", "m4", "m5"]
        assert [letter.dead_id for letter in letters] == sorted(letter.dead_id for letter in letters)

    async def test_letters_are_listed_in_pages(self, start: Start) -> None:
        desk = await start()
        for n in range(5):
            await die(desk, f"m{n}", where=("t", "q", f"c{n}"))
            await desk.wait(1)
        seen: list[str] = []
        after = ""
        while page := await desk.store.dead(after=after, limit=2):
            assert len(page) <= 2
            seen += [letter.message.message_id for letter in page]
            after = page[-1].dead_id

        assert seen == [f"m{n}" for n in range(5)]

    async def test_letters_are_listed_by_tenant_and_queue(self, start: Start) -> None:
        desk = await start()
        for tenant in ("t1", "t2"):
            for queue in ("q1", "q2"):
                await die(desk, f"{tenant}-{queue}", where=(tenant, queue, "c"))

        async def ids(**chosen: str) -> set[str]:
            return {letter.message.message_id for letter in await desk.store.dead(**chosen)}  # type: ignore[arg-type]

        assert await ids(tenant="t1") == {"t1-q1", "t1-q2"}
        assert await ids(queue="q2") == {"t1-q2", "t2-q2"}
        assert await ids(tenant="t2", queue="q1") == {"t2-q1"}
        assert await ids(tenant="t3") == set()
        assert len(await ids()) == 4

    async def test_letters_of_a_channel_are_listed_alone_and_by_its_thread_id_too(self, start: Start) -> None:
        desk = await start()
        for n, channel in enumerate(("c", "c2", "c", "c\0x")):
            await die(desk, f"m{n}", where=("t", "q", channel))
            await desk.wait(1)
        await die(desk, "m9", where=("t", "q2", "c"))
        thread_id = (await desk.thread(HERE)).thread_id

        async def ids(channel: str, **chosen: Any) -> list[str]:
            letters = await desk.store.dead(tenant="t", queue="q", channel=channel, **chosen)
            return [letter.message.message_id for letter in letters]

        assert await ids("c") == await ids(thread_id) == ["m0", "m2"]
        assert await ids("c", limit=1) == ["m0"]
        [first, _] = await desk.store.dead(tenant="t", queue="q", channel="c")
        assert await ids("c", after=first.dead_id) == ["m2"]
        assert await ids("unknown") == []

    async def test_a_letter_is_found_by_its_id(self, start: Start) -> None:
        desk = await start()
        [dead_id] = await die(desk, "m1")

        letter = await desk.store.dead_letter(dead_id)

        assert [letter] == await desk.store.dead()
        assert await desk.store.dead_letter("dead_0000000000000_unknown") is None

    async def test_a_redriven_message_waits_again_at_the_end(self, start: Start) -> None:
        desk = await start()
        [dead_id] = await die(desk, "m1")
        await desk.say("m2")
        await desk.wait(1)

        receipt = await desk.store.redrive(dead_id)

        assert (receipt.message_id, receipt.channel, receipt.position, receipt.repeated) == ("m1", "c", 2, False)
        assert await desk.waiting_ids() == ["m2", "m1"]
        assert await desk.status("m1") == "waiting"
        assert await desk.store.dead() == []
        assert await desk.due_in() == WINDOW
        await desk.wait(WINDOW)
        claim = await desk.claim()
        assert (claim.message_ids, claim.attempts, claim.deaths) == (("m2", "m1"), 0, 0)
        await desk.commit(claim)
        assert await desk.status("m1") == "answered"

    async def test_letters_of_one_batch_are_redriven_one_by_one(self, start: Start) -> None:
        desk = await start()
        first, second = await die(desk, "m1", "m2")

        await desk.store.redrive(second)

        assert await desk.waiting_ids() == ["m2"]
        assert [letter.dead_id for letter in await desk.store.dead()] == [first]

    async def test_a_repeated_redrive_gives_the_same_receipt_and_changes_nothing(self, start: Start) -> None:
        desk = await start()
        [dead_id] = await die(desk, "m1")
        receipt = await desk.store.redrive(dead_id)
        before = await desk.dump(ids=["m1"])

        assert await desk.store.redrive(dead_id) == receipt

        assert await desk.dump(ids=["m1"]) == before
        await desk.wait(WINDOW)
        await desk.commit(await desk.claim())
        assert await desk.store.redrive(dead_id) == receipt
        assert await desk.waiting_ids() == []

    async def test_a_redriven_message_may_die_again(self, start: Start) -> None:
        desk = await start()
        [dead_id] = await die(desk, "m1")
        await desk.store.redrive(dead_id)
        await desk.wait(WINDOW)
        await desk.store.fail(await desk.claim(), give_up())

        [again] = await desk.store.dead()

        assert again.dead_id != dead_id
        assert (again.message.message_id, again.attempts) == ("m1", 1)
        assert (await desk.store.redrive(again.dead_id)).position == 1

    async def test_a_redriven_message_collects_whatever_it_asked_for_before(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", on_busy="interrupt", flush=True)
        await desk.store.fail(await desk.claim(), give_up())
        claim = await desk.lease("m2")
        [letter] = await desk.store.dead()

        await desk.store.redrive(letter.dead_id)

        [directive] = (await desk.store.renew(claim.owner, [claim], lease=30)).values()
        assert directive.stop is None

    async def test_a_redrive_is_taken_by_a_full_inbox(self, start: Start) -> None:
        desk = await start(Policy(max_inbox=1))
        [dead_id] = await die(desk, "m1")
        await desk.say("m2")

        assert (await desk.store.redrive(dead_id)).position == 2

    async def test_what_is_gone_cannot_be_redriven(self, start: Start) -> None:
        desk = await start()
        [dead_id] = await die(desk, "m1")
        await desk.store.discard(dead_id)

        for unknown in (dead_id, "dead_0000000000000_unknown", ""):
            with pytest.raises(NotFound):
                await desk.store.redrive(unknown)

    async def test_a_letter_is_discarded_once(self, start: Start) -> None:
        desk = await start()
        [dead_id] = await die(desk, "m1")

        assert await desk.store.discard(dead_id)
        assert not await desk.store.discard(dead_id)

        assert await desk.store.dead_letter(dead_id) is None
        assert (await desk.store.counts()).dead_letters == 0
        assert await desk.status("m1") == "dead"

    async def test_the_digest_of_a_redriven_message_is_that_of_its_first_text(self, start: Start) -> None:
        desk = await start()
        await desk.say("m1", "first")
        await desk.store.edit(HERE, "m1", text_content("second"))
        await desk.wait(WINDOW)
        await desk.store.fail(await desk.claim(), give_up())
        [letter] = await desk.store.dead()
        await desk.store.redrive(letter.dead_id)

        assert (await desk.say("m1", "first")).repeated
        with pytest.raises(MessageConflict):
            await desk.say("m1", "second")
        [record] = await desk.store.open_messages(HERE)
        assert record.message is not None
        assert record.message.text == "second"

    async def test_letters_outlive_their_thread_and_are_redriven_into_a_new_one(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, expiry=100.0))
        [dead_id] = await die(desk, "m1")
        before = (await desk.thread()).thread_id
        await desk.wait(100)
        await desk.store.expire()
        assert await desk.store.thread(HERE) is None
        assert len(await desk.store.dead()) == 1

        receipt = await desk.store.redrive(dead_id)

        assert (receipt.channel, receipt.position) == ("c", 1)
        assert receipt.thread_id != before
        assert await desk.waiting_ids() == ["m1"]

    async def test_an_id_that_is_open_again_cannot_be_redriven(self, start: Start) -> None:
        desk = await start(Policy(window=2.0, dedupe=50.0))
        [dead_id] = await die(desk, "m1")
        await desk.wait(50)
        await desk.say("m1", "another message")

        with pytest.raises(MessageConflict):
            await desk.store.redrive(dead_id)

        assert await desk.waiting_ids() == ["m1"]
        assert len(await desk.store.dead()) == 1

    async def test_letters_are_never_dropped_by_number_or_age(self, start: Start) -> None:
        desk = await start(POLICY)
        for n in range(20):
            await die(desk, f"m{n}")
        await desk.wait(10_000_000)
        await desk.store.expire()

        assert len(await desk.store.dead(limit=1000)) == 20

    async def test_the_letter_holds_the_message_as_it_was_said(self, start: Start) -> None:
        desk = await start()
        message = said("m1", "hello", instructions="be brief", metadata={"k": "v"})
        await desk.store.accept([message])
        await desk.wait(WINDOW)
        await desk.store.fail(await desk.claim(), give_up())

        [letter] = await desk.store.dead()

        assert letter.message.but(window=None, max_wait=None, on_busy=None, arrival=0.0, seq=0) == message
