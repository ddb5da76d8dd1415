"""Any string is a channel, and nobody sees another's threads."""

from __future__ import annotations

import pytest

from tests.contract.suite.desk import CALL, HERE, LEASE, WINDOW, WORKER, Desk, Start, delta, give_up
from turnkeep.messages import Address
from turnkeep.store.values import Decision

HOSTILE = [
    "", " ", ":", "{}", "{c}", "*", "c*", "[c]", "c?", "\\", "'", '"', "%", "%s", "\n", "\t", "a:b:c", "q:c", "../c",
    "\u0000", "c\u0000", "😀", "ﬀ", "é", "e\u0301", "C", "c ", "-1", "0", "null", "subscription", "x" * 512, "😀" * 128,
    "thread_", "thread_c", "thread_" + "0" * 24, "Thread_c", "dead_0",
]  # fmt: skip


def name(channel: str) -> str:
    return ascii(channel)[1:20]


async def live(desk: Desk, where: Address, mark: str) -> None:
    """A whole life on one channel, whose traces carry a mark; one message stays open, one letter dead."""
    claim = await desk.lease("m1", where=where)
    await desk.store.publish(claim, 0, [delta(mark)])
    await desk.store.hold(claim, [CALL], expires_in=60.0)
    await desk.store.decide(where, CALL.call_id, CALL.digest, Decision("approved"))
    await desk.commit(await desk.claim(), mark)
    await desk.store.fail(await desk.lease("m2", where=where), give_up())
    await desk.store.update(where, {"metadata": {"mark": mark}})
    await desk.say("m3", mark, where)


async def is_whole(desk: Desk, where: Address, mark: str) -> bool:
    """Whether exactly the traces of `live` with this mark are there."""
    record = await desk.thread(where)
    [waiting] = await desk.store.open_messages(where)
    assert waiting.message is not None
    found = [event.text for event in await desk.events(where) if event.kind in ("delta", "completed")]
    answer = (await desk.store.history(where)).entries[-1].item
    return (
        record.address == where
        and record.metadata == {"mark": mark}
        and (record.messages, record.open_messages, record.turns) == (3, 1, 1)
        and waiting.message.text == mark
        and found == [mark, mark]
        and getattr(answer, "text", None) == mark
        and [await desk.status(i, where) for i in ("m1", "m2", "m3")] == ["answered", "dead", "waiting"]
    )


class IsolationPromises:
    @pytest.mark.parametrize("channel", HOSTILE, ids=name)
    async def test_any_string_is_a_channel(self, start: Start, channel: str) -> None:
        desk = await start()
        where = Address("t", "q", channel)
        await live(desk, HERE, "neighbour")
        await live(desk, where, "mine")

        assert await is_whole(desk, where, "mine")
        assert await is_whole(desk, HERE, "neighbour")
        assert await desk.store.forget(where, force=True)
        assert await is_whole(desk, HERE, "neighbour")

    async def test_all_of_them_live_side_by_side(self, start: Start) -> None:
        desk = await start()
        for n, channel in enumerate(HOSTILE):
            await live(desk, Address("t", "q", channel), f"mark {n}")

        for n, channel in enumerate(HOSTILE):
            assert await is_whole(desk, Address("t", "q", channel), f"mark {n}")
        assert (await desk.store.counts()).threads == len(HOSTILE)
        assert {record.address.channel async for record in desk.store.scan()} == set(HOSTILE)

    async def test_one_channel_in_two_tenants_and_queues_is_four_threads(self, start: Start) -> None:
        desk = await start()
        places = [Address(tenant, queue, "c") for tenant in ("t1", "t2") for queue in ("q1", "q2")]
        for n, where in enumerate(places):
            await live(desk, where, f"mark {n}")

        for n, where in enumerate(places):
            assert await is_whole(desk, where, f"mark {n}")
        assert len({(await desk.thread(where)).thread_id for where in places}) == 4

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (Address("a", "b", "c:d"), Address("a", "b:c", "d")),
            (Address("a:b", "c", "d"), Address("a", "b:c", "d")),
            (Address("a", "b\u0000c", "d"), Address("a", "b", "c\u0000d")),
            (Address("a", "", "b"), Address("", "a", "b")),
            (Address("a/b", "c", "d"), Address("a", "b/c", "d")),
            (Address("t}", "{q", "c"), Address("t", "}{q", "c")),
            (Address("é", "q", "c"), Address("e\u0301", "q", "c")),
        ],
        ids=str,
    )
    async def test_names_are_never_run_together(self, start: Start, one: Address, other: Address) -> None:
        desk = await start()
        await live(desk, one, "one")
        await live(desk, other, "other")

        assert await is_whole(desk, one, "one")
        assert await is_whole(desk, other, "other")
        await desk.store.forget(one, force=True)
        assert await is_whole(desk, other, "other")
        assert (await desk.store.counts(tenant=other.tenant, queue=other.queue)).threads == 1

    @pytest.mark.parametrize("text", ["", "\u0000", "\n\r\u2028", "😀" * 100, '{"a": 1}', "x" * 200_000], ids=name)
    async def test_any_text_comes_back_as_it_was(self, start: Start, text: str) -> None:
        desk = await start()
        await desk.say("m1", text)
        await desk.wait(WINDOW)
        claim = await desk.claim()
        await desk.store.publish(claim, 0, [delta(text)])
        await desk.store.journal(claim, [{"n": 0, "text": text}])
        await desk.commit(claim, text)

        assert claim.messages[0].text == text
        assert [event.text for event in await desk.events()] == [text, "", text, text]
        assert getattr((await desk.transcript())[-1], "text", None) == text

    @pytest.mark.parametrize("message_id", HOSTILE[1:], ids=name)
    async def test_any_string_is_a_message_id(self, start: Start, message_id: str) -> None:
        desk = await start()
        await desk.say("m1")
        assert (await desk.say(message_id)).message_id == message_id

        assert await desk.status(message_id) == "waiting"
        await desk.wait(WINDOW)
        claim = await desk.claim()
        assert claim.message_ids == ("m1", message_id)
        await desk.commit(claim)
        assert (await desk.record(message_id)).covers == ("m1", message_id)
        assert (await desk.say(message_id)).repeated

    async def test_any_string_is_an_owner(self, start: Start) -> None:
        desk = await start()
        for n, owner in enumerate([":", "{}", "a b", "😀", WORKER]):
            claim = await desk.lease(f"m{n}", owner=owner)
            [directive] = (await desk.store.renew(owner, [claim], lease=LEASE)).values()
            assert directive.held
            await desk.commit(claim)
