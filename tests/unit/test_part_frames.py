"""A stream whose reading fails ends in the words of its dialect, and whoever waits for all of it is told the status."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from turnkeep.doors.http.openai.chat_chunks import ChatChunks
from turnkeep.doors.http.openai.part_frames import frames_of
from turnkeep.doors.http.openai.turn_reader import TextGrowth, TurnPart
from turnkeep.doors.http.sent_events import data_frame
from turnkeep.errors import NotAuthenticated, NotFound, StoreUnavailable, TurnkeepError

ERRORS = [NotAuthenticated("sent away"), NotFound("not known any more"), StoreUnavailable("10.0.0.7 is away")]


async def failing(error: BaseException) -> AsyncIterator[TurnPart]:
    yield TextGrowth("half of ")
    raise error


async def stream(error: BaseException) -> bytes:
    encoder = ChatChunks("chatcmpl-1", "m", 0, tells_usage=False)
    return b"".join([frame async for frame in frames_of(failing(error), encoder, data_frame)])


@pytest.mark.parametrize("error", ERRORS, ids=[error.code for error in ERRORS])
async def test_a_stream_that_cannot_be_read_on_says_so_in_its_dialect(error: TurnkeepError) -> None:
    *_, failure, end, rest = (await stream(error)).split(b"\n\n")
    assert f'"code":"{error.code}"'.encode() in failure
    assert (end, rest) == (b"data: [DONE]", b"")
    assert b"10.0.0.7" not in failure, "what is inside of us is told to nobody"


async def test_who_is_gone_is_told_nothing() -> None:
    with pytest.raises(asyncio.CancelledError):
        await stream(asyncio.CancelledError())
