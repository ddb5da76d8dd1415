"""A large request is written as fast as it is read, and heard out by who still writes it."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from tests.raw_server import OK, client_of, served, text_of
from turnkeep.errors import ModelError, ModelUnavailable
from turnkeep.models.reading import PLACE_OF_PAST
from turnkeep.models.upload import LARGE


def body_of(size: int) -> dict[str, Any]:
    return {"text": "x" * size}


async def test_a_refusal_is_heard_by_who_still_writes_and_the_connection_is_not_used_again() -> None:
    connections: list[asyncio.StreamWriter] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 400 Bad\r\ncontent-length: 33\r\n\r\n{"error":{"message":"no thanks"}}')
        await gone.wait()

    gone = asyncio.Event()
    async with served(refuse) as url, client_of(url) as client:
        for _ in range(2):
            with pytest.raises(ModelError, match="no thanks"):
                await client.post(f"{url}/responses", body_of(32 * LARGE), {})
        gone.set()
    assert len(connections) == 2


async def test_a_large_request_is_written_whole_and_the_connection_serves_again() -> None:
    sizes: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            sizes.append(len(await reader.readexactly(size)))
            writer.write(OK)

    async with served(answer) as url, client_of(url) as client:
        for size in (3 * LARGE, 3):
            assert await text_of(await client.post(f"{url}/responses", body_of(size), {})) == b"{}"
    assert sizes == [3 * LARGE + 11, 3 + 11]


@pytest.mark.parametrize("size", [0, 100, LARGE // 2, 3 * LARGE])
async def test_a_past_that_is_in_words_already_stands_in_its_place(size: int) -> None:
    bodies: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            head = await reader.readuntil(b"\r\n\r\n")
            bodies.append(await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])))
            writer.write(OK)

    past = orjson.dumps("p" * size)
    body = {"before": "a\0b", "said": orjson.Fragment(b"[" + PLACE_OF_PAST + b",1]"), "after": "c"}
    async with served(answer) as url, client_of(url) as client:
        for _ in range(2):
            assert await text_of(await client.post(f"{url}/responses", body, {}, past=past)) == b"{}"
    assert [orjson.loads(one) for one in bodies] == [{"before": "a\0b", "said": ["p" * size, 1], "after": "c"}] * 2


async def test_a_connection_that_breaks_while_a_large_request_is_written_is_a_failure_of_the_network() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async with served(hang_up) as url, client_of(url) as client:
        with pytest.raises(ModelUnavailable):
            await client.post(f"{url}/responses", body_of(32 * LARGE), {})


async def test_who_answers_before_he_has_read_all_is_told_all() -> None:
    sizes: list[int] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for size in (32 * LARGE + 11, 14):
            await reader.readuntil(b"\r\n\r\n")
            head, body = OK.split(b"{}")[0], b"{}"
            writer.write(head)
            sizes.append(len(await reader.readexactly(size)))
            writer.write(body)

    async with served(answer) as url, client_of(url) as client:
        for size in (32 * LARGE, 3):
            assert await text_of(await client.post(f"{url}/responses", body_of(size), {})) == b"{}"
    assert sizes == [32 * LARGE + 11, 14]


async def test_an_answer_that_is_whole_before_all_is_read_ends_the_request() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK)
        await gone.wait()

    gone = asyncio.Event()
    async with served(answer) as url, client_of(url) as client:
        assert await text_of(await client.post(f"{url}/responses", body_of(32 * LARGE), {})) == b"{}"
        gone.set()
