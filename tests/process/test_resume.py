"""P7 over real sockets: whoever returns with the last position gets exactly the frames that were missed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.process.served import Served, ask, ends, heard, served


async def part_of_a_stream(server: Served, channel: str, position: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Subscribe from a position, read so many frames (fewer at the end), and cut the connection without a word."""
    async with server.socket() as socket:
        asked = {"action": "subscribe", "channel": channel, "text": "delta", **position}
        reply = await ask(socket, asked)
        assert reply["status"] == "subscribed"
        assert reply["recovered"] or not position
        frames: list[dict[str, Any]] = []
        while len(frames) < count and not (frames and is_last(frames[-1])):
            frames.append(await heard(socket))
        socket.transport.abort()
        return frames


def is_last(frame: dict[str, Any]) -> bool:
    return ends(frame) and not frame.get("more")


def new_to(seen: list[dict[str, Any]], frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a client keeps: frames of an event that it had in part come again."""
    known = {(frame["offset"], frame["status"], frame["message_id"]) for frame in seen}
    return [f for f in frames if (f["offset"], f["status"], f["message_id"]) not in known]


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_a_socket_cut_anywhere_resumes_without_hole_or_repeat(
    size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    wanted, source, cuts, repeats, holes, tokens = size(40, 1000), random.Random(5), 0, 0, 0, 0
    async with served(window=60.0, max_wait=60.0) as server:
        while cuts < wanted:
            channel = f"c{cuts}"
            async with server.socket() as sender:
                texts = [f"first {cuts}", f"second {cuts} [[words:60]] [[pace:2]]"]
                for place, text in enumerate(texts):
                    said = {"channel": channel, "message_id": f"{channel}-{place}", "message": text}
                    await ask(sender, said | {"flush": place == 1})
            seen: list[dict[str, Any]] = []
            position: dict[str, Any] = {"offset": 0, "epoch": (await epoch_of(server, channel))}
            while not (seen and is_last(seen[-1])):
                frames = await part_of_a_stream(server, channel, position, source.randint(1, 15))
                cuts += 1
                fresh = new_to(seen, frames)
                again = [f for f in frames if f not in fresh]
                repeats += sum(f["offset"] <= position["offset"] for f in again)
                seen += fresh
                whole = [frame for frame in seen if not frame.get("more")]
                position = {"offset": whole[-1]["offset"], "epoch": whole[-1]["epoch"]} if whole else position
            told = "".join(frame["delta"] for frame in seen if frame["status"] == "in_progress")
            [completed] = [f for f in seen if (f["status"], f["type"]) == ("completed", "response")]
            older = [f["message_id"] for f in seen if (f["status"], f["type"]) == ("completed", "status")]
            holes += told != completed["message"] or older != [f"{channel}-0"]
            tokens += sum(frame["status"] == "in_progress" for frame in seen)
    proof("socket resume", f"disconnects {cuts} | text frames {tokens} | holes {holes} | repeats {repeats}")
    assert (holes, repeats) == (0, 0)


async def epoch_of(server: Served, channel: str) -> str:
    async with server.socket() as socket:
        return str((await ask(socket, {"action": "subscribe", "channel": channel}))["epoch"])


async def test_a_subscriber_without_a_position_gets_one_snapshot_of_the_run_in_progress() -> None:
    async with served(drain=0.0) as server, server.socket() as first, server.socket() as late:
        await ask(first, {"action": "subscribe", "channel": "c"})
        await first.send(json.dumps({"channel": "c", "message_id": "m", "message": "talk [[words:4000]] [[pace:5]]"}))
        seen = [await heard(first)]
        while sum(frame["status"] == "in_progress" for frame in seen) < 5:
            seen.append(await heard(first))

        await ask(late, {"action": "subscribe", "channel": "c"})
        frames = [await heard(late)]
        while frames[-1]["status"] != "in_progress":
            frames.append(await heard(late))

        assert frames[-1]["snapshot"] is True
        assert frames[-1]["message"].startswith(seen[-1]["message"])


@pytest.mark.parametrize("name", ["_enveloped", "in_envelopes", "whatever"])
@pytest.mark.parametrize("value", [True, False, "yes"])
async def test_only_the_form_of_subscribing_decides_about_envelopes(name: str, value: object) -> None:
    async with served() as server, server.socket() as flat, server.socket() as enveloped:
        wish = {"action": "subscribe", "channel": "c", name: value}
        bare = await ask(flat, wish)
        wrapped = await ask(enveloped, {"channel": "subscription", "payload": wish})

        assert bare["status"] == wrapped["payload"]["status"] == "subscribed"
        assert "payload" not in bare


async def test_both_forms_of_subscribing_get_the_same_in_their_own_form() -> None:
    async with served() as server, server.socket() as flat, server.socket() as enveloped:
        await ask(flat, {"action": "subscribe", "channel": "c"})
        reply = await ask(enveloped, {"channel": "subscription", "payload": {"action": "subscribe", "channel": "c"}})
        await server.queue.add_message_to_thread("c", "hello [[say:hi there]]", message_id="m")
        plain = [await heard(flat)]
        while not is_last(plain[-1]):
            plain.append(await heard(flat))
        wrapped = [await heard(enveloped)]
        while not is_last(wrapped[-1]["payload"]):
            wrapped.append(await heard(enveloped))

        assert reply["channel"] == "c"
        assert reply["payload"]["status"] == "subscribed"
        assert {frame["channel"] for frame in wrapped} == {"c"}
        assert plain[-1] == wrapped[-1]["payload"]
        assert [f["status"] for f in plain] == [
            "started",
            "responding",
            *["in_progress"] * (len(plain) - 3),
            "completed",
        ]
