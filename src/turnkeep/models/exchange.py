"""One request, one answer: what both protocols have in common around their own
way of reading frames.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from itertools import chain
from typing import Any, Protocol
from urllib.parse import quote

from turnkeep.errors import AnswerMalformed, ModelError, ModelRateLimited, ModelTimedOut, ModelUnreachable
from turnkeep.lean_dataclass import dataclass
from turnkeep.models.capabilities import Capabilities, Lesson, Lessons
from turnkeep.models.http_client import Client, Reply
from turnkeep.models.model import Delta, ModelRequest, OnText, StreamPart
from turnkeep.models.reading import StreamEvent, made_whole
from turnkeep.models.refusals import lessons_in
from turnkeep.telemetry import get_log

log = get_log(__name__)

MOST_LESSONS = 5
"""How often one request is put into another form."""


class AnswerReader(Protocol):
    """Turns the frames of one answer into parts."""

    @property
    def is_done(self) -> bool:
        """Nothing more is to be read: the terminal event is here."""
        ...

    @property
    def is_answered(self) -> bool:
        """The answer is complete; a connection that breaks from here on takes nothing away."""
        ...

    def parts(self, frames: list[StreamEvent]) -> Iterator[StreamPart]:
        """Raises ModelError for every kind of failure that frames can tell of."""
        ...

    def ending(self) -> Iterator[StreamPart]:
        """What is left to say, `Finish` last.

        Raises AnswerMalformed when there was no terminal event.
        """
        ...


@dataclass(frozen=True, slots=True)
class Asking:
    """One request as it is sent, and how its answer is read."""

    body: Mapping[str, Any]
    past: bytes
    """What stands in the body at its place."""
    headers: Mapping[str, str]
    reading: Callable[[Reply], AnswerReader]


class Put(Protocol):
    """Puts a request into the words of its protocol."""

    def __call__(self, caps: Capabilities, *, whole: bool = False) -> Asking:
        """`whole`: with a body that can be looked at, instead of one with a place for the past."""
        ...


class Pusher:
    """Hands text on at the moment it arrives, and keeps the first part that is none, with all after it."""

    def __init__(self, reader: AnswerReader, on_text: OnText | None) -> None:
        self._reader = reader
        self._on_text = on_text
        self.rest: Iterator[StreamPart] = iter(())

    def take(self, frames: list[StreamEvent]) -> bool:
        """Whether nobody has to look: it was text alone, and goes on."""
        parts, on_text = self._reader.parts(frames), self._on_text
        for part in parts:
            if part.__class__ is not Delta or on_text is None:
                self.rest = chain((part,), parts)
                return False
            on_text(part.text)
        self.rest = iter(())
        return not self._reader.is_done


async def read_parts(
    reply: Reply, reader: AnswerReader, parts: Iterator[StreamPart], on_text: OnText | None
) -> AsyncGenerator[StreamPart, None]:
    """These parts, and those of what is still to be read; text goes to `on_text`, if there is one."""
    pusher = Pusher(reader, on_text)
    while True:
        for part in parts:
            # Deltas are whole already: readers join halves of characters themselves.
            if part.__class__ is not Delta:
                yield made_whole(part)
            elif on_text is None:
                yield part
            else:
                on_text(part.text)
        if reader.is_done or await reply.read(pusher.take) is None:
            return
        parts = pusher.rest


def end_parts(reader: AnswerReader, on_text: OnText | None) -> Iterator[StreamPart]:
    """What is left to say, `Finish` last."""
    for part in map(made_whole, reader.ending()):
        if part.__class__ is Delta and on_text is not None:
            on_text(part.text)
        else:
            yield part


class Asker:
    """Makes requests to one endpoint in one protocol, in the form that it takes."""

    def __init__(self, client: Client, path: str, lessons: Lessons) -> None:
        self._client = client
        self._url = client.endpoint.url(path)
        self._lessons = lessons

    async def exchange(self, model: str, put: Put, on_text: OnText | None = None) -> AsyncGenerator[StreamPart, None]:
        """Send a request and yield the parts of its answer, `Finish` last and with the connection
        already free.

        `put` puts the request into words. One that is refused for its form is made again in the
        form that the refusal asks for, before anything was yielded, a few times at most. Closing
        the generator closes the connection at once.
        """
        # Up to its first part an answer may still be a refusal, which another form can get around.
        reply, reader, parts = await self._open(model, put)
        try:
            async with aclosing(read_parts(reply, reader, parts, on_text)) as arriving:
                async for part in arriving:
                    yield part
            # Read to its end, the connection serves the next request.
            await reply.rest()
        except ModelError:
            if not reader.is_answered:
                raise
        finally:
            reply.close()
        for part in end_parts(reader, on_text):
            yield part

    async def _open(self, model: str, put: Put) -> _Opening:
        caps = self._lessons.capabilities.get(model, self._lessons.start)
        asking, lessons = put(caps), list[Lesson]()
        while True:
            try:
                opening = await _begin(self._client, self._url, asking)
            except ModelError as error:
                better = _better(error, caps, put) if len(lessons) < MOST_LESSONS else None
                if better is None:
                    raise
                lesson, caps, asking = better
                lessons.append(lesson)
                continue
            # Only now, when the new form was taken: a wrong guess must not change later requests.
            for lesson in lessons:
                self._learn(model, lesson)
            return opening

    def _learn(self, model: str, lesson: Lesson) -> None:
        changes = {name: sorted(value) if isinstance(value, set) else value for name, value in lesson.changes.items()}
        log.warning("request_fitted", model=model, endpoint=self._client.endpoint.host, **changes)
        if lesson.remember:
            self._lessons.keep(model, lesson)


_Opening = tuple[Reply, AnswerReader, Iterator[StreamPart]]


async def _begin(client: Client, url: str, asking: Asking) -> _Opening:
    """The answer to one request, with its first parts. Raises the failure that it begins with."""
    reply = await client.post(url, asking.body, asking.headers, past=asking.past)
    try:
        reader = asking.reading(reply)
        while not reader.is_done and (frames := await reply.read()) is not None:
            parts = reader.parts(frames)
            if (first := next(parts, None)) is not None:
                return reply, reader, chain((first,), parts)
    except BaseException:
        reply.close()
        raise
    return reply, reader, iter(())


def _better(error: ModelError, caps: Capabilities, put: Put) -> tuple[Lesson, Capabilities, Asking] | None:
    """The first lesson of a refusal that makes another request of this one."""
    # A rate, the network and a broken answer say nothing about the form of the request.
    if isinstance(error, ModelRateLimited | ModelUnreachable | ModelTimedOut | AnswerMalformed):
        return None
    body = put(caps, whole=True).body
    for lesson in lessons_in(str(error), body):
        other = lesson.apply(caps)
        if other != caps and (again := put(other, whole=True)).body != body:
            return lesson, other, again
    return None


def label_headers(request: ModelRequest) -> dict[str, str]:
    """The labels of a request as headers, for servers that take no metadata."""
    return {
        f"X-{name.replace('_', '-').title()}": quote(value, safe=" /:@+,;=") for name, value in request.labels.items()
    }


def origin_fields(request: ModelRequest, caps: Capabilities) -> dict[str, Any]:
    """Whose request it is, as far as the server takes that: labels, the group of the prompt cache."""
    fields: dict[str, Any] = {}
    if caps.takes_metadata and request.labels:
        fields["metadata"] = dict(request.labels)
    if caps.takes_cache_key and request.cache_key:
        fields["prompt_cache_key"] = request.cache_key
    return fields
