"""Whatever comes in: a typed error with a stable code, connection and process alive, nothing stored."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from tests.process.random_input import anything
from tests.process.served import Served, ask, heard, served

GOOD = {"channel": "c", "message_id": "m", "message": "hello"}

RAW: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "invalid_message"),
    "not JSON": ("hello", "invalid_message"),
    "half an object": ('{"channel": "c"', "invalid_message"),
    "a list": ("[1, 2]", "invalid_message"),
    "a number": ("7", "invalid_message"),
    "null": ("null", "invalid_message"),
    "NaN": ('{"channel": "c", "message": "x", "message_id": "m", "window": NaN}', "invalid_message"),
    "infinity": ('{"channel": "c", "message": "x", "message_id": "m", "window": 1e999}', "invalid_message"),
    "a huge number": ('{"channel": "c", "message": "x", "window": ' + "9" * 5000 + "}", "invalid_message"),
    "a lone surrogate": ('{"channel": "c", "message_id": "m", "message": "\\ud800"}', "invalid_message"),
    "NUL": ('{"channel": "c", "message_id": "m", "message": "a\\u0000b"}', "invalid_message"),
    "NUL in the channel": ('{"channel": "c\\u0000", "message_id": "m", "message": "a"}', "invalid_message"),
    "a number beyond 64 bits": ('{"channel": "c", "message": "a", "x": 18446744073709551616}', "invalid_message"),
    "a number far beyond": ('{"channel": "c", "message": "a", "x": [-%s]}' % ("9" * 5_000), "invalid_message"),
    "duplicate keys": ('{"channel": "c", "channel": "d", "message_id": "m", "message": "x"}', "invalid_message"),
    "100,000 levels": ("[" * 100_000 + "]" * 100_000, "invalid_message"),
    "100,000 levels inside": ('{"channel": "c", "message": ' + "[" * 100_000 + "]" * 100_000 + "}", "invalid_message"),
    "a megabyte of text": (json.dumps({**GOOD, "message": "x" * 1_000_000}), "message_too_large"),
    "a message one byte too large": (json.dumps({**GOOD, "message": "x" * 256_001}), "message_too_large"),
}  # fmt: skip

WRONG: dict[str, dict[str, Any]] = {
    "no channel": {"message_id": "m", "message": "x"},
    "an empty channel": {**GOOD, "channel": ""},
    "a channel that is a number": {**GOOD, "channel": 7},
    "a channel that is null": {**GOOD, "channel": None},
    "a channel that is too long": {**GOOD, "channel": "x" * 513},
    "the reserved channel": {**GOOD, "channel": "subscription"},
    "no message": {"channel": "c", "message_id": "m"},
    "an empty message": {**GOOD, "message": ""},
    "a blank message": {**GOOD, "message": " \n\t "},
    "a message that is a number": {**GOOD, "message": 5},
    "a message that is a list": {**GOOD, "message": ["x"]},
    "an id that is a number": {**GOOD, "message_id": 5},
    "an id that is too long": {**GOOD, "message_id": "x" * 513},
    "a policy that does not exist": {**GOOD, "on_busy": "shout"},
    "a window below zero": {**GOOD, "window": -1},
    "a window that is text": {**GOOD, "window": "1"},
    "a window that is true": {**GOOD, "window": True},
    "a flush that is text": {**GOOD, "flush": "yes"},
    "metadata that is a list": {**GOOD, "metadata": ["x"]},
    "metadata with a number": {**GOOD, "metadata": {"a": 1}},
    "both message and content": {**GOOD, "content": "x"},
    "content without parts": {"channel": "c", "message_id": "m", "content": []},
    "a part of an unknown type": {"channel": "c", "message_id": "m", "content": [{"type": "video"}]},
    "a part that is text": {"channel": "c", "message_id": "m", "content": ["x"]},
}


async def nothing_stored(server: Served) -> bool:
    counts = await server.queue.store.counts()
    return counts.threads == 0


@pytest.mark.daily(rows=3)  # all take one way
@pytest.mark.parametrize("name", RAW)
async def test_a_frame_that_is_no_request_gets_a_typed_error_and_the_socket_lives(name: str) -> None:
    raw, code = RAW[name]
    async with served() as server, server.socket() as socket:
        answer = await ask(socket, raw)
        pong = await ask(socket, {"action": "ping", "id": 1})

        assert (answer["type"], answer["status"], answer["code"]) == ("error", "error", code)
        assert (pong["status"], pong["id"]) == ("pong", 1)
        assert await nothing_stored(server)


async def test_every_wrong_field_is_told_on_the_socket_and_over_http() -> None:
    async with served() as server, server.socket() as socket:
        for name, frame in WRONG.items():
            answer = await ask(socket, frame)
            assert (answer["type"], answer["code"]) == ("error", "invalid_message"), name
            if isinstance(frame.get("channel"), str) and frame["channel"] not in ("", "subscription"):
                body = {k: v for k, v in frame.items() if k != "channel"}
                async with server.http.post(
                    f"{server.url}/api/channels/{frame['channel']}/messages", json=body
                ) as told:
                    assert told.status == 400, name
                    assert (await told.json())["error"]["code"] == "invalid_message", name
        assert await nothing_stored(server)


@pytest.mark.parametrize(("depth", "code"), [(31, None), (32, "invalid_message")])
async def test_a_frame_of_the_deepest_level_is_taken_and_one_level_more_is_told(depth: int, code: str | None) -> None:
    inside = "]{[" * 50  # brackets of a text do not count
    async with served() as server, server.socket() as socket:
        value: Any = inside
        for level in range(depth):
            value = [value] if level % 2 else {"a": value}
        assert (await ask(socket, {"action": "ping", "x": value})).get("code") == code


@pytest.mark.parametrize(("count", "code"), [(9_996, None), (9_997, "invalid_message")])
async def test_a_frame_of_many_values_is_taken_and_one_more_is_told(count: int, code: str | None) -> None:
    async with served() as server, server.socket() as socket:
        request = {"action": "ping", "note": '[,"{\\' * 5_000, "x": [7] * count}
        assert (await ask(socket, request)).get("code") == code


async def test_the_largest_number_that_is_taken_comes_back() -> None:
    async with served() as server:
        for largest, status in ((2**64 - 1, 201), (2**64, 400), (-(2**63), 201), (-(2**63) - 1, 400)):
            body = {"instructions": "x", "parameters": {"seed": largest}}
            async with server.http.post(f"{server.url}/api/assistants", json=body) as told:
                assert told.status == status, largest
                said = await told.json()
            assert status == 400 or said["parameters"]["seed"] == largest


async def test_binary_frames_and_unknown_actions_are_told() -> None:
    async with served() as server, server.socket() as socket:
        assert (await ask(socket, b"\x00\xff\xfe"))["code"] == "invalid_message"
        assert (await ask(socket, {"action": "dance"}))["code"] == "invalid_message"
        assert (await ask(socket, {"action": ["subscribe"]}))["code"] == "invalid_message"
        assert (await ask(socket, {"action": "subscribe"}))["code"] == "invalid_message"
        assert (await ask(socket, {"action": "subscribe", "channel": "c", "offset": -1}))["code"] == "invalid_message"
        assert (await ask(socket, {"action": "subscribe", "channel": "c", "text": "loud"}))["code"] == "invalid_message"


async def test_a_frame_of_ours_is_never_taken_for_input() -> None:
    async with served() as server, server.socket() as socket:
        for name in ("type", "status", "timestamp"):
            assert (await ask(socket, {**GOOD, name: "response"}))["code"] == "invalid_message"
        assert await nothing_stored(server)


async def test_a_frame_beyond_what_is_read_closes_with_1009() -> None:
    async with served() as server, server.socket() as socket:
        with contextlib.suppress(ConnectionClosed):
            await socket.send("x" * 5_000_000)
        await socket.wait_closed()

        assert socket.close_code == 1009
        async with server.socket() as again:
            assert (await ask(again, {"action": "ping"}))["status"] == "pong"


async def test_http_tells_size_method_and_path() -> None:
    async with served() as server:
        post, url = server.http.post, f"{server.url}/api/channels/c/messages"
        async with post(url, data=b"x" * 600_000) as told:
            assert told.status == 413
        async with post(url, data=b"{") as told:
            assert told.status == 400
        async with server.http.get(f"{server.url}/api/nothing") as told:
            assert told.status == 404
        async with server.http.put(url) as told:
            assert told.status == 405


async def test_a_channel_that_names_a_missing_thread_is_told() -> None:
    async with served() as server, server.socket() as socket:
        answer = await ask(socket, {"channel": "thread_missing", "message_id": "m", "message": "hello"})

        assert answer["code"] == "thread_not_found"
        assert answer["message"] == "I couldn't find the conversation thread. Please start a new conversation."


@pytest.mark.prove
async def test_random_input_never_breaks_a_door(
    size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    cases, source = size(400, 5000), random.Random(11)
    statuses: dict[int, int] = {}
    async with served() as server, server.socket() as socket:
        for _ in range(cases):
            value = anything(source)
            if isinstance(value, dict) and source.random() < 0.3:
                value = {**GOOD, **value}
            text = json.dumps(value, ensure_ascii=False)
            cut = text[: source.randrange(len(text) + 1)] if source.random() < 0.15 else text
            await socket.send(cut.encode("utf-8", "replace").decode())
            path = source.choice(["messages", "cancel", "flush", "pause", "actions/x", "", "messages/m", "events"])
            method = source.choice(["POST", "PATCH", "DELETE", "GET"]) if path != "events" else "POST"
            body = None if method == "GET" else cut.encode("utf-8", "replace")
            async with server.http.request(
                method, f"{server.url}/api/channels/c/{path}".rstrip("/"), data=body
            ) as told:
                statuses[told.status] = statuses.get(told.status, 0) + 1
        await socket.send(json.dumps({"action": "ping", "id": "last"}))
        while (await heard(socket)).get("id") != "last":
            pass
    broken = sum(count for status, count in statuses.items() if status >= 500)
    proof("bad input", f"cases {cases} per door | 5xx {broken} | statuses {dict(sorted(statuses.items()))} | alive yes")
    assert broken == 0
