"""What a client resends of a conversation, compared with the transcript.

Clients of Chat Completions send all of it each time. What we have is a clean beginning of that: the
rest is new, answers that others gave in between as well. Anything else (an edit, a cut, another
answer in place of ours) would leave an answer in the context that the user does not see any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from turnkeep.doors.http.openai.openai_input import plain_text
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import AssistantItem, UserItem, content_text
from turnkeep.store.values import MessageRecord, TranscriptEntry

_THOUGHTS = re.compile(r"<details\b[^>]*>.*?</details>|<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
"""How front ends keep a thought inside of an answer, and some send it back."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """Somebody's words, without what front ends change of them on their way. `is_open`: not answered
    yet; `is_cut`: an answer that was stopped.
    """

    role: Literal["user", "assistant"]
    text: str
    message_id: str = ""
    is_open: bool = False
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Continuation:
    """From this place on it is new."""

    index: int


@dataclass(frozen=True, slots=True)
class Repetition:
    """All of it is here; the last one is this message, and is asked for once more before its answer."""

    message_id: str


@dataclass(frozen=True, slots=True)
class Regeneration:
    """All of it but the last answer, which is wanted anew: the turn of this message."""

    message_id: str


@dataclass(frozen=True, slots=True)
class Divergence:
    """At this place it says otherwise than the transcript."""

    index: int


Comparison = Continuation | Repetition | Regeneration | Divergence


def words(text: str) -> str:
    return " ".join(_THOUGHTS.sub(" ", text).split())


def utterances_resent(messages: Iterable[Mapping[str, Any]]) -> list[Utterance]:
    """Of a request: user and assistant, without tools and system messages."""
    result: list[Utterance] = []
    for message in messages:
        role, text = message.get("role"), words(plain_text(message.get("content")))
        if role == "user":
            result.append(Utterance("user", text))
        elif role == "assistant" and text:
            _say(result, text)
    return result


def utterances_stored(entries: Iterable[TranscriptEntry], open_messages: Iterable[MessageRecord]) -> list[Utterance]:
    """Of the transcript, and what waits behind it."""
    result: list[Utterance] = []
    for entry in entries:
        item = entry.item
        if isinstance(item, UserItem) and item.content:
            result.append(Utterance("user", words(content_text(item.content)), item.message_id or ""))
        elif isinstance(item, AssistantItem) and item.text.strip():
            _say(result, words(item.text), is_cut=item.interrupted)
    for record in open_messages:
        if record.message is not None and record.status != "delayed":
            result.append(Utterance("user", words(record.message.text), record.message_id, is_open=True))
    return result


def _say(result: list[Utterance], text: str, *, is_cut: bool = False) -> None:
    """The steps of an answer are one answer to who reads it."""
    if result and result[-1].role == "assistant":
        before = result.pop()
        text, is_cut = f"{before.text} {text}", is_cut or before.is_cut
    result.append(Utterance("assistant", text, is_cut=is_cut))


def compare(resent: Sequence[Utterance], transcript: Sequence[Utterance]) -> Comparison:
    """What a request asks for, by what we have of its conversation."""
    index = here = 0
    while index < len(resent) and here < len(transcript):
        theirs, ours = resent[index], transcript[here]
        if theirs.role == ours.role:
            if not _is_same(theirs, ours):
                return Divergence(index)
            index, here = index + 1, here + 1
        elif theirs.role == "user":
            here += 1  # an answer that the client has not seen, or has not kept
        elif _is_seen_early(transcript, here):
            index += 1
        else:
            return Divergence(index)
    if here == len(transcript):
        return _at_end(resent, transcript, index)
    return _before_end(transcript, here, index)


def _is_seen_early(transcript: Sequence[Utterance], here: int) -> bool:
    """Part of an answer that is not in the transcript yet: its run goes on."""
    return here > 0 and transcript[here - 1].is_open


def _is_same(theirs: Utterance, ours: Utterance) -> bool:
    if theirs.text == ours.text:
        return True
    # A client that closes its connection keeps what it has read; a stopped run what it had shown.
    if ours.role == "assistant":
        return ours.text.startswith(theirs.text) or (ours.is_cut and theirs.text.startswith(ours.text))
    return False


def _at_end(resent: Sequence[Utterance], transcript: Sequence[Utterance], index: int) -> Comparison:
    if index < len(resent) and resent[index].role == "assistant" and _is_seen_early(transcript, len(transcript)):
        index += 1
    if index < len(resent) or not transcript:
        return Continuation(index)
    last = transcript[-1]
    return Repetition(last.message_id) if last.role == "user" else Continuation(index)


def _before_end(transcript: Sequence[Utterance], here: int, index: int) -> Comparison:
    last, rest = transcript[here - 1], transcript[here:]
    if here == 0 or last.role == "assistant":
        return Divergence(index)
    if all(one.is_open for one in rest):
        return Repetition(last.message_id)
    is_last_answer = len(rest) == 1 and rest[0].role == "assistant"
    return Regeneration(last.message_id) if is_last_answer else Divergence(index)


def answer_before(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many messages there are up to the last answer of the assistant, with the outputs behind it."""
    ends = [index + 1 for index, one in enumerate(messages) if one.get("role") in ("assistant", "tool", "function")]
    return ends[-1] if ends else 0
