"""Faults: what goes wrong, for which request, and how often.

They come from three places, in this order: markers in the user's text (``[[fault:429
times=2]]``), the list of `Fault`s, and their probability. Before the reply a fault is
a refusal or a dead connection; within a stream it strikes after `after` deltas, at
the latest before the terminal event.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, fields
from typing import Any, Protocol, Self

from turnkeep.lean_dataclass import dataclass
from turnkeep.simulator.frames import FOREVER, FrameAct, ReplyFrame
from turnkeep.simulator.markers import Marker, parse
from turnkeep.simulator.problems import Problem, context_length_exceeded, conversation_locked, model_not_found
from turnkeep.simulator.problems import wrong_key as wrong_key_problem
from turnkeep.simulator.prompt import OpenMessage, Prompt
from turnkeep.simulator.seeded_ids import SeededIds

# With a sentence for each: `GET /_sim/` shows them to whoever steers from another process.
FAULT_KINDS: Mapping[str, str] = {
    "429": "rate limit; `code`, `retry_after`, `retry_after_ms`",
    "quota": "429 insufficient_quota",
    "500": "any status from 400 to 599 works: server error of that status",
    "401": "the key is refused",
    "403": "permission denied",
    "404": "not found",
    "model_not_found": "the model is gone",
    "context_length_exceeded": "the input is too long",
    "conversation_locked": "another response runs on the conversation",
    "poison": "400 for as long as a matching message is open",
    "refuse": "the connection is reset before any byte",
    "hang": "accepted, then silence before the headers, for `seconds`",
    "html": "a page of HTML with `status` (200)",
    "lost": "answered and stored here, then the reply is thrown away (also accepted-then-lost)",
    "cut": "the connection ends within a frame after `after` deltas; `how` close (all before it arrives) or reset",
    "truncate": "the stream ends cleanly without its terminal event",
    "stall": "silence within the stream, for `seconds`",
    "garbage": "a frame of malformed JSON, then the rest",
    "unknown": "events of unknown types, then the rest",
    "late": "events after the terminal event (also after-completed)",
    "error": "an error event within HTTP 200, and no terminal event; `code`",
    "failed": "response.failed within HTTP 200; `code`",
    "early-error": "an error event and response.failed before any delta, within HTTP 200; `code`",
}
ALIASES = {"accepted-then-lost": "lost", "after-completed": "late", "rate_limit_exceeded": "429"}
# No waiting mends these. The type has stayed the same, the codes are many.
QUOTA = (
    *("insufficient_quota", "credit_balance_exhausted", "organization_spend_limit_exceeded"),
    *("project_spend_limit_exceeded", "organization_usage_limit_exceeded"),
)
# Markers are remembered with the text they stand in: without a bound, all that was ever heard.
_MEMORY_LIMIT = 100_000

_STATUS_WORDS: Mapping[int, tuple[str, str | None]] = {
    403: ("permission_error", "unsupported_country_region_territory"),
    404: ("invalid_request_error", None),
    408: ("timeout_error", None),
    409: ("conflict_error", None),
    422: ("invalid_request_error", None),
    503: ("service_unavailable_error", "server_is_overloaded"),
}


@dataclass(slots=True)
class Fault:
    """One thing that goes wrong `times` times (None: always) for requests that match.

    `match` is a part of an open user message, or a question to the prompt; `thread` is a thread
    label; `step` is the number of rounds of calls since the message.
    """

    kind: str
    times: int | None = 1
    match: str | Callable[[Prompt], bool] | None = None
    thread: str | None = None
    step: int | None = None
    probability: float = 1.0
    after: int = 0
    status: int | None = None
    code: str | None = None
    message: str | None = None
    retry_after: float | None = None
    retry_after_ms: float | None = None
    seconds: float | None = None
    how: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind == "reset":
            self.kind, self.how = "cut", "reset"
        self.kind = ALIASES.get(self.kind, self.kind)
        if self.kind not in FAULT_KINDS and not _is_status(self.kind):
            raise ValueError(f"there is no fault {self.kind!r}; known: {', '.join(FAULT_KINDS)}")
        # A poisoned message does not heal: once alone, its retry would get through.
        if self.kind == "poison" and self.times == 1:
            self.times = None

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Raises ValueError with a sentence for what is no fault."""
        extra = set(document) - {each.name for each in fields(cls)}
        if extra or not isinstance(document.get("kind"), str):
            raise ValueError(f"a fault has a kind and no {', '.join(sorted(extra)) or 'other shape'}")
        return cls(**document)

    def matches(self, prompt: Prompt) -> bool:
        if self.thread is not None and prompt.labels.get("turnkeep_thread") != self.thread:
            return False
        messages = prompt.open_messages()
        if self.step is not None and (not messages or messages[0].rounds != self.step):
            return False
        if callable(self.match):
            return self.match(prompt)
        return self.match is None or any(self.match in message.text for message in messages)

    def to_json(self) -> dict[str, Any]:
        document = {each.name: getattr(self, each.name) for each in fields(self)}
        return document | {"match": self.match if isinstance(self.match, str) else None}


class Faults:
    """The faults of one simulator. A spent fault leaves the list."""

    def __init__(self, dice: SeededIds) -> None:
        self._dice = dice
        self._faults: list[Fault] = []
        self._strike_counts: OrderedDict[tuple[str, int], int] = OrderedDict()

    def __iter__(self) -> Iterator[Fault]:
        return iter(list(self._faults))

    def __len__(self) -> int:
        return len(self._faults)

    def append(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        self._faults.clear()
        self._strike_counts.clear()

    def strike(self, prompt: Prompt) -> Fault | None:
        """The fault of this request, if any; counts it."""
        for message in prompt.open_messages():
            # Before the list: whoever writes a fault into a text means the request that
            # brings this text.
            if (fault := self._from_markers(message)) is not None:
                return fault
        for fault in self:
            if fault.matches(prompt) and (fault.probability >= 1 or self._dice.chance(fault.probability)):
                self._spend(fault)
                return fault
        return None

    def _spend(self, fault: Fault) -> None:
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                self._faults.remove(fault)

    def _from_markers(self, message: OpenMessage) -> Fault | None:
        markers = [marker for marker in parse(message.text)[0] if marker.name == "fault"]
        for at, marker in enumerate(markers):
            fault = _of_marker(marker)
            if fault is None or (fault.step is not None and fault.step != message.rounds):
                continue
            # Counted by text and place, for a retry is a new request with the same text.
            if fault.times is None or self._count(message.text, at) < fault.times:
                self._strike_counts[message.text, at] = self._count(message.text, at) + 1
                return fault
        return None

    def _count(self, text: str, at: int) -> int:
        while len(self._strike_counts) > _MEMORY_LIMIT:
            self._strike_counts.popitem(last=False)
        return self._strike_counts.get((text, at), 0)


def problem(fault: Fault, prompt: Prompt, param: str) -> Problem | None:
    """The refusal that a fault is, if it is one."""
    makers: dict[str, Callable[[], Problem]] = {
        "429": lambda: _rate_limited(fault),
        "quota": lambda: _rate_limited(fault, "insufficient_quota"),
        "401": wrong_key_problem,
        "model_not_found": lambda: model_not_found(prompt.model),
        "context_length_exceeded": lambda: context_length_exceeded(prompt.tokens(), prompt.tokens() // 2, param),
        "conversation_locked": conversation_locked,
        "poison": lambda: Problem(400, "Invalid prompt.", param=param, code="invalid_prompt"),
    }
    make = makers.get(fault.kind)
    refusal = make() if make is not None else _of_status(fault) if _is_status(fault.kind) else None
    if refusal is not None:
        refusal.headers = {**refusal.headers, **_retry_headers(fault), **fault.headers}
    return refusal


class FaultyRun(Protocol):
    """What a fault needs of a run: its frames, and the odd ones in its dialect."""

    @property
    def stream(self) -> Iterator[ReplyFrame]: ...

    def garbage(self) -> bytes: ...

    def unknown_frames(self) -> list[bytes]: ...

    def fail(self, code: str, message: str, *, error_event: bool, failed_event: bool) -> Iterator[ReplyFrame]: ...


def disturb(run: FaultyRun, fault: Fault | None) -> Iterator[ReplyFrame]:
    """The frames of a run as a faulty provider sends them. Dropping the iterator leaves
    the run as it is.
    """
    return run.stream if fault is None or fault.kind not in _STRIKES else _with_fault(run, fault)


def _with_fault(run: FaultyRun, fault: Fault) -> Iterator[ReplyFrame]:
    deltas = 0
    has_struck = False
    for frame in run.stream:
        # The opening is always whole: a fault before it would be a refusal. And none comes too
        # late: an answer shorter than `after` may not get away.
        if not has_struck and not frame.head and (deltas >= fault.after or frame.act == "last"):
            has_struck = True
            yield from _STRIKES[fault.kind](run, fault, frame)
            if fault.kind in _ENDING:
                return
        yield frame
        deltas += frame.delta
    if fault.kind == "late":
        yield from (ReplyFrame(data) for data in run.unknown_frames())


def _cut(_: FaultyRun, fault: Fault, frame: ReplyFrame) -> Iterator[ReplyFrame]:
    act: FrameAct = "reset" if fault.how == "reset" else "close"
    yield ReplyFrame(frame.data[: len(frame.data) // 2], frame.wait, act)


def _truncate(_: FaultyRun, __: Fault, ___: ReplyFrame) -> Iterator[ReplyFrame]:
    yield ReplyFrame(act="end")


def _stall(_: FaultyRun, fault: Fault, __: ReplyFrame) -> Iterator[ReplyFrame]:
    yield ReplyFrame(wait=FOREVER if fault.seconds is None else fault.seconds, act="stall")
    if fault.seconds is None:
        # For clients without a timeout of their own, so that no test waits for ever.
        yield ReplyFrame(act="close")


def _garbage(run: FaultyRun, _: Fault, __: ReplyFrame) -> Iterator[ReplyFrame]:
    yield ReplyFrame(run.garbage())


def _unknown_events(run: FaultyRun, _: Fault, __: ReplyFrame) -> Iterator[ReplyFrame]:
    yield from (ReplyFrame(data) for data in run.unknown_frames())


def _late(_: FaultyRun, __: Fault, ___: ReplyFrame) -> Iterator[ReplyFrame]:
    yield from ()


def _error_event(run: FaultyRun, fault: Fault, _: ReplyFrame) -> Iterator[ReplyFrame]:
    yield from run.fail(*_words(fault), error_event=True, failed_event=False)


def _failed_event(run: FaultyRun, fault: Fault, _: ReplyFrame) -> Iterator[ReplyFrame]:
    yield from run.fail(*_words(fault), error_event=False, failed_event=True)


def _early_error(run: FaultyRun, fault: Fault, _: ReplyFrame) -> Iterator[ReplyFrame]:
    # OpenAI tells quota, rates and lengths within HTTP 200 too, by an early error event, by
    # response.failed or by both (vercel/ai#16805).
    yield from run.fail(*_words(fault), error_event=True, failed_event=True)


_STRIKES: Mapping[str, Callable[[FaultyRun, Fault, ReplyFrame], Iterator[ReplyFrame]]] = {
    "cut": _cut,
    "truncate": _truncate,
    "stall": _stall,
    "garbage": _garbage,
    "unknown": _unknown_events,
    "late": _late,
    "error": _error_event,
    "failed": _failed_event,
    "early-error": _early_error,
}
_ENDING = ("cut", "truncate", "error", "failed", "early-error")


def _words(fault: Fault) -> tuple[str, str]:
    code = fault.code or "server_error"
    return code, fault.message or "The server had an error while processing your request. Sorry about that!"


def _of_marker(marker: Marker) -> Fault | None:
    parameters: dict[str, Any] = {"kind": marker.text}
    for name, value in marker.parameters.items():
        if name in ("code", "message", "how"):
            parameters[name] = value
        elif name == "times" and value in ("always", "all"):
            parameters[name] = None
        elif name in ("times", "after", "status", "step") and value.isdecimal():
            parameters[name] = int(value)
        elif name in ("retry_after", "retry_after_ms", "seconds") and value.replace(".", "", 1).isdecimal():
            parameters[name] = float(value)
    try:
        # A text is no order: what is no fault in it is read as words.
        return Fault(**parameters)
    except ValueError:
        return None


def _is_status(kind: str) -> bool:
    return kind.isdecimal() and 400 <= int(kind) < 600


def _rate_limited(fault: Fault, default: str = "rate_limit_exceeded") -> Problem:
    code = fault.code or default
    if code in QUOTA:
        message = "You exceeded your current quota, please check your plan and billing details."
        return Problem(429, fault.message or message, type="insufficient_quota", code=code)
    kind = "rate_limit_error" if code == "slow_down" else "requests"
    message = fault.message or "Rate limit reached for requests. Please try again later."
    # Durations are written as Go writes them, which is what the platform does.
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": _go(fault.retry_after or 1.0)}
    return Problem(429, message, type=kind, code=code, headers=headers)


def _of_status(fault: Fault) -> Problem:
    status = int(fault.kind)
    default = ("server_error", None) if status >= 500 else ("invalid_request_error", None)
    kind, code = _STATUS_WORDS.get(status, default)
    return Problem(
        status, fault.message or f"The simulator was told to answer {status}.", type=kind, code=fault.code or code
    )


def _retry_headers(fault: Fault) -> dict[str, str]:
    headers: dict[str, str] = {}
    if fault.retry_after is not None:
        headers["retry-after"] = f"{fault.retry_after:g}"
    if fault.retry_after_ms is not None:
        headers["retry-after-ms"] = f"{fault.retry_after_ms:g}"
    return headers


def _go(seconds: float) -> str:
    return f"{seconds * 1000:g}ms" if seconds < 1 else f"{seconds:g}s"
