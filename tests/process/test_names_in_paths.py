"""A channel and a message may be called anything, also in a path."""

from __future__ import annotations

import time
from urllib.parse import quote

import aiohttp
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient
from yarl import URL

from tests.process.served import Served, served
from turnkeep import asgi
from turnkeep.queue import AssistantMessageQueue
from turnkeep.settings import Settings
from turnkeep.simulator import Simulator, serve

NAMES = [
    "a",
    "a/messages",
    "x/messages/y",
    "a\n",
    "\nsecret",
    "a%2Fb",
    "a b",
    "ü😀",
    "a?b#c",
    "%",
    "thread:1{*}",
    ".x",
    "q" * 512,
]


def at(house: Served, *segments: str) -> URL:
    return URL(f"{house.url}/api/channels/" + "/".join(quote(one, safe="") for one in segments), encoded=True)


async def told(answer: aiohttp.client._RequestContextManager) -> tuple[int, dict[str, object]]:
    async with answer as response:
        return response.status, (await response.json() if response.status != 204 else {})


async def test_every_name_is_a_thread_of_its_own() -> None:
    async with served() as house:
        for number, name in enumerate(NAMES):
            sent = {"message": f"hello {number}", "message_id": f"m{number}", "not_before": time.time() + 1e6}
            url = at(house, name) / "messages"
            assert (await told(house.http.post(url, json=sent)))[0] == 202, name
        for number, name in enumerate(NAMES):
            status, thread = await told(house.http.get(at(house, name)))
            assert (status, thread["channel"], thread["open_messages"]) == (200, name, 1)
            status, listed = await told(house.http.get(at(house, name) / "messages"))
            assert [record["message_id"] for record in listed["open"]] == [f"m{number}"]  # type: ignore[attr-defined]
        for name in NAMES[1:]:
            assert (await told(house.http.delete(at(house, name), params={"force": "true"})))[0] == 204
        assert (await told(house.http.get(at(house, "a"))))[0] == 200


async def test_a_message_may_be_called_anything() -> None:
    async with served() as house:
        for name in NAMES:
            sent = {"message": "hello", "message_id": name, "not_before": time.time() + 1e6}
            status, answer = await told(house.http.post(at(house, "c", "messages"), json=sent))
            if status == 400:
                assert answer["error"]["code"] == "invalid_message"  # type: ignore[index]
                continue
            status, record = await told(house.http.get(at(house, "c", "messages", name)))
            assert (status, record["message_id"]) == (200, name)


@pytest.mark.parametrize("path", ["/api/%63hannels/c", "/%61pi/channels/%63"])
async def test_needless_encoding_changes_nothing(path: str) -> None:
    async with served() as house:
        await told(
            house.http.post(at(house, "c", "messages"), json={"message": "hello", "not_before": time.time() + 1e6})
        )
        status, thread = await told(house.http.get(URL(house.url + path, encoded=True)))
        assert (status, thread["channel"]) == (200, "c")


async def test_a_path_that_is_no_text_is_refused() -> None:
    async with served() as house:
        status, answer = await told(house.http.get(URL(f"{house.url}/api/channels/%ff", encoded=True)))
        assert (status, answer["error"]["code"]) == (400, "invalid_message")  # type: ignore[index]


@pytest.mark.parametrize("zeros", [30, 5_000])
async def test_a_limit_with_many_zeros_is_a_number_like_others(zeros: int) -> None:
    async with served() as house:
        await told(
            house.http.post(at(house, "c", "messages"), json={"message": "hello", "not_before": time.time() + 1e6})
        )
        status, _ = await told(house.http.get(at(house, "c", "messages"), params={"limit": "0" * zeros + "5"}))
        assert status == 200
        status, answer = await told(house.http.get(at(house, "c", "messages"), params={"limit": "0" * zeros + "99999"}))
        assert (status, answer["error"]["code"]) == (400, "invalid_message")  # type: ignore[index]


async def test_the_same_holds_where_it_is_mounted() -> None:
    async with serve(Simulator()) as url:
        settings = Settings.load(store="memory:", openai_base_url=url, openai_api_key="sk-test")
        queue = AssistantMessageQueue.from_settings(settings)
        outer = Starlette(routes=[Mount("/chat room", asgi.app(queue, access=asgi.OpenAccess(), worker=False))])
        with TestClient(outer, base_url="http://localhost") as client:
            for name in (name for name in NAMES if "\n" not in name):  # of those the router around ours knows nothing
                told = client.post(
                    f"/chat%20room/api/channels/{quote(name, safe='')}/messages",
                    json={"message": "x", "not_before": time.time() + 1e6},
                )
                assert told.status_code == 202, (name, told.text)
                shown = client.get(f"/chat%20room/api/channels/{quote(name, safe='')}").json()
                assert shown["channel"] == name
