"""What may be the beginning of a request, and how a connection is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.patience import PATIENCE
from turnkeep.doors.backlog import AT_ONCE, PIECES_AT_ONCE, SLICE, Backlog, Rota, Valve
from turnkeep.doors.http_transport import refusal_of_head
from turnkeep.doors.request_refusals import LARGEST_HEAD


@pytest.mark.parametrize(
    ("data", "fits"),
    [
        (b"", True), (b"G", True), (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True), (b"GET / HTTP/1.1\r", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\nbody\nwith\n lines", True), (b"\r\nGET / HTTP/1.1\r\n\r\n", True),
        (b"GET / HTTP/1.1\nHost: a\r\n\r\n", False), (b"GET / HTTP/1.1\r\nHost: a\n\r\n", False),
        (b"GET / HTTP/1.1\nHost: a\n\n", False), (b"\nGET / HTTP/1.1\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nX-A: b\r\n c\r\n\r\n", False), (b"GET / HTTP/1.1\r\nX-A: b\r\n\tc\r\n\r\n", False),
        (b" GET / HTTP/1.1\r\n\r\n", False), (b"GET / HTTP/1.1\r\n X-A: b\r\n\r\n", False),
        (b"GET /" + b"a" * (LARGEST_HEAD - 5), True), (b"GET /" + b"a" * LARGEST_HEAD, False),
    ],
)  # fmt: skip
def test_a_head_has_proper_lines_and_a_size(data: bytes, *, fits: bool) -> None:
    assert (refusal_of_head(data) is None) is fits


class Pipe(asyncio.Transport):
    """A transport that notes when it is told to read."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.is_over = False

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def abort(self) -> None:
        self.is_over = True

    def is_closing(self) -> bool:
        return self.is_over

    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise AssertionError("nothing is written here")


def test_a_valve_opens_when_nobody_holds_it() -> None:
    pipe = Pipe()
    valve = Valve(pipe)
    valve.pause_reading()
    valve.pause_reading()
    valve.hold("peer")
    valve.resume_reading()
    assert pipe.calls == ["pause"]
    valve.release("peer")
    valve.release("peer")
    assert pipe.calls == ["pause", "resume"]
    pipe.is_over = True
    valve.hold("peer")
    valve.release("peer")
    assert pipe.calls == ["pause", "resume"], "a transport that closes is left alone"


async def emptied(pipe: Pipe) -> None:
    async with asyncio.timeout(PATIENCE):
        while pipe.calls[-1] != "resume":
            await asyncio.sleep(0)


async def test_what_was_read_is_parsed_in_order_and_nothing_more_is_read_until_then() -> None:
    pipe, parsed, sizes = Pipe(), bytearray(), []

    def parse(data: bytes) -> int:
        sizes.append(len(data))
        parsed.extend(data)
        return 1

    backlog = Backlog(Valve(pipe), parse, Rota())
    data = bytes(range(256)) * 400
    backlog.feed(b"at once")
    assert bytes(parsed) == b"at once"
    backlog.feed(data)
    backlog.feed(b"more")
    assert pipe.calls == ["pause"]
    await emptied(pipe)
    assert bytes(parsed) == b"at once" + data + b"more"
    assert sizes[1:4] == [SLICE, 2 * SLICE, 4 * SLICE], "what is one piece is read in larger slices"


async def test_what_is_made_of_many_pieces_is_parsed_in_small_slices_and_slowly() -> None:
    pipe, sizes = Pipe(), []

    def parse(data: bytes) -> int:
        sizes.append(len(data))
        return PIECES_AT_ONCE

    backlog = Backlog(Valve(pipe), parse, Rota())
    backlog.feed(b"x" * 4 * SLICE)
    for _ in range(10):
        await asyncio.sleep(0)
    assert sizes == [SLICE, SLICE], "the second was more than a second's share allows"


async def test_connections_have_their_turn_one_after_the_other() -> None:
    rota, order = Rota(), []

    def parser(name: str) -> Callable[[bytes], int]:
        def parse(_: bytes) -> int:
            order.append(name)
            return 2

        return parse

    pipes = [Pipe(), Pipe()]
    for name, pipe in zip("ab", pipes, strict=True):
        Backlog(Valve(pipe), parser(name), rota).feed(b"x" * 3 * SLICE)
    for pipe in pipes:
        await emptied(pipe)
    assert order == ["a", "b"] * 3


async def test_one_address_that_asks_a_thousand_times_at_once_is_answered_in_turn_with_the_others() -> None:
    """Each a little, which is parsed at once where there is no more of it."""
    rota, order = Rota(), []

    def parser(name: str) -> Callable[[bytes], int]:
        def parse(_: bytes) -> int:
            order.append(name)
            return 0

        return parse

    many = [Backlog(Valve(Pipe()), parser("many"), rota, "10.0.0.1") for _ in range(1_000)]
    for one in many:
        one.feed(b"GET")
    assert len(order) == AT_ONCE
    Backlog(Valve(Pipe()), parser("other"), rota, "10.0.0.2").feed(b"GET")
    assert order[-1] == "other"
    for _ in range(AT_ONCE):
        Backlog(Valve(Pipe()), parser("late"), rota, "10.0.0.2").feed(b"GET")
    async with asyncio.timeout(PATIENCE):
        while len(order) < 1_000 + 1 + AT_ONCE:
            await asyncio.sleep(0)
    assert order.index("late") <= AT_ONCE + 1
    assert max(place for place, name in enumerate(order) if name == "late") <= 3 * AT_ONCE


async def test_a_connection_that_ends_leaves_nothing_to_parse() -> None:
    pipe, parsed = Pipe(), bytearray()

    def parse(data: bytes) -> int:
        parsed.extend(data)
        return PIECES_AT_ONCE * 2

    backlog = Backlog(Valve(pipe), parse, Rota())
    backlog.feed(b"x" * 3 * SLICE)
    await asyncio.sleep(0)
    backlog.end()
    await asyncio.sleep(0.02)
    assert len(parsed) <= SLICE


async def test_a_connection_that_cannot_be_parsed_is_given_up_and_the_others_go_on() -> None:
    rota, (bad, good), parsed = Rota(), (Pipe(), Pipe()), bytearray()

    def parse_badly(_: bytes) -> int:
        raise ValueError("a bug of ours")

    def parse(data: bytes) -> int:
        parsed.extend(data)
        return 1

    Backlog(Valve(bad), parse_badly, rota).feed(b"x" * 2 * SLICE)
    Backlog(Valve(good), parse, rota).feed(b"y" * 2 * SLICE)
    await emptied(good)
    assert bad.is_over
    assert bytes(parsed) == b"y" * 2 * SLICE
