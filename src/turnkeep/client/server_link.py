"""Requests to a server that may be away: repeated under one name until they are answered."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import aiohttp
import orjson
from yarl import URL

from turnkeep.backoff import Backoff
from turnkeep.errors import ConfigurationError, NotFound, OutcomeUnknown, StoreUnavailable, TurnkeepError
from turnkeep.lean_dataclass import dataclass
from turnkeep.models.reading import Framer

PAUSES = Backoff(delay=0.2, cap=5.0)
AGAIN = frozenset({429, 502, 503, 504})
"""What a server or a proxy before it says when the same request may be answered later."""
CONNECT, ANSWER, SILENCE = 5.0, 30.0, 45.0
"""Seconds: to connect, for one answer, and of a stream that says nothing, not even that
it is still there.
"""

ANSWER_TIMEOUT = aiohttp.ClientTimeout(total=ANSWER, sock_connect=CONNECT)

CALLS, STREAMS = 100, 0
"""Connections at once, 0 for as many as are asked for. A stream holds its own for as long as it lasts: if they
shared those of the calls, a hundred streams would leave none to send with.
"""

JsonObject = dict[str, Any]
StreamState = Literal["live", "away"]


@dataclass(frozen=True, slots=True)
class ServerReply:
    """What a server has answered: its JSON, None where it has none, and the status, which says of a
    receipt whether it is a new one.
    """

    status: int
    content: Any


class ServerLink:
    """One server, with a credential. `patience`: seconds that one call is repeated for."""

    def __init__(self, base_url: str, api_key: str | None, *, patience: float) -> None:
        if not isinstance(base_url, str):
            raise ConfigurationError("a client takes keywords: TurnkeepClient(base_url=…, api_key=…)")
        if not base_url.startswith(("http://", "https://")):
            raise ConfigurationError(f"base_url {base_url[:200]!r} is no address that begins with http:// or https://")
        self._base = base_url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._patience = patience
        self._sessions: dict[int, aiohttp.ClientSession] = {}
        self._is_closed = False

    async def call(
        self, method: str, path: str, body: object = None, *, once: str | None = None, repeats: bool = True
    ) -> Any:
        """The JSON of `reply`, for whom its status says nothing."""
        return (await self.reply(method, path, body, once=once, repeats=repeats)).content

    async def reply(
        self, method: str, path: str, body: object = None, *, once: str | None = None, repeats: bool = True
    ) -> ServerReply:
        """What the server answers to a request.

        Repeated while the server is away or asks to wait. What changes something carries one key
        for all repeats, so it happens once. `repeats=False`: the server knows no such key for it, so
        a lost answer is `OutcomeUnknown`. Raises the error that the server names, and
        `StoreUnavailable` when patience ends.
        """
        key = {} if method == "GET" else {"Idempotency-Key": once or secrets.token_hex(16)}
        deadline = self._deadline()
        failures = 0
        while True:
            try:
                return await self._ask(method, path, body, key)
            except (aiohttp.ClientError, TimeoutError, TurnkeepError) as error:
                # what a lost answer has deleted is not there for its repeat
                if isinstance(error, NotFound) and failures and method == "DELETE":
                    return ServerReply(204, None)
                if not _is_passing(error):
                    raise
                if not repeats and not isinstance(error, TurnkeepError | aiohttp.ClientConnectorError):
                    raise OutcomeUnknown("the answer was lost, look whether it has happened") from error
                failures += 1
                pause = _pause(error, failures)
                if self._ends_before(deadline, pause):
                    raise self._unreachable(error) from error
                await asyncio.sleep(pause)

    async def events(self, path: str, position: str) -> AsyncGenerator[JsonObject, None]:
        """The frames of one connection, from a position on.

        Raises `aiohttp.ClientError` or `TimeoutError` when it is cut, and what the server refuses
        with.
        """
        headers = {**self._headers, **({"Last-Event-ID": position} if position else {})}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE)
        async with self._open(STREAMS).get(self._url(path), headers=headers, timeout=timeout) as response:
            await _demand_success(response)
            framer = Framer()
            async for data in response.content.iter_any():
                for _, payload in framer.push(data):
                    yield orjson.loads(payload)

    async def lasting_events(
        self, path: str, position: str, on_state: Callable[[StreamState], object]
    ) -> AsyncGenerator[JsonObject, None]:
        """The frames of as many connections as it takes. Only the first one has to come about while
        patience lasts.
        """
        reading = _StreamReading(position)
        deadline = self._deadline()
        failures = 0
        while True:
            error: Exception = aiohttp.ServerDisconnectedError("the stream ended")
            is_live = False
            try:
                async with aclosing(self.events(path, reading.position)) as frames:
                    async for frame in frames:
                        if not is_live:
                            on_state("live")
                        failures, is_live = 0, True
                        for one in reading.receive(frame):
                            yield one
            except (aiohttp.ClientError, TimeoutError, TurnkeepError) as loss:
                if not _is_passing(loss):
                    raise
                error = loss
            # After a clean end too: a server that drains ends its streams, and another goes on with them.
            failures += 1
            reading.drop_event_frames()
            pause = _pause(error, failures)
            if not reading.has_begun and self._ends_before(deadline, pause):
                raise self._unreachable(error) from error
            on_state("away")
            await asyncio.sleep(pause)

    async def close(self) -> None:
        self._is_closed = True
        for session in list(self._sessions.values()):
            await session.close()

    async def _ask(self, method: str, path: str, body: object, key: Mapping[str, str]) -> ServerReply:
        headers = {**self._headers, **key}
        async with self._open(CALLS).request(
            method, self._url(path), json=body, headers=headers, timeout=ANSWER_TIMEOUT
        ) as response:
            await _demand_success(response)
            raw = await response.read()
            return ServerReply(response.status, orjson.loads(raw) if raw else None)

    def _open(self, connections: int) -> aiohttp.ClientSession:
        if self._is_closed:
            raise RuntimeError("this client is closed")
        if connections not in self._sessions:
            self._sessions[connections] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=connections),
                json_serialize=lambda value: orjson.dumps(value).decode(),
            )
        return self._sessions[connections]

    def _url(self, path: str) -> URL:
        # encoded already: yarl would undo it and ask for another channel
        return URL(self._base + path, encoded=True)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._patience

    def _ends_before(self, deadline: float, pause: float) -> bool:
        """Whether patience ends within this pause."""
        return asyncio.get_running_loop().time() + pause > deadline

    def _unreachable(self, error: Exception) -> TurnkeepError:
        if isinstance(error, TurnkeepError):
            return error
        reason = str(error) or type(error).__name__
        return StoreUnavailable(
            f"the server at {without_password(self._base)} was not reached within {self._patience:g} s: {reason}"
        )


class _StreamReading:
    """How far a stream was read. The frames of one event are handed on together, so that none is told
    twice when a connection is cut between them.
    """

    def __init__(self, position: str) -> None:
        self.position = position
        self.has_begun = False
        self._event_frames: list[JsonObject] = []

    def receive(self, frame: JsonObject) -> list[JsonObject]:
        """What can be handed on with this frame. Raises what the server ends the stream with."""
        if "error" in frame and "status" not in frame:
            raise error_of(frame["error"])
        # a subscription that goes on where it was is of no interest to who reads on
        if frame["status"] == "subscribed" and self.has_begun and frame.get("recovered", True):
            return []
        self.has_begun = True
        if frame.get("more") and "offset" in frame:
            self._event_frames.append(frame)
            return []
        if "offset" in frame:
            self.position = f"{frame['epoch']}:{frame['offset']}"
        frames, self._event_frames = [*self._event_frames, frame], []
        return frames

    def drop_event_frames(self) -> None:
        """Forget the half of an event: the next connection begins with the whole."""
        self._event_frames = []


def without_password(url: str) -> str:
    """An address as it may be shown."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def path_of(*parts: str) -> str:
    """A path of names, each encoded whole. Dots too: proxies take a channel named ".." for a step up."""
    return "".join(f"/{quote(part, safe='').replace('.', '%2E')}" for part in parts)


def error_of(error: Mapping[str, Any]) -> TurnkeepError:
    """The error that a server names: of the class that has its code."""
    kind = _kinds(TurnkeepError).get(str(error.get("code")), TurnkeepError)
    return kind(str(error.get("message") or error.get("code")), retry_after=error.get("retry_after"))


async def _demand_success(response: aiohttp.ClientResponse) -> None:
    """Raises what the server says; `is_passing` marks what may be answered later."""
    if response.status < 400:
        return
    raw = await response.read()
    try:
        error = error_of(orjson.loads(raw)["error"])
    except (ValueError, KeyError, TypeError):
        error = TurnkeepError(f"{response.url.origin()} answers {response.status}; is it turnkeep?")
    if response.status in AGAIN:
        error.is_passing = True  # type: ignore[attr-defined]  # of this one, not of its class
        waiting = response.headers.get("Retry-After", "")
        error.retry_after = error.retry_after or (float(waiting) if waiting.isdigit() else None)
    raise error


def _is_passing(error: Exception) -> bool:
    """Whether the same request may be answered later."""
    return not isinstance(error, TurnkeepError) or getattr(error, "is_passing", False)


def _pause(error: Exception, failures: int) -> float:
    wish = error.retry_after if isinstance(error, TurnkeepError) else None
    return max(wish or 0.0, PAUSES.after(failures))


def _kinds(root: type[TurnkeepError]) -> dict[str, type[TurnkeepError]]:
    """The error tree by code."""
    kinds = {root.code: root}
    for kind in root.__subclasses__():
        # a class without a code of its own has its parent's, and must not take its place
        kinds |= {code: one for code, one in _kinds(kind).items() if code not in kinds}
    return kinds
