"""What a turn has shown between two holds for outputs of the caller's functions."""

from __future__ import annotations

import pytest

from turnkeep.doors.http.openai.turn_reader import LogCursor, RunOutline
from turnkeep.runs.journal import SEPARATOR


@pytest.mark.parametrize(
    ("texts", "hold", "text"),
    [
        (["first"], 0, "first"),
        (["first", "second"], 1, "second"),
        (["", "second"], 1, "second"),
        (["first", "second", "third"], 2, "third"),
        (["first", "first"], 1, "first"),
        pytest.param(["first", "\n\n\nsecond"], 1, "\n\n\nsecond", id="what it says may begin with empty lines"),
        pytest.param(["\n\nfirst"], 0, "\n\nfirst", id="so may the first"),
    ],
)
def test_a_hold_has_what_was_said_since_the_one_before_to_the_character(texts: list[str], hold: int, text: str) -> None:
    shown = [SEPARATOR.join(one for one in texts[: count + 1] if one) for count in range(len(texts))]
    places = tuple(LogCursor("e", number, base, (f"call_{number}",)) for number, base in enumerate(shown))
    assert RunOutline(holds=places).text_before(hold) == text


def test_a_call_leads_to_the_last_hold_that_waited_for_it() -> None:
    first, second, third = (LogCursor("e", n, calls=calls) for n, calls in enumerate([("a",), ("b",), ("a", "c")]))
    outline = RunOutline(holds=(first, second, third))
    assert outline.behind(["a"]) is third
    assert outline.behind(["b"]) is second
    assert outline.behind(["d"]) is None
