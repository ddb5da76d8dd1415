"""P6: a burst is one turn, on an idle thread too."""

from __future__ import annotations

from tests.scenario.house import gate_answers, opened


async def test_five_quick_messages_are_one_request_with_five_user_messages(store: str) -> None:
    async with opened(store, window=60.0, max_wait=60.0) as house, house.stream("c") as stream:
        await house.send_all("c", [f"part {n} of a question" for n in range(5)])
        await house.queue.flush("c")

        events = await house.settled(stream, "m4")

        [exchange] = house.simulator.ledger
        assert exchange.new == [f"part {n} of a question" for n in range(5)]
        [completed] = [event for event in events if event.kind == "completed"]
        assert completed.message_ids == ("m0", "m1", "m2", "m3", "m4")


async def test_the_stream_tells_started_responding_text_and_end_in_this_order(store: str) -> None:
    async with opened(store) as house, house.stream("c") as stream:
        await house.send("c", "say something [[say:one two three]]")

        events = await house.settled(stream, "m0")

        kinds = [event.kind for event in events]
        assert kinds == ["accepted", "started", "responding", *["delta"] * kinds.count("delta"), "completed"]
        assert "".join(event.text for event in events if event.kind == "delta") == "one two three" == events[-1].text


async def test_messages_that_come_during_a_run_are_answered_by_exactly_one_further_run(store: str) -> None:
    async with opened(store) as house, house.stream("c") as stream:
        gate = gate_answers(house.simulator)
        await house.send("c", "begin [[words:3]] [[pace:1]]", flush=True)
        await house.until(stream, lambda event: event.kind == "delta")
        await house.send_all("c", ["meanwhile one", "meanwhile two", "meanwhile three"])
        gate.set()

        await house.settled(stream, "m3")

        asked = [exchange.new for exchange in house.simulator.ledger]
        assert asked == [["begin [[words:3]] [[pace:1]]"], ["meanwhile one", "meanwhile two", "meanwhile three"]]
        assert house.simulator.ledger.overlaps() == []


async def test_nobody_waits_longer_than_max_wait(store: str) -> None:
    async with opened(store, window=0.2, max_wait=0.5) as house, house.stream("c") as stream:
        first = await house.send("c", "text 0")
        async with house.stream("c") as other:
            for n in range(1, 8):
                await house.send("c", f"text {n}")
                await house.queue.store.typing(house.address("c"))
            await house.until(other, lambda event: event.kind == "started")

        events = await house.settled(stream, "m0")

        started = next(event for event in events if event.kind == "started")
        accepted = next(event for event in events if event.kind == "accepted")
        assert first.due_in is not None
        assert started.at - accepted.at >= 0.2


async def test_channels_do_not_wait_for_each_other(store: str) -> None:
    async with opened(store) as house:
        for n in range(20):
            await house.send(f"c{n}", f"question {n} [[words:5]]")
        for n in range(20):
            async with house.stream(f"c{n}", after=0, epoch="") as stream:
                if (await house.queue.store.message(house.address(f"c{n}"), f"m{n}")).status != "answered":  # type: ignore[union-attr]
                    await house.settled(stream, f"m{n}")

        assert sorted(exchange.new[0] for exchange in house.simulator.ledger) == sorted(
            f"question {n} [[words:5]]" for n in range(20)
        )
