"""What a client of Chat Completions resends, compared with the transcript; and what it has been shown."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rows import each_row
from turnkeep.doors.http.openai.resent_history import (
    Comparison,
    Continuation,
    Divergence,
    Regeneration,
    Repetition,
    Utterance,
    compare,
    utterances_resent,
)
from turnkeep.doors.http.openai.shown_text import ShownText


def sent(*texts: str) -> list[Utterance]:
    """Users and answers; an answer begins with `a`."""
    return [Utterance("assistant" if text.startswith("a") else "user", text) for text in texts]


def kept(*texts: str) -> list[Utterance]:
    """The same of the transcript: `u1?` is open, `a1-` was stopped."""
    return [
        Utterance("assistant" if t.startswith("a") else "user", t.rstrip("?-"), f"m:{t.rstrip('?')}",
                  is_open=t.endswith("?"), is_cut=t.endswith("-"))
        for t in texts
    ]  # fmt: skip


@each_row(
    ("resent", "stored", "expected"),
    [
        (sent("u1"), kept(), Continuation(0)),
        (sent("u1", "a1", "u2"), kept("u1", "a1"), Continuation(2)),
        (sent("u1", "u2"), kept("u1?"), Continuation(1)),  # the second of a burst
        (sent("u1", "u2", "u3"), kept("u1?", "u2?"), Continuation(2)),
        (sent("u1", "u2"), kept("u1", "a1"), Continuation(1)),  # its answer was not seen
        (sent("u1", "a", "u2"), kept("u1?"), Continuation(2)),  # stopped reading while the run goes on
        (sent("u1", "a", "u2"), kept("u1", "a1"), Continuation(2)),  # stopped reading, answered meanwhile
        (sent("u1", "a1 and more", "u2"), kept("u1", "a1-"), Continuation(2)),  # a run that was stopped
        (sent("u1", "a1", "u2"), kept(), Continuation(0)),  # it began elsewhere
        (sent("u1", "a1", "u2", "a2", "u3"), kept("u1", "a1"), Continuation(2)),  # somebody else answered between
        (sent("u1"), kept("u1?"), Repetition("m:u1")),
        (sent("u1"), kept("u1?", "u2?"), Repetition("m:u1")),  # late, behind the next of its burst
        (sent("u1", "a1", "u2"), kept("u1", "a1", "u2?"), Repetition("m:u2")),
        (sent("u1"), kept("u1", "a1"), Regeneration("m:u1")),
        (sent("u1", "a1", "u2"), kept("u1", "a1", "u2", "a2"), Regeneration("m:u2")),
        (sent("u9"), kept("u1", "a1"), Divergence(0)),  # the first message was edited
        (sent("u1", "a1", "u9"), kept("u1", "a1", "u2", "a2"), Divergence(2)),
        (sent("u1", "a9", "u2"), kept("u1", "a1"), Divergence(1)),  # the answer was edited
        (sent("u2", "a2", "u3"), kept("u1", "a1", "u2", "a2"), Divergence(0)),  # the beginning was cut off
        (sent("u1"), kept("u1", "a1", "u2", "a2"), Divergence(1)),  # an earlier answer is wanted anew
        (sent("u1"), kept("u1", "a1", "u2?"), Divergence(1)),
    ],
)  # fmt: skip
def test_a_clean_prefix_goes_on_and_all_else_is_named(
    resent: list[Utterance], stored: list[Utterance], expected: Comparison
) -> None:
    assert compare(resent, stored) == expected


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "be kind"},
         {"role": "user", "content": [{"type": "text", "text": "hello  you"}]},
         {"role": "assistant", "content": "<details type=\"reasoning\">hm</details>\nfine"}],
        [{"role": "user", "content": "hello you\n"}, {"role": "assistant", "content": "fine", "tool_calls": []}],
        [{"role": "user", "content": "hello you"}, {"role": "assistant", "tool_calls": [{"id": "c"}]},
         {"role": "tool", "tool_call_id": "c", "content": "x"},
         {"role": "assistant", "content": "<think>a</think>fine"}],
    ],
)  # fmt: skip
def test_what_front_ends_change_on_the_way_is_no_difference(messages: list[dict[str, Any]]) -> None:
    assert [(one.role, one.text) for one in utterances_resent(messages)] == [
        ("user", "hello you"),
        ("assistant", "fine"),
    ]


def test_an_attempt_that_says_the_same_again_shows_nothing_twice() -> None:
    shown = ShownText()
    assert [shown.grow("ab"), shown.grow("c")] == ["ab", "c"]
    assert shown.become("") == ""  # a further attempt begins
    assert [shown.grow("a"), shown.grow("bc"), shown.grow("d")] == ["", "", "d"]
    assert shown.end("abcd!") == "!"


@pytest.mark.parametrize("parts", [["x"], ["ab", "x"], ["abx"], ["a", "b", "x"]])
def test_an_attempt_that_says_otherwise_is_told_and_begun_anew(parts: list[str]) -> None:
    shown = ShownText()
    shown.grow("abc")
    shown.become("")
    assert [shown.grow(part) for part in parts][-1] is None
    assert shown.begin_anew() == "".join(parts)
    assert shown.grow("!") == "!"


def test_an_answer_that_ends_before_what_was_shown_contradicts_it() -> None:
    shown = ShownText()
    shown.grow("abc")
    assert shown.end("ab") is None
