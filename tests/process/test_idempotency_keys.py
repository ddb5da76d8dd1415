"""A caller that names its calls may send them again, over HTTP and on a socket: what others did meanwhile stays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from tests.process.served import Served, ask, served
from turnkeep.messages import Message, text_content
from turnkeep.store.contract import Store

Do = Callable[[Store, Any], Awaitable[Any]]
CHANNEL = "c"
LONG: dict[str, Any] = {"window": 60.0, "max_wait": 60.0}


class Case(NamedTuple):
    """A call, what somebody does after it, and what has to be true still after its repeat."""

    method: str
    path: str
    body: dict[str, Any]
    frame: dict[str, Any]
    meanwhile: Callable[[Store, Any], Awaitable[Any]]
    seen: Callable[[Store, Any], Awaitable[Any]]
    expected: Any


async def _paused(store: Store, where: Any) -> bool:
    record = await store.thread(where)
    return record is not None and record.paused


async def _text(store: Store, where: Any) -> str:
    [first, *_] = await store.open_messages(where)
    assert first.message is not None
    return first.message.text


async def _say_more(store: Store, where: Any) -> Any:
    return await store.accept([Message(where, "m2", text_content("more"), **LONG)])


async def _open(store: Store, where: Any) -> list[str]:
    return [record.message_id for record in await store.open_messages(where)]


async def _metadata(store: Store, where: Any) -> dict[str, str]:
    record = await store.thread(where)
    assert record is not None
    return dict(record.metadata)


CASES = {
    "pause": Case("POST", "/pause", {}, {"action": "pause"}, lambda s, w: s.resume(w), _paused, False),
    "edit": Case("PATCH", "/messages/m1", {"message": "first"},
                 {"action": "edit", "message_id": "m1", "message": "first"},
                 lambda s, w: s.edit(w, "m1", text_content("second")), _text, "second"),
    "cancel": Case("POST", "/cancel", {"inbox": "drop"}, {"action": "cancel", "inbox": "drop"}, _say_more, _open,
                   ["m2"]),
    "withdraw": Case("DELETE", "/messages/m1", {}, {"action": "withdraw", "message_id": "m1"}, _say_more, _open,
                     ["m2"]),
    "forget": Case("DELETE", "?force=true", {}, {}, _say_more, _open, ["m2"]),
    "metadata": Case("PATCH", "", {"metadata": {"a": "1"}}, {}, lambda s, w: s.update(w, {"metadata": {"a": "2"}}),
                     _metadata, {"a": "2"}),
}  # fmt: skip


@pytest_asyncio.fixture
async def house() -> AsyncIterator[Served]:
    async with served() as house:
        await house.queue.open()
        where = house.queue.address(CHANNEL)
        await house.queue.store.accept([Message(where, "m1", text_content("hello"), **LONG)])
        yield house


async def send(house: Served, case: Case, key: str) -> tuple[int, str]:
    url = f"{house.url}/api/channels/{CHANNEL}{case.path}"
    headers = {"Idempotency-Key": key}
    async with house.http.request(case.method, url, json=case.body or None, headers=headers) as told:
        return told.status, await told.text()


@pytest.mark.daily(rows=2)  # the contract of stores has them all
@pytest.mark.parametrize("name", CASES)
async def test_a_named_request_over_http_is_done_once(house: Served, name: str) -> None:
    case, store, where = CASES[name], house.queue.store, house.queue.address(CHANNEL)
    first = await send(house, case, "k1")
    assert first[0] in (200, 204), first
    await case.meanwhile(store, where)

    again = await send(house, case, "k1")

    assert again == first
    assert await case.seen(store, where) == case.expected


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.frame])
async def test_a_named_frame_on_a_socket_is_done_once(house: Served, name: str) -> None:
    case, store, where = CASES[name], house.queue.store, house.queue.address(CHANNEL)
    frame = {**case.frame, "channel": CHANNEL, "idempotency_key": "k1"}
    async with house.socket() as socket:
        first = await ask(socket, frame)
        assert first["type"] == "status", first
        await case.meanwhile(store, where)

        again = await ask(socket, frame)

    assert again | {"timestamp": 0} == first | {"timestamp": 0}
    assert await case.seen(store, where) == case.expected


async def test_another_key_names_another_call(house: Served) -> None:
    case, store, where = CASES["pause"], house.queue.store, house.queue.address(CHANNEL)
    await send(house, case, "k1")
    await store.resume(where)

    await send(house, case, "k2")

    assert await _paused(store, where)


@pytest.mark.parametrize("key", ["", "x" * 513])
async def test_a_key_that_is_none_is_refused(house: Served, key: str) -> None:
    status, told = await send(house, CASES["pause"], key)

    assert (status, "idempotency key" in told) == (400, True), told
    assert not await _paused(house.queue.store, house.queue.address(CHANNEL))
