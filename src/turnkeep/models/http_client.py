"""One request to a provider and its answer as a stream of frames, under two watchdogs.

`Client` keeps the connections of one endpoint, `Reply` is one answer while it arrives. Nothing is
repeated here but what only reads, once, where its connection was lost before an answer; and every
failure of the network, of HTTP or of time comes out as a `ModelError`.

aiohttp makes and keeps the connections (`http_connector`), and parses what arrives. Its session is passed
by: of all that it does between a request and the line (an address parsed, cookies, redirects, a task that
writes the body) nothing is needed where address and headers are an endpoint's, and it was most of what a
request cost here.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, cast

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import RawResponseMessage

from turnkeep.errors import AnswerMalformed, ModelError, ModelRefused, ModelUnreachable
from turnkeep.models.classify import classify
from turnkeep.models.http_connector import head_of, open_connector, request_to
from turnkeep.models.network_failures import NETWORK_ERRORS, connection_error, no_answer, silence
from turnkeep.models.provider import Provider
from turnkeep.models.reading import MAX_EVENT, PLACE_OF_PAST, Framer, StreamEvent, is_json, json_bytes, request_id
from turnkeep.models.upload import LARGE, ReplyHead, upload
from turnkeep.models.waits import NOTHING_LEFT, wait_for_spent

ERROR_BODY = 64 * 1024
ERROR_BODY_TIME = 5.0
TAIL_TIME = 0.1
"""How long the end of a finished answer may take to arrive before its connection is given up."""

Take = Callable[[list[StreamEvent]], bool]
"""Takes frames; False: somebody has to look at what came of them."""

MOST_TARGETS = 64
"""Addresses of an endpoint whose heads are kept: nearly all requests go to one."""


class Target:
    """An address of an endpoint, and what the head of every request to it says."""

    __slots__ = ("_line", "_lines", "request")

    def __init__(self, request: aiohttp.ClientRequest) -> None:
        self.request = request
        self._line = ""
        self._lines: dict[str, str] = {}

    def head(self, headers: Mapping[str, str]) -> bytes:
        """Of one request, once there is a connection. Of two headers of one name the request's own is said."""
        if not self._line:
            self._line, self._lines = head_of(self.request)
        # A line break in a value (`betas` come from a message) would begin a header, or a request, of its own.
        if not all((name + value).isprintable() for name, value in headers.items()):
            raise ModelRefused("a header for the model server must be one line of text")
        lines = self._lines | {name.lower(): f"{name}: {value}\r\n" for name, value in headers.items()}
        return "".join((self._line, *lines.values(), "\r\n")).encode()


class Client:
    """The connections to one endpoint. Opened on the first request, on the loop that makes it."""

    def __init__(self, endpoint: Provider) -> None:
        self.endpoint = endpoint
        # No total: an answer may take as long as its run. What is bounded is silence, by the watchdog.
        self._timeout = aiohttp.ClientTimeout(total=None, connect=endpoint.connect_timeout)
        self._connector: aiohttp.BaseConnector | None = None
        self._targets: dict[tuple[str, str], Target] = {}

    async def post(self, url: str, body: Mapping[str, Any], headers: Mapping[str, str], *, past: bytes = b"") -> Reply:
        """Send one request to an address of the endpoint and wait for the head of its answer; the
        caller closes the reply. `past` is what stands in the body at its place.

        Raises ModelError: what the answer's status means, ModelTimedOut without an answer in time,
        ModelUnreachable without a connection.
        """
        # not joined: each copy of a long past is fresh memory
        data = [past if piece == PLACE_OF_PAST else piece for piece in json_bytes(body).partition(PLACE_OF_PAST)]
        return await self._send("POST", url, {**headers, "Content-Length": str(sum(map(len, data)))}, data)

    async def get(self, path: str, **query: str) -> Reply:
        """Read something that is there already; the same as `post` otherwise."""
        return await self.get_at(self.endpoint.url(path, **query))

    async def get_at(self, url: str) -> Reply:
        """The same by a whole address."""
        return await self._send("GET", url, {}, (b"",))

    async def _send(self, method: str, url: str, headers: Mapping[str, str], body: Sequence[bytes]) -> Reply:
        endpoint, asked_at = self.endpoint, asyncio.get_running_loop().time()
        # OpenAI logs it: a request that never came back can be asked after by this name.
        headers = {"X-Client-Request-Id": uuid.uuid4().hex, **headers}
        try:
            async with asyncio.timeout(endpoint.first_event_timeout):
                target = self._targets.get((method, url)) or self._aim(method, url)
                try:
                    reply = await self._ask(target, headers, body, asked_at=asked_at)
                except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
                    # a server may close a kept connection in the moment in which it is used again
                    if method != "GET":
                        raise
                    reply = await self._ask(target, headers, body, asked_at=asked_at)
        except aiohttp.ServerTimeoutError as error:
            raise ModelUnreachable(f"no connection to {endpoint.host} within {endpoint.connect_timeout:g} s") from error
        except TimeoutError as error:
            raise no_answer(endpoint) from error
        except NETWORK_ERRORS as error:
            raise connection_error(endpoint, error) from error
        # A redirect is a refusal too: followed, it would carry the key to an address that nobody has set.
        if reply.status != 200:
            raise await reply.refusal()
        return reply

    def _aim(self, method: str, url: str) -> Target:
        if len(self._targets) >= MOST_TARGETS:
            self._targets.clear()
        target = self._targets[method, url] = Target(request_to(self.endpoint, method, url))
        return target

    async def _ask(
        self, target: Target, headers: Mapping[str, str], body: Sequence[bytes], *, asked_at: float
    ) -> Reply:
        connection = await self._connect(target)
        try:
            head, content = await cast("ArrivalHandler", connection.protocol).ask(target.head(headers), body)
            return Reply(self.endpoint, connection, head, content, asked_at=asked_at)
        except BaseException:
            connection.close()
            raise

    async def _connect(self, target: Target) -> Connection:
        if (connector := self._connector) is None or connector.closed:
            connector = self._connector = open_connector(self.endpoint, ArrivalHandler)
        try:
            connection = await connector.connect(target.request, [], self._timeout)
            # What came on a kept one while nobody asked would be read as the answer to this request.
            while (handler := cast("ArrivalHandler", connection.protocol)).has_asked and handler.should_close:
                connection.close()
                connection = await connector.connect(target.request, [], self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError(f"no connection to {self.endpoint.host}") from error
        return connection

    async def close(self) -> None:
        """Close all connections; answers that still arrive end with ModelUnavailable."""
        if self._connector is not None:
            await self._connector.close()


class Reply:
    """One answer while it arrives. Read to its end, it has given its connection back."""

    def __init__(
        self,
        endpoint: Provider,
        connection: Connection,
        head: RawResponseMessage,
        content: aiohttp.StreamReader,
        *,
        asked_at: float,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.status = head.code
        self.headers = {name.lower(): value for name, value in head.headers.items()}
        self._endpoint = endpoint
        self._connection = connection
        self._content = content
        content.on_eof(connection.release)
        self._framer = Framer()
        # None where it has ended, and its connection serves another
        self._handler = cast("ArrivalHandler | None", connection.protocol)
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

    async def refusal(self) -> ModelError:
        """What its status means, and what it says about that; closes it."""
        body = b""
        try:
            async with asyncio.timeout(ERROR_BODY_TIME):
                while len(body) < ERROR_BODY and (data := await self._content.readany()):
                    body += data
        except (*NETWORK_ERRORS, TimeoutError):
            pass  # the status says enough
        finally:
            self.close()
        error = classify(self.status, self.headers, body, secrets=self._endpoint.secrets)
        error.status = self.status
        return error

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

    def _take_arrivals(self, handler: ArrivalHandler, take: Take) -> bool:
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
        self._hang_up()
        if self._look is not None:
            self._look()

    async def _next_frames(self) -> list[StreamEvent] | None:
        if not (data := await self._arrival()):
            return self._unterminated_frames() or None
        if not self._has_begun and self._begins_whole(data):
            return [(b"", await self.body(data))]
        return self._framer.push(data)

    async def _arrival(self) -> bytes:
        self._dog.since = self._loop.time()
        try:
            return await self._content.readany()
        except NETWORK_ERRORS as error:
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
        with suppress(*NETWORK_ERRORS, TimeoutError):
            if not self._content.at_eof():
                async with asyncio.timeout(TAIL_TIME):
                    while await self._content.readany():
                        pass

    def close(self) -> None:
        """Close the connection at once, unless the answer was read to its end."""
        self._dog.leave()
        self._hang_up()

    def _hang_up(self) -> None:
        """Whoever reads is told. A connection that was given back serves others by now."""
        if self._connection.protocol is not None:
            if self._content.exception() is None:
                self._content.set_exception(aiohttp.ClientConnectionError("the connection was closed"))
            self._connection.close()

    def _begins_whole(self, data: bytes) -> bool:
        """Whether this is the beginning of one JSON body, from a server that does not stream."""
        self._has_begun = True
        self._dog.allow(self._endpoint.idle_timeout)
        first = data.lstrip()[:1]
        if first == b"<":
            raise AnswerMalformed(f"{self._endpoint.host} answered with a page instead of a stream")
        return first in (b"{", b"[")

    async def body(self, data: bytes = b"") -> bytes:
        """All that is still to come, behind what was read of it."""
        while more := await self._arrival():
            data += more
            if len(data) > MAX_EVENT:
                raise AnswerMalformed(f"the answer of {self._endpoint.host} is larger than {MAX_EVENT} bytes")
        return data

    def _network_failure(self, error: Exception) -> ModelError:
        if self._dog.has_barked:
            return silence(self._endpoint, self._dog.limit) if self._has_begun else no_answer(self._endpoint)
        return connection_error(self._endpoint, error)


class ArrivalHandler(ResponseHandler):
    """A connection of aiohttp that asks, and tells when something has arrived on it."""

    on_arrival: Callable[[], None] | None = None
    has_asked = False
    """It was kept, or will be. On a new one a server may speak first, to say that it has no room."""
    has_resumed = False
    """A read has let the parser go on, which may have given more."""

    async def ask(self, head: bytes, body: Sequence[bytes]) -> ReplyHead:
        """Write a request, its body in pieces, and wait for the head of its reply, which comes with what is to be
        read after it.
        """
        if self.transport is None or self.transport.is_closing():
            raise aiohttp.ClientConnectionResetError("the connection was closed before the request was written")
        self.has_asked = True
        self.set_response_params(read_until_eof=True)
        if sum(map(len, body)) > LARGE:
            return await upload(self, head, body, reply=self._head())
        # each for itself: before Python 3.12 `writelines` joins them, and a long past would be copied once more
        for piece in (head + body[0], *body[1:]):
            self.transport.write(piece)
        return await self._head()

    async def _head(self) -> ReplyHead:
        head, content = await self.read()
        # what a server says of a request that it goes on with, known or not (RFC 9110, 15.2)
        while head.code < HTTPStatus.OK and head.code != HTTPStatus.SWITCHING_PROTOCOLS:
            head, content = await self.read()
        return head, content

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
