"""A word that nobody knows is told, not taken for another."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.process.served import ask, served


async def test_an_answer_is_not_made_again_more_often_than_messages_may_be_sent() -> None:
    async with served(channel_rate="2/100") as house, house.socket() as socket:
        url = f"{house.url}/api/channels/c"
        await house.queue.ask("c", "hello [[say:fine]]")
        async with house.http.post(f"{url}/regenerate") as told:
            assert told.status == 202
        await house.queue.ask("c", "and now [[say:fine]]")
        async with house.http.post(f"{url}/regenerate") as told:
            assert told.status == 202
        async with house.http.post(f"{url}/regenerate") as told:
            assert (told.status, (await told.json())["error"]["code"]) == (429, "too_many_requests")
        frame = await ask(socket, {"action": "regenerate", "channel": "c"})
        assert frame["code"] == "too_many_requests"


IMAGE = {"type": "image", "image_url": "https://pictures.example/1.png"}
FILE = {"type": "file", "file_id": "file_1"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "events?text=bogus"),
        ("GET", "events?events=bogus"),
        ("DELETE", "?force=yes"),
    ],
)
async def test_a_word_of_a_query_that_nobody_knows_is_refused(method: str, path: str) -> None:
    async with served() as house:
        url = f"{house.url}/api/channels/c"
        await house.http.post(f"{url}/messages", json={"message": "hello", "not_before": time.time() + 1e6})
        async with house.http.request(method, url + ("" if path[0] == "?" else "/") + path) as told:
            assert (told.status, (await told.json())["error"]["code"]) == (400, "invalid_message")


@pytest.mark.parametrize("inbox", ["dropp", [], 1])
async def test_what_a_stop_takes_along_is_said_in_known_words_or_refused(inbox: Any) -> None:
    async with served() as house:
        await house.http.post(
            f"{house.url}/api/channels/c/messages", json={"message": "hello", "not_before": time.time() + 1e6}
        )
        async with house.http.post(f"{house.url}/api/channels/c/cancel", json={"inbox": inbox}) as told:
            assert (told.status, (await told.json())["error"]["code"]) == (400, "invalid_message")
        async with house.socket() as socket:
            frame = await ask(socket, {"action": "cancel", "channel": "c", "inbox": inbox})
        assert frame["code"] == "invalid_message", json.dumps(frame)


@pytest.mark.parametrize(
    ("part", "taken"),
    [
        (IMAGE, True),
        (IMAGE | {"detail": "low"}, True),
        ({"type": "image", "file_id": "file_1"}, True),
        (FILE | {"filename": "a.pdf"}, True),
        ({"type": "file", "file_data": "data:text/plain;base64,YQ==", "filename": "a.txt"}, True),
        ({"type": "image", "url": "https://pictures.example/1.png"}, False),
        ({"type": "image"}, False),
        (IMAGE | {"file_id": "file_1"}, False),
        (IMAGE | {"image_url": ""}, False),
        (IMAGE | {"image_url": {"url": "https://pictures.example/1.png"}}, False),
        (FILE | {"size": "1"}, False),
    ],
)
async def test_a_part_of_a_message_has_the_fields_of_its_type_and_no_others(part: dict[str, Any], taken: bool) -> None:
    async with served() as house:
        sent = {"content": [{"type": "text", "text": "look"}, part], "not_before": time.time() + 1e6}
        async with house.http.post(f"{house.url}/api/channels/c/messages", json=sent) as told:
            assert told.status == (202 if taken else 400)
            assert taken or "must hold 'image_url' or 'file_id'" in await told.text() or part["type"] == "file"
