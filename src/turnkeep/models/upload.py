"""A request that is too large to be written at once: it goes out as fast as it is read, while its reply may come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import suppress
from http import HTTPStatus
from itertools import chain

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import RawResponseMessage

from turnkeep.models.network_failures import NETWORK_ERRORS

LARGE = 1024 * 1024
PIECE = 64 * 1024
"""A body that is larger than `LARGE` is written in such pieces: in one it holds up the loop."""

ReplyHead = tuple[RawResponseMessage, aiohttp.StreamReader]


async def upload(
    line: ResponseHandler, head: bytes, body: Sequence[bytes], *, reply: Awaitable[ReplyHead]
) -> ReplyHead:
    """The head of the reply. It may begin before all is written: a refusal, of who reads nothing more of it, or
    an answer of who reads on.
    """
    try:
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(_write(line, head, body))

            def stop() -> None:
                writing.cancel()

            reply_head, content = await reply
            if reply_head.code == HTTPStatus.OK:
                content.on_eof(stop)
            else:
                stop()
    except ExceptionGroup as errors:  # what was read: what is written raises nothing
        raise errors.exceptions[0] from errors
    return reply_head, content


async def _write(line: ResponseHandler, head: bytes, body: Sequence[bytes]) -> None:
    """As fast as it is read. A connection on which that was not done serves nobody else."""
    # That it is lost is told to who reads it.
    with suppress(*NETWORK_ERRORS):
        try:
            for piece in chain((head,), *map(_cut, body)):
                await line._drain_helper()  # of aiohttp's protocols: waits while the peer takes no more
                if line.transport is not None:
                    line.transport.write(piece)
        except BaseException:
            line.force_close()
            raise


def _cut(words: bytes) -> Iterator[bytes]:
    return (words[place : place + PIECE] for place in range(0, len(words), PIECE))
