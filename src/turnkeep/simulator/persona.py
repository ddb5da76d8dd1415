"""What the simulated model says: a plan for each prompt, the same for the same seed and prompt.

Without markers it acknowledges every message of the newest turn, and calls a tool that a message
plainly names. Markers (see `markers`) in those messages steer it.
"""

from __future__ import annotations

import re
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal
from urllib.parse import quote

import orjson

from turnkeep.lean_dataclass import dataclass
from turnkeep.simulator import chooser, worst
from turnkeep.simulator.markers import Marker, parse
from turnkeep.simulator.prompt import OpenMessage, Prompt

StopReason = Literal["max_output_tokens", "max_messages", "content_filter", "steered", "pause_turn"]
REASONS: tuple[StopReason, ...] = ("max_output_tokens", "max_messages", "content_filter", "steered")
QUOTE = 300
OUTPUT = 1000

PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAc0lEQVR42g3JoQEEIQwAsB/nhmAIhmCIanQ1ujq6mtme2Py+MMIM"
    "K0TIUKHD79vGNre1xZZbbb1fpJFmWilSpkqdL45xzGMdceRRR58XZZRZVomSpUrXCwaTRZAU7UUbbbbVomWr1v3iGte81hVXXnX1"
    "9QfYQGzBst+3uwAAAABJRU5ErkJggg=="
)
"""A PNG of eight by eight points, as base64."""

_LESSON = (
    *("the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "while", "seven", "patient", "clerks"),
    *("keep", "every", "turn", "of", "a", "long", "conversation", "in", "order", "and", "lose", "nothing"),
)


@dataclass(frozen=True, slots=True)
class Think:
    text: str


@dataclass(frozen=True, slots=True)
class Search:
    """A search that the provider itself makes, and the one page that it finds."""

    query: str

    @property
    def title(self) -> str:
        return f"All about {self.query}"

    @property
    def url(self) -> str:
        return f"https://simulator.example/{quote(self.query)}"

    @property
    def text(self) -> str:
        return f"Everything that is known about {self.query} stands here."


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture that the provider makes, where the protocol has such a thing."""

    subject: str


@dataclass(frozen=True, slots=True)
class Say:
    """`source`: what the whole text rests on."""

    text: str
    phase: str | None = None
    source: Search | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    text: str


@dataclass(frozen=True, slots=True)
class CallStep:
    """`call_id` only where it has to be a certain one; `arguments` is the text as the
    model writes it.
    """

    name: str
    arguments: str
    call_id: str | None = None


AnswerPart = Think | Search | Drawing | Say | Refuse | CallStep


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """The output of one response, in order. `incomplete` says why it stops short; pace in
    seconds, where steered.
    """

    parts: tuple[AnswerPart, ...]
    incomplete: StopReason | None = None
    first: float | None = None
    token: float | None = None

    @property
    def calls(self) -> list[CallStep]:
        return [part for part in self.parts if isinstance(part, CallStep)]


class AnswerScript:
    """Steering that comes from the test instead of the user's text: replies in order, then a
    default.

    A reply is a text with markers (``[[say:hello]]``), a finished
    `AnswerPlan`, or None to leave it to the text.
    """

    def __init__(
        self,
        replies: Iterable[str | AnswerPlan] = (),
        default: str | None = None,
        rule: Callable[[Prompt], str | AnswerPlan | None] | None = None,
    ) -> None:
        self.replies: deque[str | AnswerPlan] = deque(replies)
        self.default = default
        self.rule = rule

    def next(self, prompt: Prompt) -> str | AnswerPlan | None:
        if self.rule is not None and (reply := self.rule(prompt)) is not None:
            return reply
        if self.replies:
            return self.replies.popleft()
        return self.default


class Persona:
    """Plans answers."""

    def __init__(self, seed: int, script: AnswerScript) -> None:
        self._seed = seed
        self.script = script

    def plan(self, prompt: Prompt) -> AnswerPlan:
        reply = self.script.next(prompt)
        if isinstance(reply, AnswerPlan):
            return reply
        messages = prompt.open_messages()
        if reply is not None:
            # With the rounds of the real message: else its calls would be made anew after each
            # output.
            rounds = messages[0].rounds if messages else 0
            messages = [OpenMessage(reply, rounds)]
        markers = [marker for message in messages for marker in parse(message.text)[0]]
        parts = self._parts(prompt, messages, markers)
        if isinstance(parts[-1], Search):
            return AnswerPlan(parts, "pause_turn")
        return _cut_short(parts, markers, prompt.max_tokens)

    def _parts(
        self, prompt: Prompt, messages: Sequence[OpenMessage], markers: Sequence[Marker]
    ) -> tuple[AnswerPart, ...]:
        thoughts: list[AnswerPart] = []
        if prompt.thinks or _first(markers, "reason") is not None:
            thinking = _first(markers, "reason")
            thoughts.append(
                Think((thinking and thinking.text) or "Reading the newest messages and how to answer them.")
            )
        if calls := _calls(prompt, messages):
            comments = [Say(marker.text, "commentary") for marker in markers if marker.name == "comment"]
            return (*thoughts, *comments, *calls)
        if (drawing := _first(markers, "draw")) is not None:
            answer = Say(self._answer(prompt, messages, markers), "final_answer")
            return (*thoughts, Drawing(drawing.text), answer)
        if (search := _first(markers, "search")) is not None:
            return (*thoughts, *self._search_parts(prompt, messages, markers, search=Search(search.text)))
        refusal = _first(markers, "refuse")
        if refusal is not None:
            return (*thoughts, Refuse(refusal.text or "I'm sorry, but I can't help with that."))
        return (*thoughts, Say(self._answer(prompt, messages, markers), "final_answer"))

    def _search_parts(
        self, prompt: Prompt, messages: Sequence[OpenMessage], markers: Sequence[Marker], *, search: Search
    ) -> tuple[AnswerPart, ...]:
        """A search and what is said with it; two answers with ``[[pause]]``,
        where the protocol has such a thing.
        """
        answer = Say(self._answer(prompt, messages, markers), "final_answer", search)
        if prompt.pauses and _first(markers, "pause") is not None:
            return (answer,) if prompt.has_paused else (search,)
        return (search, answer)

    def _answer(self, prompt: Prompt, messages: Sequence[OpenMessage], markers: Sequence[Marker]) -> str:
        replies = [marker.text for marker in markers if marker.name == "say"]
        if replies:
            return "\n".join(replies)
        if (length := _first(markers, "words")) is not None:
            return _words(int(length.text) if length.text.isdecimal() else 0)
        texts = [parse(message.text)[1] for message in messages]
        if prompt.shape is not None:
            return orjson.dumps(chooser.example(prompt.shape, " ".join(texts))).decode()
        if outputs := prompt.outputs():
            return _report(texts, outputs)
        return _recall(prompt, texts) or self._acknowledge(texts)

    def _acknowledge(self, texts: Sequence[str]) -> str:
        quotes = [_short(text, QUOTE) for text in texts if text]
        if not quotes:
            return "I am listening. Write something, and I will repeat it."
        if len(quotes) > 1:
            return _gather(quotes)
        closings = (
            "I am only a simulator, but I read every word of it.",
            "A real model would have more to say; I am here to show that it arrived.",
            "That reached me in one piece. What comes next?",
        )
        # Not `hash`: it differs from process to process, and equal seeds have to give equal bytes.
        closing = closings[zlib.crc32(f"{self._seed}:{quotes[0]}".encode()) % len(closings)]
        if quotes[0].endswith("?"):
            return f"You asked: “{quotes[0]}” {closing}"
        return f"You said: “{quotes[0].rstrip('.')}”. {closing}"


def tokens_of(text: str) -> list[str]:
    """A text cut into what is streamed as one delta each; joined again they are the text."""
    # Some hundred deltas at most for one long word: a megabyte must not become 40,000 frames.
    size = max(24, len(text) // 400)
    return re.findall(rf"\s*\S{{1,{size}}}|\s+", text)


def _gather(texts: Sequence[str]) -> str:
    quotes = [f"“{text}”" for text in texts]
    # Each is quoted, so that whoever reads it sees that none was left out.
    middle = "".join(f" Then: {text}." for text in quotes[1:-1])
    return f"I read your {len(texts)} messages together. First: {quotes[0]}.{middle} And last: {quotes[-1]}."


def _report(texts: Sequence[str], outputs: Sequence[tuple[str, str]]) -> str:
    about = "; ".join(f"“{_short(text, QUOTE)}”" for text in texts if text)
    results = " ".join(f"{name} answered: {_short(text, OUTPUT)}." for name, text in outputs)
    return f"About {about}: {results}" if about else results


def _recall(prompt: Prompt, texts: Sequence[str]) -> str | None:
    """Two questions that show that the history arrives."""
    question = texts[-1].lower() if texts else ""
    history = [entry.text for entry in prompt.entries if entry.kind == "user"]
    if "what is my name" in question or "what's my name" in question:
        names = [match.group(1) for text in history for match in re.finditer(r"[Mm]y name is ([A-Z]\w+)", text)]
        return f"Your name is {names[-1]}." if names else "You have not told me your name yet."
    before = history[: len(history) - len(texts)]
    if "what did i say" in question and before:
        return f"Before this you said: “{_short(parse(before[-1])[1], QUOTE)}”"
    return None


def _calls(prompt: Prompt, messages: Sequence[OpenMessage]) -> list[CallStep]:
    """The calls that are due now: each message steers its own rounds."""
    calls: list[CallStep] = []
    for message in messages:
        calls += _calls_of(prompt, message)
    return calls


def _calls_of(prompt: Prompt, message: OpenMessage) -> list[CallStep]:
    markers, plain = parse(message.text)
    if (loop := _first(markers, "loop")) is not None:
        return [CallStep(loop.text or (prompt.tools[0].name if prompt.tools else "again"), loop.arguments)]
    if (bad := _first(markers, "worst")) is not None:
        return _worst_calls(prompt, bad.text, message.rounds)
    groups = [[CallStep(m.text, m.arguments) for m in markers if m.name == "call"]]
    groups += [[CallStep(m.text, m.arguments)] for m in markers if m.name == "then"]
    groups = [group for group in groups if group]
    if groups:
        return groups[message.rounds] if message.rounds < len(groups) else []
    # One round is enough: a rule that reads its own output again would call for ever.
    if message.rounds > 0 or _first(markers, "say") is not None:
        return []
    return [CallStep(name, arguments) for name, arguments in chooser.choose(prompt.tools, plain, prompt.choice)]


def _worst_calls(prompt: Prompt, wish: str, rounds: int) -> list[CallStep]:
    """Once, or in every round for ``[[worst:always]]`` and
    ``[[worst:always KIND]]``, whatever it was told.
    """
    kind, always = wish.removeprefix("always").strip(), wish.startswith("always")
    if rounds and not always:
        return []
    names = [tool.name for tool in prompt.tools]
    return [CallStep(name, arguments, call_id) for name, arguments, call_id in worst.calls(names, kind)]


def _cut_short(parts: tuple[AnswerPart, ...], markers: Sequence[Marker], max_tokens: int | None) -> AnswerPlan:
    """Apply what stops an answer short, and the steered pace."""
    reason = _stop(markers)
    limit = max_tokens
    last = parts[-1]
    if isinstance(last, Say):
        tokens = tokens_of(last.text)
        # Half of it: an answer that stops short has begun, and misses something.
        if reason is not None:
            limit = min(limit or len(tokens), max(1, len(tokens) // 2))
        if limit is not None and len(tokens) > limit:
            reason = reason or "max_output_tokens"
            parts = (*parts[:-1], Say("".join(tokens[:limit]), last.phase, last.source))
    return AnswerPlan(parts, reason, _milliseconds(markers, "ttft"), _milliseconds(markers, "pace"))


def _stop(markers: Sequence[Marker]) -> StopReason | None:
    if _first(markers, "length") is not None:
        return "max_output_tokens"
    if _first(markers, "filter") is not None:
        return "content_filter"
    wish = _first(markers, "incomplete")
    return next((reason for reason in REASONS if wish is not None and reason == wish.text), None)


def _milliseconds(markers: Sequence[Marker], name: str) -> float | None:
    marker = _first(markers, name)
    if marker is None or not re.fullmatch(r"\d+(\.\d+)?", marker.text):
        return None
    return float(marker.text) / 1000


def _first(markers: Sequence[Marker], name: str) -> Marker | None:
    return next((marker for marker in markers if marker.name == name), None)


def _words(count: int) -> str:
    return " ".join(_LESSON[at % len(_LESSON)] for at in range(count))


def _short(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]} … {text[-limit // 2 :]}"
