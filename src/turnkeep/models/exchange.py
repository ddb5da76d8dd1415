"""One request, one answer: what both protocols have in common around their own way of reading frames."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from typing import Any, Protocol
from urllib.parse import quote

from turnkeep.errors import ModelError
from turnkeep.models.base import ModelRequest, StreamPart
from turnkeep.models.http import Client, Reply
from turnkeep.models.sse import Frame


class Reader(Protocol):
    """Turns the frames of one answer into parts."""

    @property
    def done(self) -> bool:
        """Nothing more is to be read: the terminal event is here."""
        ...

    @property
    def answered(self) -> bool:
        """The answer is complete; a connection that breaks from here on takes nothing away."""
        ...

    def parts(self, frames: list[Frame]) -> Iterator[StreamPart]:
        """Raises ModelError for every kind of failure that frames can tell of."""
        ...

    def ending(self) -> Iterator[StreamPart]:
        """What is left to say, `Finish` last. Raises AnswerMalformed when there was no terminal event."""
        ...


async def exchange(
    client: Client, path: str, body: Mapping[str, Any], headers: Mapping[str, str], reading: Callable[[Reply], Reader]
) -> AsyncGenerator[StreamPart, None]:
    """Send one request and yield the parts of its answer, `Finish` last and with the connection already free.

    Closing the generator closes the connection at once.
    """
    reply = await client.post(path, body, headers)
    reader = reading(reply)
    try:
        while not reader.done and (frames := await reply.read()) is not None:
            for part in reader.parts(frames):
                yield part
        await reply.rest()
    except ModelError:
        if not reader.answered:
            raise
    finally:
        reply.close()
    for part in reader.ending():
        yield part


def label_headers(request: ModelRequest) -> dict[str, str]:
    """The labels of a request as headers, for servers that take no metadata."""
    return {
        f"X-{name.replace('_', '-').title()}": quote(value, safe=" /:@+,;=") for name, value in request.labels.items()
    }
