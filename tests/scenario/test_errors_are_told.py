"""Every failure that ends a turn is told once on its channel, in words for people, with details beside them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE
from tests.process.served import ask, frames_until_final, served
from tests.scenario.house import opened
from turnkeep.simulator import Fault

CAUSES: dict[str, tuple[dict[str, Any], str, str]] = {
    "timeout": (
        {"kind": "hang", "seconds": 5.0},
        "model_timed_out",
        "The request took too long to process. Please try again.",
    ),
    "connection": (
        {"kind": "500"},
        "model_unavailable",
        "I'm having trouble connecting to my services. Please try again in a moment.",
    ),
    "invalid request": (
        {"kind": "400"},
        "model_refused",
        "There was an issue with your request format. Please try again.",
    ),
}


@pytest.mark.parametrize("cause", CAUSES)
async def test_a_turn_that_fails_for_good_ends_in_one_error_with_its_sentence(
    store: str, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    fault, code, sentence = CAUSES[cause]
    first_event_timeout = 0.1 if cause == "timeout" else 60.0
    async with (
        opened(store, max_attempts=2, first_event_timeout=first_event_timeout) as house,
        house.stream("c") as stream,
    ):
        house.fault(times=None, **fault)
        await house.send("c", "hello")
        events = await house.settled(stream, "m0")

    [dead] = [event for event in events if event.is_final]
    assert dead.error is not None
    assert (dead.error.code, dead.error.message) == (code, sentence)
    assert 0 < len(dead.error.details) <= 500
    assert code in caplog.text


async def test_a_sentence_from_a_file_reaches_the_channel(store: str, tmp_path: Path) -> None:
    file = tmp_path / "sentences.toml"
    file.write_text('connection = "Gerade nicht erreichbar."\n')
    async with opened(store, max_attempts=1, sentences_file=file) as house, house.stream("c") as stream:
        house.fault(kind="500", times=None)
        await house.send("c", "hello")
        events = await house.settled(stream, "m0")
    assert events[-1].error is not None
    assert events[-1].error.message == "Gerade nicht erreichbar."


async def test_a_missing_thread_is_told_to_whoever_asks_for_it(store: str) -> None:
    async with served(store) as server, server.socket() as socket:
        told = await ask(socket, {"channel": "thread_nobody", "message_id": "m", "message": "hello"})
        assert (told["type"], told["status"], told["code"]) == ("error", "error", "thread_not_found")


async def test_a_rate_limit_is_waited_for_and_told_as_a_status(store: str) -> None:
    async with served(store) as server, server.socket() as socket:
        server.simulator.faults.append(Fault(kind="429", times=1, retry_after=0.05))
        await ask(socket, {"action": "subscribe", "channel": "c"})
        await ask(socket, {"channel": "c", "message_id": "m", "message": "hello"})
        async with asyncio.timeout(PATIENCE):
            frames = await frames_until_final(socket, "m")
    assert not [frame for frame in frames if frame["type"] == "error"]
    assert "model_rate_limited" in [frame.get("reason") for frame in frames]
