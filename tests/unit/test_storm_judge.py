"""The judge of storms: what a failover excuses, and what nothing does."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any

import pytest

from tests.chaos.judge import Books, ChannelLog, Judgement, judge
from tests.chaos.people import Answered, Listener, Sender, Sent
from turnkeep.clock import SystemClock
from turnkeep.simulator.exchanges import ExchangeLedger

Frame = Mapping[str, Any]

OLD, NEW = "log.0", "log.1"


def frame(offset: int, kind: str, status: str, epoch: str, **members: Any) -> Frame:
    return {"offset": offset, "epoch": epoch, "type": kind, "status": status, "message_id": "c-a-0", **members}


def accepted(offset: int, epoch: str = OLD) -> Frame:
    return frame(offset, "status", "accepted", epoch)


def started(offset: int, epoch: str = OLD) -> Frame:
    return frame(offset, "status", "started", epoch)


def piece(offset: int, text: str, epoch: str = OLD) -> Frame:
    return frame(offset, "response", "in_progress", epoch, delta=text)


def whole(offset: int, text: str, epoch: str = OLD) -> Frame:
    return frame(offset, "response", "in_progress", epoch, message=text, snapshot=True)


def completed(offset: int, epoch: str = OLD) -> Frame:
    end = {"message": "one two", "run_id": "r", "message_ids": ["c-a-0"], "outcome": "completed"}
    return frame(offset, "response", "completed", epoch, **end)


TOLD: dict[str, tuple[list[Frame], bool, list[str]]] = {
    "whole": ([accepted(1), started(2), piece(3, "one "), piece(4, "two"), completed(5)], False, []),
    "torn": ([accepted(1), started(2), piece(3, "one "), completed(5)], False, ["a torn stream"]),
    "torn in one log, beside a failover": ([accepted(1), started(2), completed(5)], True, ["a torn stream"]),
    "torn by a failover": ([accepted(1), started(2), piece(3, "one "), completed(4, NEW)], True, []),
    "torn by a restart": ([accepted(1), started(2), piece(3, "one "), completed(4, NEW)], False, ["a torn stream"]),
    "shown again after a failover": (
        [accepted(1), started(2), piece(3, "one "), whole(3, "one two", NEW), completed(4, NEW)],
        True,
        [],
    ),
    "shown again, and torn": (
        [accepted(1), started(2), piece(3, "one "), whole(3, "one ", NEW), completed(5, NEW)],
        True,
        ["a torn stream"],
    ),
    "an acceptance at a place that was passed": ([started(4), piece(5, "one two"), completed(9, NEW)], True, []),
    "an acceptance behind it": (
        [started(2), piece(3, "one two"), completed(9, NEW)],
        True,
        ["c-a-0: its listener heard"],
    ),
    "an end at a place that was passed": (
        [accepted(1), started(2), piece(3, "one two"), completed(6), started(6, NEW)],
        True,
        [],
    ),
    "an end that was taken back": (
        [accepted(1), started(2), piece(3, "one two"), completed(6), started(4, NEW)],
        True,
        ["c-a-0: its listener heard 0 ends"],
    ),
    "an acceptance missed": ([started(2), piece(3, "one two"), completed(4)], True, ["c-a-0: its listener heard"]),
    "an acceptance missed in a restart": (
        [started(4), piece(5, "one two"), completed(6, NEW)],
        False,
        ["c-a-0: its listener heard"],
    ),
    "an end told twice": (
        [accepted(1), started(2), piece(3, "one two"), completed(4), completed(5)],
        True,
        ["c-a-0: its listener heard 2 ends"],
    ),
    "an end told again behind what a failover took": (
        [
            *(accepted(1), started(2), piece(3, "one two"), completed(4)),
            *(started(6, NEW), piece(7, "one two", NEW), completed(8, NEW)),
        ],
        True,
        [],
    ),
    "an end told again after a restart": (
        [
            *(accepted(1), started(2), piece(3, "one two"), completed(4)),
            *(started(6, NEW), piece(7, "one two", NEW), completed(8, NEW)),
        ],
        False,
        ["c-a-0: its listener heard 2 ends"],
    ),
    "an end told twice in the log that goes on": (
        [accepted(1), started(2), started(3, NEW), piece(4, "one two", NEW), completed(5, NEW), completed(6, NEW)],
        True,
        ["c-a-0: its listener heard 2 ends"],
    ),
}


@pytest.mark.parametrize(("frames", "has_failed_over", "violations"), TOLD.values(), ids=TOLD)
async def test_a_failover_excuses_what_the_epoch_tells_and_no_more(
    frames: list[Frame], has_failed_over: bool, violations: list[str]
) -> None:
    listener = Listener("c", _nobody, random.Random(1))
    message = Sent("c", "a", 0, "hello", accepted=1.0, requested=asyncio.get_running_loop().time() - 1.0)

    for one in frames:
        listener.take(one)
    found = _judged(
        listener, message, frames[-1]["epoch"], failovers=[message.requested or 0.0] if has_failed_over else []
    )

    told = [one for one in found.violations if not one.startswith(("run ", "c-a-0 was accepted and"))]
    assert [one[: len(start)] for one, start in zip(told, violations, strict=True)] == violations


@pytest.mark.parametrize(
    ("first_answers", "failovers", "times"),
    [(("c-a-0",), [], 1), (("c-b-0",), [], 1), (("c-a-0",), [0.0], 1), (("c-b-0",), [0.0], 0)],
)
async def test_what_a_store_that_was_replaced_gave_a_run_counts_when_the_run_has_answered_it(
    first_answers: tuple[str, ...], failovers: list[float], times: int
) -> None:
    listener, ledger = Listener("c", _nobody, random.Random(1)), ExchangeLedger(SystemClock())
    for offset, (run, ids) in enumerate((("r1", first_answers), ("r2", ("c-a-0",)))):
        listener.answers[run] = Answered(run, offset, ids, "completed", "yes")
        exchange = ledger.arrive("responses", f"request {run}", {"x-turnkeep-run": run})
        exchange.messages = [("hello", True)]
        ledger.finish(exchange, "completed")
    sender = Sender(_nobody, random.Random(1))
    sender.sent.append(Sent("c", "a", 0, "hello", accepted=1.0, requested=0.0))

    found = judge(Books([sender], [listener], ledger, [], {}, failovers=failovers))

    assert found.model_saw_twice == times


@pytest.mark.parametrize(("floor", "is_excused"), [(0, False), (900, True)])
async def test_an_acceptance_that_is_cut_off_may_have_stood_where_a_failover_began(
    floor: int, *, is_excused: bool
) -> None:
    listener = Listener("c", _nobody, random.Random(1))
    message = Sent("c", "a", 0, "hello", accepted=1.0, requested=0.0)
    for one in (started(4), piece(5, "one two"), completed(9, NEW)):
        listener.take(one)
    sender = Sender(_nobody, random.Random(1))
    sender.sent.append(message)
    logs = {"c": ChannelLog(NEW, floor=floor)}

    found = judge(Books([sender], [listener], ExchangeLedger(SystemClock()), [], {}, failovers=[0.0], logs=logs))

    assert (found.untold == 0) is is_excused


@pytest.mark.parametrize(
    ("taken", "violations"),
    [
        ([(3, ("m1",)), (8, ("m2",))], []),
        ([(8, ("m1",)), (3, ("m2",))], ["c: the receiver outside was told of 8 before 3"]),
        ([(3, ("m1", "m2")), (8, ("m2",))], ["m2: the receiver outside was told of 2 ends"]),
    ],
)
def test_a_receiver_outside_hears_of_each_end_once_and_in_order(
    taken: list[tuple[int, tuple[str, ...]]], violations: list[str]
) -> None:
    books = Books([], [], ExchangeLedger(SystemClock()), [], {}, delivered={"c": taken}, failovers=[0.0])

    assert judge(books).violations == violations


def _judged(listener: Listener, message: Sent, epoch: str, failovers: list[float]) -> Judgement:
    sender = Sender(_nobody, random.Random(1))
    sender.sent.append(message)
    logs = {"c": ChannelLog(epoch, {"c-a-0": 4}, {"c-a-0": 5})}
    return judge(Books([sender], [listener], ExchangeLedger(SystemClock()), [], {}, failovers=failovers, logs=logs))


def _nobody() -> Any:
    raise AssertionError("nobody is asked here")
