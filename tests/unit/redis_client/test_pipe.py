"""The pipe to Redis: one write per loop tick, replies in order, and honest words about what was lost."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from tests.patience import PATIENCE
from turnkeep.errors import OutcomeUnknown, StoreUnavailable
from turnkeep.store.redis.client.pipe import Pipe, Refusal, transport_of


class Wire(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.aborted = False
        self.protocol: asyncio.BaseProtocol | None = None

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted


def connected(**options: Any) -> tuple[Pipe, Wire]:
    pipe, wire = Pipe(**options), Wire()
    pipe.take_over(wire)
    return pipe, wire


async def tick() -> None:
    await asyncio.sleep(0)


async def test_commands_of_one_tick_are_one_write() -> None:
    pipe, wire = connected()
    replies = [pipe.send("PING") for _ in range(3)]

    await tick()

    assert wire.written == [b"*1\r\n$4\r\nPING\r\n" * 3]
    assert not any(reply.done() for reply in replies)


async def test_replies_come_back_in_order() -> None:
    pipe, _ = connected()
    first, second = pipe.send("GET", "a"), pipe.send("GET", b"b")
    await tick()

    pipe.data_received(b"$1\r\n1\r\n$-1\r\n")

    assert (await first, await second) == (b"1", None)


async def test_half_a_reply_waits_for_its_other_half() -> None:
    pipe, _ = connected()
    reply = pipe.send("GET", "a")
    await tick()

    for byte in b"$5\r\nhel":
        pipe.data_received(bytes([byte]))
    assert not reply.done()
    pipe.data_received(b"lo\r\n")

    assert await reply == b"hello"


async def test_a_refusal_is_a_value() -> None:
    pipe, _ = connected()
    reply = pipe.send("GET", "a")
    await tick()

    pipe.data_received(b"-MOVED 1 127.0.0.1:2\r\n")

    refusal = await reply
    assert isinstance(refusal, Refusal)
    assert str(refusal) == "MOVED 1 127.0.0.1:2"


async def test_what_was_sent_is_unknown_when_the_connection_is_lost() -> None:
    pipe, _ = connected()
    sent = pipe.send("INCR", "a")
    await tick()

    pipe.connection_lost(ConnectionResetError("reset"))

    with pytest.raises(OutcomeUnknown, match="reset"):
        await sent
    assert not pipe.is_open


async def test_what_was_never_sent_did_not_happen() -> None:
    pipe, wire = connected()
    sent = pipe.send("INCR", "a")
    await tick()
    unsent = pipe.send("INCR", "b")

    pipe.connection_lost(None)

    with pytest.raises(OutcomeUnknown):
        await sent
    with pytest.raises(StoreUnavailable):
        await unsent
    with pytest.raises(StoreUnavailable):
        await pipe.send("PING")
    assert b"b" not in b"".join(wire.written)


async def test_a_silent_server_is_given_up() -> None:
    pipe, wire = connected(timeout=0.01)
    reply = pipe.send("PING")

    with pytest.raises(OutcomeUnknown, match="silent"):
        async with asyncio.timeout(PATIENCE):
            await reply

    assert wire.aborted


async def test_a_server_that_answers_slowly_is_not_silent() -> None:
    pipe, wire = connected(timeout=3600)
    commands = [pipe.send("PING") for _ in range(3)]
    await tick()
    pipe._silent_since -= 7200  # they were written two hours ago

    pipe.data_received(b"+PONG\r\n")
    pipe._look_for_silence()

    assert [command.done() for command in commands] == [True, False, False]
    assert not wire.aborted

    pipe._silent_since -= 7200
    pipe._look_for_silence()

    assert wire.aborted


async def test_a_process_that_was_away_before_it_wrote_waits_for_the_answer() -> None:
    pipe, wire = connected(timeout=3600)
    command = pipe.send("PING")
    pipe._silent_since -= 7200  # as in a process that was stopped behind `send`

    await tick()
    pipe._look_for_silence()

    assert not wire.aborted
    pipe.data_received(b"+PONG\r\n")
    assert await command == b"PONG"


async def test_a_command_after_a_long_rest_is_no_silence() -> None:
    pipe, wire = connected(timeout=3600)
    before = pipe.send("PING")
    await tick()
    pipe.data_received(b"+PONG\r\n")
    assert await before == b"PONG"
    pipe._silent_since -= 7200  # nothing was said since

    command = pipe.send("PING")
    pipe._look_for_silence()  # the timer of the first one, at the same turn of the loop

    assert not wire.aborted
    await tick()
    pipe.data_received(b"+PONG\r\n")
    assert await command == b"PONG"


async def test_garbage_ends_the_connection() -> None:
    pipe, wire = connected()
    reply = pipe.send("PING")
    await tick()

    pipe.data_received(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with pytest.raises(OutcomeUnknown, match="no reply"):
        await reply
    assert wire.aborted


async def test_an_answer_that_nobody_asked_for_ends_the_connection() -> None:
    pipe, wire = connected()

    pipe.data_received(b"+PONG\r\n")

    assert wire.aborted


async def test_whoever_stops_waiting_does_not_shift_the_replies() -> None:
    pipe, _ = connected()
    given_up, kept = pipe.send("GET", "a"), pipe.send("GET", "b")
    await tick()
    given_up.cancel()

    pipe.data_received(b"$1\r\n1\r\n$1\r\n2\r\n")

    assert await kept == b"2"


async def test_what_is_in_flight_is_bounded() -> None:
    pipe, _ = connected(in_flight=2)
    first, _second = pipe.send("PING"), pipe.send("PING")
    await tick()
    assert pipe.is_full
    waits = asyncio.ensure_future(pipe.room())
    await tick()
    assert not waits.done()

    pipe.data_received(b"+PONG\r\n")

    await first
    async with asyncio.timeout(PATIENCE):
        await waits


async def test_a_slow_reader_on_the_other_side_makes_the_pipe_full() -> None:
    pipe, _ = connected()
    pipe.pause_writing()
    assert pipe.is_full

    pipe.resume_writing()

    assert not pipe.is_full


async def test_who_waits_for_room_is_told_when_the_connection_is_lost() -> None:
    pipe, _ = connected()
    pipe.pause_writing()
    waits = asyncio.ensure_future(pipe.room())
    await tick()

    pipe.connection_lost(None)

    async with asyncio.timeout(PATIENCE):
        await waits


def test_a_connection_that_has_gone_is_not_written_to() -> None:
    """Between the end of a connection and the word of it; uvloop refuses a write then, asyncio forgets it."""
    loops = pytest.importorskip("uvloop")
    noticed: list[dict[str, Any]] = []

    async def lose_it() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: noticed.append(context))
        ended = asyncio.Event()

        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                await reader.read()
            writer.transport.abort()
            ended.set()

        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            pipe = Pipe()
            pipe.take_over(transport_of(writer))
            writer.transport.abort()
            with pytest.raises(StoreUnavailable):
                await pipe.send("PING")
            await ended.wait()

    with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
        runner.run(lose_it())

    assert noticed == []
