"""What may be the beginning of a request, and how a connection is read."""

from __future__ import annotations

import asyncio

import pytest

from turnkeep.doors.transport import LARGEST_HEAD, SLICE, Backlog, Valve, is_head


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
    assert is_head(data) is fits


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


async def test_what_was_read_is_parsed_in_order_and_others_have_their_turn() -> None:
    """Much at once is not parsed at once, and nothing more is read until it is."""
    pipe, parsed = Pipe(), bytearray()

    def parse(data: bytes) -> float:
        assert len(data) <= SLICE
        parsed.extend(data)
        return 0.001 if len(parsed) < 3 * SLICE else 0.0

    backlog = Backlog(Valve(pipe), parse)
    data = bytes(range(256)) * 40
    backlog.take(data)
    assert bytes(parsed) == data[:SLICE], "it is to wait after the first slice"
    backlog.take(b"more")
    assert pipe.calls == ["pause"]
    async with asyncio.timeout(20):
        while pipe.calls[-1] != "resume":
            await asyncio.sleep(0)
    assert bytes(parsed) == data + b"more"
    backlog.take(b"!")
    assert parsed.endswith(b"more!")
    assert pipe.calls == ["pause", "resume"]


async def test_a_connection_that_ends_leaves_nothing_to_parse() -> None:
    pipe, parsed = Pipe(), bytearray()

    def parse(data: bytes) -> float:
        parsed.extend(data)
        return 0.001

    backlog = Backlog(Valve(pipe), parse)
    backlog.take(b"x" * 3 * SLICE)
    backlog.drop()
    await asyncio.sleep(0.02)
    assert len(parsed) == SLICE
