"""One request to a provider and its answer as a stream of frames, under two watchdogs.

`Client` keeps the connections of one endpoint, `Reply` is one answer while it arrives. Nothing is
repeated here, and every failure of the network, of HTTP or of time comes out as a `ModelError`.

`Framer` cuts the bytes into server-sent events by the standard: lines end with LF, CRLF or CR (also
when a read falls between the two), one leading byte order mark, comments, several `data` lines in
one event, `event`, `id` and `retry`. An event that the end of the stream cuts off is not given by
`push`; `rest` has it. Bytes stay bytes: a character split over two reads needs no care. Beyond the
standard, a line `error: …` (llama.cpp) is an event of that name. Cost matters here, every token
passes: what all OpenAI-compatible servers send (LF, one `data` line, at most one `event` line
before it) never reaches the line parser.
"""

from __future__ import annotations

import asyncio
import io
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import aiohttp
import orjson
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import HttpProcessingError

from turnkeep.errors import (
    AnswerMalformed,
    EndpointBlocked,
    ModelError,
    ModelTimedOut,
    ModelUnavailable,
    ModelUnreachable,
)
from turnkeep.models.classify import classify, scrub
from turnkeep.models.http_session import open_session
from turnkeep.models.provider import Provider
from turnkeep.models.reading import is_json, json_bytes, request_id
from turnkeep.models.waits import NOTHING_LEFT, wait_for_spent

StreamEvent = tuple[bytes, bytes]
"""One event: its name (empty when it has none) and its data."""

MAX_EVENT = 8 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"

ERROR_BODY = 64 * 1024
ERROR_BODY_TIME = 5.0
LOOK_UP_TIME = 3.0
LOOK_UP_BODY = 4 * 1024 * 1024
TAIL_TIME = 0.1
"""How long the end of a finished answer may take to arrive before its connection is given up."""

Take = Callable[[list[StreamEvent]], bool]
"""Takes frames; False: somebody has to look at what came of them."""

_LARGE = 1024 * 1024
_NETWORK_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError)


class Framer:
    """Cuts one stream into frames. After an error it is of no further use."""

    __slots__ = ("_after_cr", "_has_started", "_limit", "_pending", "_pending_size")

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._after_cr = False
        self._has_started = False

    def push(self, data: bytes) -> list[StreamEvent]:
        """The frames that these bytes complete, in order.

        Raises AnswerMalformed when one event is larger than the limit.
        """
        if not self._has_started:
            data = self._without_bom(data)
        if not data:
            return []
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        if self._pending:
            if not self._completes(data):
                self._keep(data)
                return []
            data = b"".join((*self._pending, data))
        blocks = data.split(b"\n\n")
        if (rest := blocks.pop()) or self._pending:
            self._restart(rest)
        if len(data) > self._limit:
            self._check_sizes(blocks)
        return self._frames(blocks)

    def rest(self) -> list[StreamEvent]:
        """The event that the end of the stream left without its blank line, if there is one."""
        block = b"".join(self._pending).rstrip(b"\n")
        self._restart(b"")
        return self._frames([block]) if block else []

    def _frames(self, blocks: list[bytes]) -> list[StreamEvent]:
        frames: list[StreamEvent] = []
        for block in blocks:
            lines = block.count(b"\n")
            if lines == 1 and block.startswith(b"event: "):
                end = block.find(b"\ndata: ")
                if end > 0:
                    frames.append((block[7:end], block[end + 7 :]))
                    continue
            elif lines == 0 and block.startswith(b"data: "):
                frames.append((b"", block[6:]))
                continue
            if (frame := self._parse(block)) is not None:
                frames.append(frame)
        return frames

    def _parse(self, block: bytes) -> StreamEvent | None:
        name, data = b"", []
        for line in block.split(b"\n"):
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                data.append(value)
            elif field == b"event":
                name = value
            elif field == b"error" and value.startswith(b"{"):
                name = field
                data.append(value)
        return (name, b"\n".join(data)) if data else None

    def _without_bom(self, data: bytes) -> bytes:
        data = b"".join((*self._pending, data))
        self._restart(b"")
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._restart(data)
            return b""
        self._has_started = True
        return data.removeprefix(_BOM)

    def _with_lf(self, data: bytes) -> bytes:
        # The LF of a CRLF that was cut in two: its CR has already ended the line.
        if self._after_cr:
            data = data.removeprefix(b"\n")
        self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _completes(self, data: bytes) -> bool:
        return b"\n\n" in data or (data.startswith(b"\n") and self._pending[-1].endswith(b"\n"))

    def _keep(self, data: bytes) -> None:
        if data:
            self._pending.append(data)
            self._pending_size += len(data)
            self._check(self._pending_size - 1)  # the last byte may belong to the blank line

    def _restart(self, rest: bytes) -> None:
        self._pending = [rest] if rest else []
        self._pending_size = len(rest)
        self._check(len(rest) - 1)

    def _check_sizes(self, blocks: list[bytes]) -> None:
        for block in blocks:
            self._check(len(block))

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise AnswerMalformed(f"one event of the stream is larger than {self._limit} bytes")


class Client:
    """The connections to one endpoint. Opened on the first request, on the loop that makes it."""

    def __init__(self, endpoint: Provider) -> None:
        self.endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> Reply:
        """Send one request to an address of the endpoint and wait for the head of its answer; the
        caller closes the reply.

        Raises ModelError: what the answer's status means, ModelTimedOut without an answer in time,
        ModelUnreachable without a connection.
        """
        return await self._send("POST", url, headers=headers, data=_payload(body))

    async def get(self, path: str, **query: str) -> Reply:
        """Read something that is there already; the same as `post` otherwise."""
        return await self._send("GET", self.endpoint.url(path, **query), headers={}, data=None)

    async def _send(
        self, method: str, url: str, *, headers: Mapping[str, str], data: bytes | io.BytesIO | None
    ) -> Reply:
        endpoint = self.endpoint
        started_at = asyncio.get_running_loop().time()
        # OpenAI logs it: a request that never came back can be asked after by this name.
        headers = {"X-Client-Request-Id": uuid.uuid4().hex, **headers}
        try:
            async with asyncio.timeout(endpoint.first_event_timeout):
                # A redirect would carry the key to an address that nobody has set.
                response = await self._open_session().request(
                    method, url, data=data, headers=headers, allow_redirects=False
                )
        except aiohttp.ServerTimeoutError as error:
            raise ModelUnreachable(f"no connection to {endpoint.host} within {endpoint.connect_timeout:g} s") from error
        except TimeoutError as error:
            raise _no_answer(endpoint) from error
        except _NETWORK_ERRORS as error:
            raise _connection_error(endpoint, error) from error
        if response.status != 200:
            raise await self._refusal(response)
        return Reply(endpoint, response, asked_at=started_at)

    async def _refusal(self, response: aiohttp.ClientResponse) -> ModelError:
        body = b""
        try:
            async with asyncio.timeout(ERROR_BODY_TIME):
                while len(body) < ERROR_BODY and (data := await response.content.readany()):
                    body += data
        except (*_NETWORK_ERRORS, TimeoutError):
            pass  # the status says enough
        finally:
            response.close()
        return classify(response.status, response.headers, body, secrets=self.endpoint.secrets)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            self._session = open_session(self.endpoint, _Handler)
        return self._session

    async def close(self) -> None:
        """Close all connections; answers that still arrive end with ModelUnavailable."""
        if self._session is not None:
            await self._session.close()


class Reply:
    """One answer while it arrives."""

    def __init__(self, endpoint: Provider, response: aiohttp.ClientResponse, *, asked_at: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.headers = {name.lower(): value for name, value in response.headers.items()}
        self._endpoint = endpoint
        self._response = response
        self._content = response.content
        self._framer = Framer()
        self._handler = _handler_of(response)
        time_left = asked_at + endpoint.first_event_timeout - self._loop.time()
        # Connecting, and waiting for the head, have used up a part of the same patience.
        self._dog = Watchdog(self._loop, self._bark, max(0.05, time_left))
        self._has_begun = False
        self._look: Callable[[], None] | None = None
        """What is called when something has arrived, while nobody reads."""

    @property
    def request_id(self) -> str | None:
        return request_id(self.headers)

    @property
    def wait(self) -> float | None:
        """Seconds until there is something again of what this answer says is used up."""
        # nearly every answer leaves something: then nothing is read of its limits
        is_spent = any(value in NOTHING_LEFT for name, value in self.headers.items() if "remaining" in name)
        return wait_for_spent(self.headers) if is_spent else None

    def failure(self, error: object) -> ModelError:
        """What an error inside the stream means."""
        return classify(200, self.headers, error, secrets=self._endpoint.secrets)

    def failure_without_end(self, complaint: object, end: str) -> ModelError:
        """What a stream means that stopped without its `end`: the complaint in it,
        if there was one.
        """
        return self.failure(complaint) if complaint else AnswerMalformed(f"the stream ended without {end}")

    async def read(self, take: Take | None = None) -> list[StreamEvent] | None:
        """The frames of the next bytes (perhaps none), None at a clean end.

        `take` is given them before this returns, and those of each later arrival, at the moment
        they come, for as long as it says that it is content. It may not wait; what it raises is
        raised here.

        Raises ModelTimedOut after silence, ModelUnavailable when the connection breaks,
        AnswerMalformed for what is no stream of events.
        """
        frames = await self._next_frames()
        if take is not None and frames is not None and take(frames):
            await self._hand_on(take)
        return frames

    async def _hand_on(self, take: Take) -> None:
        """Give what arrives to `take`, in the call by which it arrives: to wake a task for each token
        costs as much as all else that is done with it. Returns when somebody has to look.
        """
        handler = self._handler
        if handler is None or self._content.at_eof():
            return
        over: asyncio.Future[None] = self._loop.create_future()
        is_looking = False

        def look() -> None:
            nonlocal is_looking
            # aiohttp resumes its parser from within a read, which is an arrival in an arrival.
            if over.done() or is_looking:
                return
            is_looking = True
            try:
                if not self._take_arrivals(handler, take):
                    over.set_result(None)
            except Exception as error:
                over.set_exception(error)
            finally:
                is_looking = False

        self._look = handler.on_arrival = look
        self._dog.since = self._loop.time()
        try:
            await over
        finally:
            self._dog.since = self._look = None
            if handler.on_arrival is look:
                handler.on_arrival = None

    def _take_arrivals(self, handler: _Handler, take: Take) -> bool:
        """Whether nobody has to look yet."""
        content = self._content
        while content.exception() is None:
            handler.has_resumed = False
            data = content.read_nowait()
            self._dog.since = self._loop.time()
            if data and not take(self._framer.push(data)):
                return False
            if not handler.has_resumed:
                return not content.at_eof()
        return False

    def _bark(self) -> None:
        self._response.close()
        if self._look is not None:
            self._look()

    async def _next_frames(self) -> list[StreamEvent] | None:
        if not (data := await self._arrival()):
            return self._unterminated_frames() or None
        if not self._has_begun and self._begins_whole(data):
            return [(b"", await self._body(data))]
        return self._framer.push(data)

    async def _arrival(self) -> bytes:
        self._dog.since = self._loop.time()
        try:
            return await self._content.readany()
        except _NETWORK_ERRORS as error:
            raise self._network_failure(error) from error
        finally:
            self._dog.since = None

    def _unterminated_frames(self) -> list[StreamEvent]:
        """What the end left without its blank line, unless it was cut off.

        The standard drops it, servers mean it.
        """
        # Half an event that is no JSON was cut off; nobody can say what it would have been.
        return [frame for frame in self._framer.rest() if is_json(frame[1])]

    def hurry(self, limit: float) -> None:
        """From here on less silence is borne: the answer is complete, only
        its trimmings are missing.
        """
        if limit < self._dog.limit:
            self._dog.allow(limit)

    async def rest(self) -> None:
        """Let the last bytes arrive, for a moment, so that the connection can serve again."""
        with suppress(*_NETWORK_ERRORS, TimeoutError):
            if not self._content.at_eof():
                async with asyncio.timeout(TAIL_TIME):
                    while await self._content.readany():
                        pass

    def close(self) -> None:
        """Close the connection at once, unless the answer was read to its end."""
        self._dog.leave()
        self._response.close()

    def _begins_whole(self, data: bytes) -> bool:
        """Whether this is the beginning of one JSON body, from a server that does not stream."""
        self._has_begun = True
        self._dog.allow(self._endpoint.idle_timeout)
        first = data.lstrip()[:1]
        if first == b"<":
            raise AnswerMalformed(f"{self._endpoint.host} answered with a page instead of a stream")
        return first in (b"{", b"[")

    async def _body(self, data: bytes) -> bytes:
        while more := await self._arrival():
            data += more
            if len(data) > MAX_EVENT:
                raise AnswerMalformed(f"the answer of {self._endpoint.host} is larger than {MAX_EVENT} bytes")
        return data

    def _network_failure(self, error: Exception) -> ModelError:
        if self._dog.has_barked:
            return _silence(self._endpoint, self._dog.limit) if self._has_begun else _no_answer(self._endpoint)
        return _connection_error(self._endpoint, error)


class _Handler(ResponseHandler):
    """A connection of aiohttp that tells when something has arrived on it."""

    on_arrival: Callable[[], None] | None = None
    has_resumed = False
    """A read has let the parser go on, which may have given more."""

    def resume_reading(self, resume_parser: bool = True) -> None:
        # aiohttp resumes after each read, and gives its parser nothing to parse: a fifth of what a token
        # costs here. What was not paused has nothing to go on with.
        if self._reading_paused:
            self.has_resumed = True
            super().resume_reading(resume_parser)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.on_arrival is not None:
            self.on_arrival()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        if self.on_arrival is not None:
            self.on_arrival()


def _handler_of(response: aiohttp.ClientResponse) -> _Handler | None:
    """The connection of an answer; None where it has ended."""
    protocol = response.connection.protocol if response.connection is not None else None
    return protocol if isinstance(protocol, _Handler) else None


class Watchdog:
    """Calls `bark` when what began at `since` takes longer than `limit` seconds; at rest while
    `since` is None.

    One timer per answer, set anew only when it fires: watching costs two assignments, not a timer
    per token.
    """

    __slots__ = ("_bark", "_loop", "_timer", "has_barked", "limit", "since")

    def __init__(self, loop: asyncio.AbstractEventLoop, bark: Callable[[], None], limit: float) -> None:
        self.limit = limit
        self.since: float | None = None
        self.has_barked = False
        self._loop = loop
        self._bark = bark
        self._timer = loop.call_later(limit, self._look)

    def allow(self, limit: float) -> None:
        """Another limit from now on."""
        self.limit = limit
        self._timer.cancel()
        self._timer = self._loop.call_later(limit, self._look)

    def leave(self) -> None:
        """Watch no more, and let go of whoever was watched: the two would be freed by the collector alone,
        which looks at what is old once in some million objects.
        """
        self._timer.cancel()
        self._bark = _nothing

    def _look(self) -> None:
        now = self._loop.time()
        due = self.limit + (now if self.since is None else self.since)
        if due > now:
            self._timer = self._loop.call_at(due, self._look)
        else:
            self.has_barked = True
            self._bark()


def _nothing() -> None: ...


async def look_up(
    endpoint: Provider, path: str, *, from_root: bool = False, body: Mapping[str, Any] | None = None
) -> object:
    """One JSON document of a server, beneath its base URL or its host; None for whatever is none.

    Never raises for what the server does, and waits `LOOK_UP_TIME` at most: it is good
    to know, not needed.
    """
    url = endpoint.root_url(path) if from_root else endpoint.url(path)
    data = b""
    with suppress(*_NETWORK_ERRORS, TimeoutError, ValueError):
        async with asyncio.timeout(LOOK_UP_TIME), open_session(endpoint, _Handler) as session:
            asking = session.get(url, allow_redirects=False) if body is None else session.post(url, data=_payload(body))
            async with asking as answer:
                while answer.status == 200 and len(data) <= LOOK_UP_BODY and (more := await answer.content.readany()):
                    data += more
        return orjson.loads(data)
    return None


def _payload(body: Mapping[str, Any]) -> bytes | io.BytesIO:
    data = json_bytes(body)
    # Larger bytes are written in one piece, which holds up the loop; aiohttp warns of it.
    return io.BytesIO(data) if len(data) > _LARGE else data


def _no_answer(endpoint: Provider) -> ModelTimedOut:
    return ModelTimedOut(f"no answer from {endpoint.host} within {endpoint.first_event_timeout:g} s")


def _silence(endpoint: Provider, limit: float) -> ModelTimedOut:
    return ModelTimedOut(f"{endpoint.host} fell silent for {limit:g} s in the middle of an answer")


def _connection_error(endpoint: Provider, error: Exception) -> ModelError:
    # The texts of network errors hold whole addresses, with what people put into their queries.
    why = scrub(f"{type(error).__name__}: {error}", endpoint.secrets)[:300]
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return ModelUnavailable(f"the certificate of {endpoint.host} is not trusted; set its CA file ({why})")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        kind = EndpointBlocked if error.status in (401, 403, 407) else ModelUnavailable
        return kind(f"the proxy to {endpoint.host} answered {error.status}")
    if isinstance(error, (aiohttp.ClientResponseError, HttpProcessingError)):
        return AnswerMalformed(f"{endpoint.host} does not speak HTTP ({why})")
    if isinstance(error, aiohttp.ClientConnectorError):
        return ModelUnreachable(f"no connection to {endpoint.host} ({why})")
    return ModelUnavailable(f"lost the connection to {endpoint.host} ({why})")
