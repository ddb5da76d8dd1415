"""One request to a provider and the head of its reply, over a connection that was kept or not: byte for byte."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from tests.contract.canned import Visit, canned
from tests.patience import until
from tests.raw_server import OK, client_of, served, text_of
from turnkeep.errors import ConfigurationError, ModelRefused, ModelUnavailable
from turnkeep.models.provider import Provider


async def test_what_is_said_before_the_head_is_passed_over() -> None:
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + OK)

    async with served(answer) as url, client_of(url) as client:
        assert await text_of(await client.get("/models")) == b"{}"
    assert heads[0].startswith(b"GET /v1/models HTTP/1.1\r\n")
    assert b"content-length" not in heads[0].lower()


@pytest.mark.parametrize("status", [100, 102, 103, 104, 199])
async def test_no_status_of_the_first_hundred_is_the_head(status: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d Soon\r\n\r\n" % status + OK)

    async with served(answer) as url, client_of(url) as client:
        assert await text_of(await client.get("/models")) == b"{}"


async def lose_the_second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server that closes a connection as the next request comes."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(OK)
    await reader.readuntil(b"\r\n\r\n")


async def test_what_only_reads_is_asked_again_where_a_kept_connection_was_closed() -> None:
    async with served(lose_the_second) as url, client_of(url) as client:
        for _ in range(2):
            assert await text_of(await client.get("/models")) == b"{}"


async def test_what_may_have_been_done_is_not_asked_again() -> None:
    async with served(lose_the_second) as url, client_of(url) as client:
        await text_of(await client.get("/models"))
        with pytest.raises(ModelUnavailable):
            await client.post(f"{url}/responses", {}, {})


async def test_what_nobody_asked_for_is_no_answer_to_the_next_request() -> None:
    answers = iter((b"11", b"22"))

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK.replace(b"{}", next(answers)))
        await asked.wait()
        writer.write(OK.replace(b"{}", b"00"))
        await gone.wait()

    asked, gone = asyncio.Event(), asyncio.Event()
    async with served(answer) as url, client_of(url) as client:
        assert await text_of(await client.get("/models")) == b"11"
        asked.set()
        connector = client._connector
        assert connector is not None
        (((protocol, _),),) = connector._conns.values()
        await until(lambda: protocol.should_close)
        asked.clear()
        assert await text_of(await client.get("/models")) == b"22"
        gone.set()
        asked.set()


async def test_who_has_no_room_says_so_before_he_is_asked() -> None:
    connections: list[asyncio.StreamWriter] = []

    async def turn_away(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.write(b'HTTP/1.1 503 Busy\r\ncontent-length: 32\r\n\r\n{"error":{"message":"too many"}}')
        await reader.readuntil(b"\r\n\r\n")

    async with served(turn_away) as url, client_of(url) as client:
        with pytest.raises(ModelUnavailable, match="too many"):
            await client.get("/models")
    assert len(connections) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"url": "http://ex\u00e4..mple/v1"},
        {"url": "http://" + "\u00e4" * 80 + "/v1"},
        {"url": "http://127.0.0.1:9/v1", "proxy": "http://[::1"},
        {"url": "http://127.0.0.1:9/v1", "proxy": "http://me:opensesame@proxy:99999"},
        {"url": "http://127.0.0.1:9/v1", "proxy": "me:opensesame@proxy:3128"},
    ],
)
async def test_an_address_that_is_none_is_a_failure_of_the_network(options: dict[str, Any]) -> None:
    async with client_of(**options) as client:
        with pytest.raises(ModelUnavailable) as failure:
            await client.get("/models")
    assert "opensesame" not in str(failure.value)


async def test_a_header_is_said_once_and_the_nearest_to_the_request_counts() -> None:
    heads: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(OK)

    async with served(answer) as url:
        own = {"authorization": "Bearer theirs", "X-Team": "one"}
        async with client_of(url, api_key="ours", headers=own) as client:
            (await client.post(f"{url}/responses?a=b", {}, {"x-team": "two"})).close()
    first, *lines = heads[0].removesuffix("\r\n\r\n").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert first == "POST /v1/responses?a=b HTTP/1.1"
    assert len(headers) == len(lines)
    assert headers["host"] == url.removeprefix("http://").removesuffix("/v1")
    assert (headers["authorization"], headers["x-team"], headers["content-length"]) == ("bearer theirs", "two", "2")


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r", "\0", "\x01", "\x85", "\ud800"], ids=ascii)
async def test_no_value_becomes_a_header_of_its_own(end: str) -> None:
    async def answer(visit: Visit) -> None:
        visit.whole("{}")

    async with canned(answer) as server, client_of(server.url) as client:
        url = f"{server.url}/responses"
        with pytest.raises(ModelRefused, match="one line"):
            await client.post(url, {}, {"anthropic-beta": f"one{end}x-team: two"})
        assert await text_of(await client.post(url, {}, {"anthropic-beta": "one"})) == b"{}"
        assert [visit.headers["anthropic-beta"] for visit in server.visits] == ["one"]


@pytest.mark.parametrize("name", ["api_key", "organisation", "project"])
def test_no_setting_becomes_a_header_of_its_own(name: str) -> None:
    with pytest.raises(ConfigurationError, match="one line"):
        Provider("http://model.invalid/v1", **{name: "one\r\nx-team: two"})  # type: ignore[arg-type]


async def test_nothing_that_a_server_sets_is_brought_to_it_by_the_next_request() -> None:
    async def answer(visit: Visit) -> None:
        visit.whole("{}", set_cookie="who=one; Path=/")

    async with canned(answer) as server, client_of(server.url) as client:
        for _ in range(2):
            await text_of(await client.post(f"{server.url}/responses", {}, {}))
        assert [visit.headers.get("cookie") for visit in server.visits] == [None, None]
        assert server.connections == 1


async def test_a_proxy_is_told_its_password_with_every_request() -> None:
    async def answer(visit: Visit) -> None:
        visit.whole("{}")

    async with canned(answer) as proxy:
        address = proxy.url.removesuffix("/v1").replace("//", "//user:secret@")
        async with client_of("http://model.invalid/v1", proxy=address) as client:
            for _ in range(2):
                await text_of(await client.post("http://model.invalid/v1/responses", {}, {}))
        told = "Basic " + base64.b64encode(b"user:secret").decode()
        assert [visit.headers["proxy-authorization"] for visit in proxy.visits] == [told, told]
        assert [visit.path for visit in proxy.visits] == ["http://model.invalid/v1/responses"] * 2


async def test_who_reads_is_told_that_the_connection_was_closed() -> None:
    async def begin(visit: Visit) -> None:
        visit.begin()

    async with canned(begin) as server, client_of(server.url) as client:
        reply = await client.post(f"{server.url}/responses", {}, {})
        reading = asyncio.create_task(reply.read())
        await asyncio.sleep(0)
        reply.close()
        with pytest.raises(ModelUnavailable):
            await reading
        await server.last.left.wait()
