"""Bytes on a socket that are no proper frames, or too many of them: nothing is taken in, and the connection ends or
goes on as the protocol says.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Iterator

import pytest

from tests.attack.conftest import Tried
from tests.attack.flooder import frame
from tests.attack.target import Attempt, Target, opened
from tests.patience import PATIENCE
from tests.process.callers import guarded

MESSAGE = b'{"channel": "c", "message": "planted"}'
BIG = (1_000_000_000).to_bytes(8, "big")
UPGRADE = {
    "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
}  # fmt: skip


def head(target: Target, line: str = "GET /ws HTTP/1.1", **changes: str | None) -> bytes:
    """An upgrade, with these headers in place of its own (None: without)."""
    fields = {"Host": target.host, **UPGRADE, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = [line, *[f"{name}: {value}" for name, value in fields.items() if value is not None]]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def masked(opcode: int, data: bytes, *, first: int | None = None) -> bytes:
    """A frame of any size; `first` replaces its first byte."""
    size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xff" + len(data).to_bytes(8, "big")
    return bytes([0x80 | opcode if first is None else first]) + size + b"\0\0\0\0" + data


BAD_FRAMES = {
    "compressed without having agreed on it": masked(1, MESSAGE, first=0xC1),
    "the second reserved bit": masked(1, MESSAGE, first=0xA1),
    "the third reserved bit": masked(1, MESSAGE, first=0x91),
    "unmasked": b"\x81" + bytes([len(MESSAGE)]) + MESSAGE,
    **{f"opcode {opcode}": masked(opcode, MESSAGE) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "a continuation of nothing": masked(0, MESSAGE),
    "a message within a message": frame(1, b"{", fin=False) + masked(1, MESSAGE),
    "a close within a message": frame(1, b"{", fin=False) + masked(8, b"\x03\xe8"),
    "text that is not UTF-8": masked(1, b'{"channel": "c", "message": "\xff\xfe"}'),
    "half a character at the end": masked(1, b'{"channel": "c", "message": "x\xc3'),
    "a long ping": masked(9, b"x" * 126),
    "a ping in pieces": frame(9, b"x", fin=False),
    "a close of one byte": masked(8, b"\x03"),
    "a close with a code that is none": masked(8, b"\x00\x01"),
    "a close whose reason is not UTF-8": masked(8, b"\x03\xe8\xff"),
    "a length above 2^62": b"\x81\xff" + b"\xff" * 8 + b"\0\0\0\0",
    "a gigabyte": b"\x81\xff" + BIG + b"\0\0\0\0" + b"x" * 10_000,
    "more than is read": masked(1, b"x" * 2_500_000),
    "fragments of nothing": frame(1, b"", fin=False) + frame(0, b"", fin=False) * 70,
    "fragments of a byte": frame(1, b" ", fin=False) + frame(0, b" ", fin=False) * 5_000 + masked(0, MESSAGE),
    "fragments between pings": frame(1, b" ", fin=False) + (frame(0, b" ", fin=False) + frame(9, b"", fin=True)) * 99,
}

BAD_UPGRADES: dict[str, dict[str, str | None]] = {
    "without a key": {"Sec_WebSocket_Key": None},
    "with a key that is none": {"Sec_WebSocket_Key": "short"},
    "of version 8": {"Sec_WebSocket_Version": "8"},
    "without a version": {"Sec_WebSocket_Version": None},
    "by a stranger's name": {"Host": "evil.example"},
    "from another page": {"Origin": "https://evil.example"},
    "from nowhere": {"Origin": "null"},
}


async def spoken(target: Target, sent: bytes, *, request: bytes | None = None) -> bytes:
    """What comes back until it is closed, or quiet for a moment."""
    return await target.raw(request or head(target), sent)


def bad_frames() -> Iterator[Attempt]:
    for name, data in BAD_FRAMES.items():
        yield taken_in("frame", name, data)


def taken_in(kind: str, name: str, data: bytes) -> Attempt:
    async def act(target: Target) -> str | None:
        heard = await spoken(target, data)
        return "it was taken in" if b'"accepted"' in heard else None

    return Attempt(kind, name, act)


def bad_upgrades() -> Iterator[Attempt]:
    for name, changes in BAD_UPGRADES.items():
        yield upgraded(name, changes)
    for line in ("POST /ws HTTP/1.1", "GET /ws HTTP/1.0", "GET /api/queue HTTP/1.1", "GET /ws/../ws HTTP/1.1"):
        yield upgraded(line, {}, line)


def upgraded(name: str, changes: dict[str, str | None], line: str = "GET /ws HTTP/1.1") -> Attempt:
    async def act(target: Target) -> str | None:
        heard = await spoken(target, masked(1, MESSAGE), request=head(target, line, **changes))
        return "it was taken in" if b'"accepted"' in heard else None

    return Attempt("upgrade", name, act)


async def test_frames_that_are_none_are_not_taken_in(tried: Tried, caplog: pytest.LogCaptureFixture) -> None:
    """And nothing of it fills the log."""
    async with opened() as target:
        assert b'"accepted"' in await spoken(target, masked(1, MESSAGE)), "a frame that is one is"
        await tried(target, [*bad_frames(), *bad_upgrades()])
        assert (await target.server.queue.store.counts()).open_messages == 1
    assert not [record for record in caplog.records if record.name.startswith("uvicorn") and record.levelno >= 30]


STRANGERS = {
    "nothing": {}, "an empty bearer": {"Authorization": "Bearer "}, "a basic one": {"Authorization": "Basic eDp4"},
    "no subprotocol of ours": {"Sec_WebSocket_Protocol": "turnkeep"}, "a cookie": {"Cookie": "turnkeep_session=x"},
    "a wrong key": {"Authorization": "Bearer tk_00_x"}, "a wrong ticket": {"Sec_WebSocket_Protocol": "ticket.x"},
}  # fmt: skip


async def test_no_frame_of_a_stranger_is_read(tried: Tried) -> None:
    """Neither behind an upgrade that is refused, nor in the same bytes as the upgrade."""

    def stranger(name: str, changes: dict[str, str], data: bytes, *, at_once: bool) -> Attempt:
        async def act(target: Target) -> str | None:
            request = head(target, **changes)
            pieces = [request + data] if at_once else [request, data]
            heard = await target.raw(*pieces)
            if b'"accepted"' in heard:
                return "it was taken in"
            shows_nothing = not changes.keys() & {"Authorization"} and "ticket" not in str(changes)
            if shows_nothing and b" 101 " in heard:
                return "the upgrade was accepted"
            return None

        return Attempt("stranger", name, act)

    async with guarded() as house:
        attempts = [
            stranger(f"{what} {name}{' at once' if at_once else ''}", changes, data, at_once=at_once)
            for what, changes in STRANGERS.items()
            for name, data in (("and a message", masked(1, MESSAGE)), *BAD_FRAMES.items())
            for at_once in (False, True)
        ]
        before = await house.state()
        await tried(Target(house.server), attempts)
        assert await house.state() == before


@pytest.mark.parametrize("name", ["fragments of nothing", "fragments of a byte", "fragments between pings"])
async def test_a_message_in_too_many_pieces_ends_its_socket(name: str) -> None:
    async with opened() as target, target.server.socket() as socket, asyncio.timeout(PATIENCE):
        socket.transport.write(BAD_FRAMES[name])
        await socket.wait_closed()
        assert socket.close_code == 1008


async def test_a_large_message_may_come_in_many_pieces() -> None:
    """Libraries cut at some kilobytes."""
    async with opened() as target, target.server.socket() as socket, asyncio.timeout(PATIENCE):
        text = "x" * 200_000
        pieces = [
            f'{{"channel": "c", "message": "{text[:1000]}',
            *[text[n : n + 1000] for n in range(1000, 200_000, 1000)],
        ]
        await socket.send([*pieces, '"}'])
        assert '"accepted"' in str(await socket.recv())
