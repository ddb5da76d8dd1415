"""P6 at the wire: five quick messages over `/ws` are one run, one answer, and an end for each of them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.process.served import ask, frames_until_final, heard, served
from tests.scenario.house import gate_answers


@pytest.mark.prove
async def test_five_messages_over_the_socket_are_one_turn_told_in_order(
    tmp_path: Path, proof: Callable[[str, str], None]
) -> None:
    store = f"sqlite:{tmp_path / 'turnkeep.db'}"
    async with served(store, window=60.0, max_wait=60.0) as server, server.socket() as socket:
        await ask(socket, {"action": "subscribe", "channel": "c"})
        for number in range(5):
            part = {"channel": "c", "message_id": f"m{number}", "message": f"part {number}", "flush": number == 4}
            await socket.send(json.dumps(part))
        receipts = [await heard(socket) for _ in range(5)]
        frames = [await heard(socket)]
        while not (frames[-1]["message_id"] == "m3" and frames[-1]["final_message"]):
            frames.append(await heard(socket))

    assert [receipt["status"] for receipt in receipts] == ["accepted"] * 5
    [exchange] = server.simulator.ledger
    assert exchange.new == [f"part {number}" for number in range(5)]
    order = [status for status, _ in itertools.groupby((frame["type"], frame["status"]) for frame in frames)]
    assert order == [
        ("status", "started"),
        ("status", "responding"),
        ("response", "in_progress"),
        ("response", "completed"),
        ("status", "completed"),
    ]
    [completed] = [frame for frame in frames if (frame["type"], frame["status"]) == ("response", "completed")]
    assert (completed["message_id"], completed["message_ids"]) == ("m4", ["m0", "m1", "m2", "m3", "m4"])
    older = [f["message_id"] for f in frames if (f["type"], f["status"]) == ("status", "completed")]
    assert older == ["m0", "m1", "m2", "m3"]
    proof("burst", "messages 5 | runs 1 | user items 5 | response/completed 1 | status/completed 4 | order kept")


async def test_messages_sent_during_a_run_are_answered_by_one_further_run(tmp_path: Path) -> None:
    async with served(f"sqlite:{tmp_path / 'turnkeep.db'}") as server, server.socket() as socket:
        await ask(socket, {"action": "subscribe", "channel": "c"})
        gate = gate_answers(server.simulator)
        await socket.send(json.dumps({"channel": "c", "message_id": "a", "message": "talk [[words:3]] [[pace:1]]"}))
        while (await heard(socket))["status"] != "in_progress":
            pass
        for name in ("b", "c", "d"):
            await socket.send(json.dumps({"channel": "c", "message_id": name, "message": f"also {name}"}))
        receipts = 0
        while receipts < 3:
            receipts += (await heard(socket))["status"] == "accepted"
        gate.set()
        await frames_until_final(socket, "d")

    assert [exchange.new for exchange in server.simulator.ledger] == [
        ["talk [[words:3]] [[pace:1]]"],
        ["also b", "also c", "also d"],
    ]
