"""What stays of a thread that was forgotten or has expired: its message ids, until their time, and its dead letters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from tests.contract.suite.desk import HERE, LEASE, QUEUE, TENANT, WORKER, Desk, Start, at, give_up, said
from turnkeep.errors import MessageConflict, NotFound, Rejection, ThreadNotFound
from turnkeep.messages import Address
from turnkeep.store.values import Policy

SHORT = Policy(window=2.0, max_wait=8.0, expiry=100.0, dedupe=5_000.0)


async def forgotten(desk: Desk) -> None:
    assert await desk.store.forget(HERE, force=True)


async def expired(desk: Desk) -> None:
    await desk.wait(100.0)


async def expired_and_swept(desk: Desk) -> None:
    await desk.wait(100.0)
    await desk.store.expire()


Gone = Callable[[Desk], Awaitable[None]]
goes = pytest.mark.parametrize("goes", [forgotten, expired, expired_and_swept])


class ForgetPromises:
    @goes
    async def test_an_id_outlives_its_thread(self, start: Start, goes: Gone) -> None:
        desk = await start(SHORT)
        first = await desk.say("m1")
        await desk.commit(await desk.lease())
        await goes(desk)

        again = await desk.say("m1")

        assert (again.repeated, again.thread_id, again.position) == (True, first.thread_id, 1)
        assert await desk.store.thread(HERE) is None
        with pytest.raises(MessageConflict):
            await desk.say("m1", "other words")
        with pytest.raises(MessageConflict):
            await desk.store.begin([said("m1")], owner=WORKER, lease=LEASE)
        assert await desk.store.thread(HERE) is None

    @goes
    async def test_an_id_is_remembered_beside_those_of_the_next_thread(self, start: Start, goes: Gone) -> None:
        desk = await start(SHORT)
        await desk.commit(await desk.lease("m1", "m2"))
        await goes(desk)
        await desk.say("n1")
        await desk.say("n2", not_before=desk.now + 3.0)
        assert (await desk.say("m2")).repeated
        await desk.commit(await desk.lease())
        await desk.wait(3.0)
        await desk.commit(await desk.lease())
        await goes(desk)
        await desk.say("o1")

        assert [(await desk.say(i)).repeated for i in ("m1", "m2", "n1", "n2", "o1")] == [True] * 5
        assert await desk.waiting_ids() == ["o1"]
        assert [await desk.store.message(HERE, i) for i in ("m1", "n1")] == [None, None]
        with pytest.raises(NotFound):
            await desk.store.withdraw(HERE, "n1")

    async def test_an_open_message_that_was_forgotten_stays_known(self, start: Start) -> None:
        desk = await start(SHORT)
        await desk.lease("m1")
        await desk.say("m2")
        await desk.say("m3", not_before=desk.now + 50.0)
        await forgotten(desk)
        await desk.say("n1")

        assert [(await desk.say(i)).repeated for i in ("m1", "m2", "m3")] == [True] * 3
        assert await desk.waiting_ids() == ["n1"]

    @goes
    async def test_an_id_ends_with_its_time(self, start: Start, goes: Gone) -> None:
        desk = await start(SHORT)
        await desk.commit(await desk.lease("m1"))
        settled = desk.now
        await goes(desk)
        await desk.wait(settled + 4_999.0 - desk.now)
        assert (await desk.say("m1")).repeated
        await desk.wait(1.0)

        assert not (await desk.say("m1")).repeated
        assert await desk.waiting_ids() == ["m1"]

    async def test_sweeping_forgets_ids_of_earlier_threads_in_their_time(self, start: Start) -> None:
        desk = await start(SHORT)
        await desk.commit(await desk.lease("m1"))
        await forgotten(desk)
        await desk.wait(1_000.0)
        await desk.commit(await desk.lease("n1"))
        await desk.store.update(HERE, {"ttl": 50_000.0})
        await desk.wait(4_000.0)
        await desk.store.expire()

        assert (await desk.say("n1")).repeated
        assert not (await desk.say("m1")).repeated

    async def test_a_repeat_is_told_so_where_no_thread_may_begin(self, start: Start) -> None:
        desk = await start(SHORT)
        await desk.commit(await desk.lease("m1"))
        await forgotten(desk)

        [known, new] = await desk.store.accept([said("m1"), said("m2")], create=False)

        assert not isinstance(known, Rejection)
        assert known.repeated
        assert isinstance(new, ThreadNotFound)

    @goes
    async def test_letters_go_with_their_channel(self, start: Start, goes: Gone) -> None:
        desk = await start(SHORT)
        beside = at("beside")
        for where in (HERE, beside):
            await desk.store.fail(await desk.lease("m1", where=where), give_up())
        if goes is not forgotten:
            await goes(desk)

        assert await desk.store.forget(HERE)

        assert [letter.address for letter in await desk.store.dead()] == [beside]
        assert (await desk.store.counts()).dead_letters == 1
        assert not await desk.store.forget(HERE)

    async def test_letters_of_earlier_threads_go_along(self, start: Start) -> None:
        desk = await start(SHORT)
        await desk.store.fail(await desk.lease("m1"), give_up())
        await expired(desk)
        await desk.store.fail(await desk.lease("m2"), give_up())
        await desk.store.thread(at("c2"), create=True)

        assert await desk.store.forget(HERE)

        assert await desk.store.dead() == []

    async def test_letters_are_found_by_the_id_of_a_thread_that_is_gone(self, start: Start) -> None:
        desk = await start(SHORT)
        claim = await desk.lease("m1")
        await desk.store.fail(claim, give_up())
        await expired_and_swept(desk)

        assert await desk.store.forget(Address(TENANT, QUEUE, claim.thread_id))

        assert await desk.store.dead() == []

    async def test_a_letter_that_was_sent_again_or_dropped_is_no_more_of_its_channel(self, start: Start) -> None:
        desk = await start(SHORT)
        for message_id in ("m1", "m2"):
            await desk.store.fail(await desk.lease(message_id), give_up())
        first, second = await desk.store.dead()
        await desk.store.discard(second.dead_id)
        await desk.store.redrive(first.dead_id)
        await desk.commit(await desk.lease())
        await expired(desk)

        assert not await desk.store.forget(HERE)
