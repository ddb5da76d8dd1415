"""The record of what "the model" was asked: an oracle that knows nothing of whoever asks.

One `Exchange` per request. The places of arrivals and ends in one common order make the detectors
exact even when the clock stands still. Exact comparison needs user messages whose texts are unique.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import unquote

import orjson

from turnkeep.clock import Clock
from turnkeep.lean_dataclass import dataclass
from turnkeep.simulator.prompt import Prompt

Surface = Literal["responses", "chat", "messages"]
ExchangeOutcome = Literal[
    "open", "completed", "incomplete", "failed", "cancelled", "refused", "closed_by_client", "cut", "truncated", "lost"
]
# `lost` is none of them: nobody has read that answer.
ANSWER_OUTCOMES: tuple[ExchangeOutcome, ...] = ("completed", "incomplete")
# A place after all others, so that what is still open overlaps whatever comes.
_NEVER = float("inf")
_LABELS = ("run", "thread", "attempt", "tenant")


@dataclass(slots=True)
class Exchange:
    """One request and how it ended.

    `order` and `ended` are places in the ledger's order of arrivals and ends. `closed_by_client` is
    told with the moment it was noticed in `finished`; `lost` was answered here and the answer
    thrown away; `cut` and `truncated` are faults that the simulator played.
    """

    n: int
    order: int
    arrived: float
    surface: Surface = "responses"
    request_id: str = ""
    run: str | None = None
    thread: str | None = None
    attempt: str | None = None
    tenant: str | None = None
    client_request_id: str | None = None
    response_id: str | None = None
    model: str = ""
    stream: bool = False
    background: bool = False
    messages: list[tuple[str, bool]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    fault: str | None = None
    sent: int = 0
    outcome: ExchangeOutcome = "open"
    status: int | None = None
    code: str | None = None
    finished: float | None = None
    ended: float = _NEVER
    body: Any = None

    @property
    def texts(self) -> list[str]:
        """All user messages of the request."""
        return [text for text, _ in self.messages]

    @property
    def new(self) -> list[str]:
        """The user messages of the newest turn."""
        return [text for text, new in self.messages if new]

    def overlaps(self, other: Exchange) -> bool:
        return self.order < other.ended and other.order < self.ended

    def to_json(self) -> dict[str, Any]:
        document = {name: getattr(self, name) for name in _PLAIN}
        document["messages"] = [{"text": text, "new": new} for text, new in self.messages]
        document["ended"] = None if self.ended == _NEVER else self.ended
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        fields = {name: document[name] for name in _PLAIN if name in document}
        fields["messages"] = [(message["text"], message["new"]) for message in document.get("messages", ())]
        end = document.get("ended")
        return cls(**fields, ended=_NEVER if end is None else end)


_PLAIN = tuple(name for name in Exchange.__dataclass_fields__ if name not in ("messages", "ended"))


class ExchangeLedger:
    """Every exchange in order of arrival; the oldest go when there are more than `limit`.

    With a `file`, each arrival and each end is one line appended in one write, so that a killed
    process leaves everything it knew (see `load`).
    """

    def __init__(self, clock: Clock, *, limit: int | None = None, file: Path | None = None) -> None:
        self._clock = clock
        self._limit = limit
        self._exchanges: deque[Exchange] = deque()
        self._order = 0
        self._count = 0
        self._file = None if file is None else _open(file)
        self.open_count = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def __iter__(self) -> Iterator[Exchange]:
        return iter(self._exchanges)

    def __len__(self) -> int:
        return len(self._exchanges)

    def arrive(self, surface: Surface, request_id: str, headers: Mapping[str, str]) -> Exchange:
        """A request is here. Labels come from its body (`label`) or headers
        (``x-turnkeep-run`` …), words by `hear`.
        """
        self._count += 1
        exchange = Exchange(self._count, self._next(), self._clock.now(), surface, request_id)
        exchange.client_request_id = headers.get("x-client-request-id")
        for name in _LABELS:
            value = headers.get(f"x-turnkeep-{name}")
            # A header holds ASCII, the name of a thread anything: it comes with percent signs.
            setattr(exchange, name, None if value is None else unquote(value))
        self._exchanges.append(exchange)
        self.open_count += 1
        self._quiet.clear()
        self._trim()
        return exchange

    def label(self, exchange: Exchange, body: object) -> None:
        """Labels in ``metadata``: ``turnkeep_run``, ``turnkeep_thread``,
        ``turnkeep_attempt``, ``turnkeep_tenant``.
        """
        if not isinstance(body, dict):
            return
        exchange.stream = body.get("stream") is True
        exchange.background = body.get("background") is True
        labels = body.get("metadata")
        for name in _LABELS:
            value = labels.get(f"turnkeep_{name}") if isinstance(labels, dict) else None
            if isinstance(value, str):
                setattr(exchange, name, value)

    def hear(self, exchange: Exchange, prompt: Prompt) -> None:
        exchange.messages = prompt.user_messages()
        exchange.outputs = [entry.call_id for entry in prompt.entries if entry.kind == "output"]
        exchange.model = prompt.model
        self._write("arrived", exchange)

    def finish(
        self, exchange: Exchange, outcome: ExchangeOutcome, status: int | None = 200, *, code: str | None = None
    ) -> None:
        """How it ended; the first word counts."""
        # A fault's end and that of a client who leaves may come to one exchange in either order.
        if exchange.outcome != "open":
            return
        exchange.outcome, exchange.status, exchange.code = outcome, status, code
        exchange.finished = self._clock.now()
        exchange.ended = self._next()
        self.open_count -= 1
        if not self.open_count:
            self._quiet.set()
        self._write("finished", exchange)

    def clear(self) -> None:
        """Forget what is finished; what is still open stays."""
        self._exchanges = deque(exchange for exchange in self._exchanges if exchange.outcome == "open")

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @classmethod
    def load(cls, file: Path, clock: Clock) -> Self:
        """A ledger from its file; a torn last line is ignored."""
        ledger = cls(clock)
        by_number: dict[int, Exchange] = {}
        for line in file.read_bytes().split(b"\n"):
            try:
                exchange = Exchange.from_json(orjson.loads(line))
            except (orjson.JSONDecodeError, KeyError, TypeError):
                continue
            by_number[exchange.n] = exchange
        ledger._exchanges = deque(by_number[n] for n in sorted(by_number))
        ledger.open_count = len(ledger.open())
        return ledger

    def open(self) -> list[Exchange]:
        return [exchange for exchange in self._exchanges if exchange.outcome == "open"]

    async def quiet(self) -> None:
        """Return as soon as no request is open."""
        await self._quiet.wait()

    @property
    def closed_by_client(self) -> list[Exchange]:
        """Requests whose connection the client closed, with the moment in `finished`."""
        return [exchange for exchange in self._exchanges if exchange.outcome == "closed_by_client"]

    def overlaps(self) -> list[tuple[Exchange, Exchange]]:
        """Pairs of requests of one thread that were open at the same time."""
        threads: dict[tuple[str | None, str], list[Exchange]] = defaultdict(list)
        for exchange in self._exchanges:
            if exchange.thread is not None:
                # Two tenants may have threads of one name.
                threads[exchange.tenant, exchange.thread].append(exchange)
        return [pair for exchanges in threads.values() for pair in _overlapping(exchanges)]

    def twice_within_a_request(self) -> list[tuple[Exchange, str]]:
        """User messages that one request holds more than once."""
        return [
            (exchange, text)
            for exchange in self._exchanges
            for text, count in Counter(exchange.texts).items()
            if count > 1
        ]

    def lost_messages(
        self, texts: Collection[str], outcomes: Collection[ExchangeOutcome] = ANSWER_OUTCOMES
    ) -> list[str]:
        """Which of the expected user messages no request with one of these outcomes held as new."""
        arrivals = {text for exchange in self._exchanges if exchange.outcome in outcomes for text in exchange.new}
        return [text for text in texts if text not in arrivals]

    def answered_twice(self) -> dict[str, list[Exchange]]:
        """User messages that were new in final answers (without calls) of more than one run, and
        those exchanges.
        """
        answers: dict[str, list[Exchange]] = defaultdict(list)
        for exchange in self._exchanges:
            # A run with tools asks several times, each time with the same new message:
            # steps are no answers.
            if exchange.outcome in ANSWER_OUTCOMES and not exchange.calls:
                for text in set(exchange.new):
                    answers[text].append(exchange)
        # Without a label every request counts as a run of its own.
        return {text: exchanges for text, exchanges in answers.items() if len({e.run or e.n for e in exchanges}) > 1}

    def holding(self, text: str) -> list[Exchange]:
        """The requests that hold a user message, new or old."""
        return [exchange for exchange in self._exchanges if text in exchange.texts]

    def _next(self) -> int:
        self._order += 1
        return self._order

    def _trim(self) -> None:
        while self._limit is not None and len(self._exchanges) > self._limit:
            self._exchanges.popleft()

    def _write(self, what: str, exchange: Exchange) -> None:
        if self._file is not None:
            # One write to a file opened for appending: a kill leaves at most one torn line, the
            # last.
            line = orjson.dumps({"what": what, **exchange.to_json()}, default=str)
            os.write(self._file, line + b"\n")


def _open(file: Path) -> int:
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def _overlapping(exchanges: Iterable[Exchange]) -> Iterator[tuple[Exchange, Exchange]]:
    running: list[Exchange] = []
    for exchange in sorted(exchanges, key=lambda each: each.order):
        running = [other for other in running if other.overlaps(exchange)]
        yield from ((other, exchange) for other in running)
        running.append(exchange)
