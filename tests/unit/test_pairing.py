"""A paired transcript is one that no provider refuses, and pairing changes nothing that was fit already."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from turnkeep.messages import (
    AssistantItem,
    CallItem,
    HostedItem,
    Item,
    OutputItem,
    ReasoningItem,
    SystemItem,
    UserItem,
    text_content,
)
from turnkeep.models.past import MISSING_OUTPUT, pair, repair

USER: Item = UserItem(text_content("hello"))
SAID: Item = AssistantItem("hi")


def call(call_id: str) -> Item:
    return CallItem(call_id, "look", "{}")


def output(call_id: str, text: str = "seen") -> Item:
    return OutputItem(call_id, text)


def unknown(call_id: str) -> Item:
    return OutputItem(call_id, MISSING_OUTPUT, "unknown")


def thought(name: str) -> Item:
    return ReasoningItem({"type": "reasoning", "id": name})


def search(name: str) -> Item:
    return HostedItem("web_search", {"type": "server_tool_use", "id": name})


# ---------------------------------------------------------------- examples


def test_a_call_without_output_gets_one_that_says_the_outcome_is_unknown() -> None:
    assert pair([USER, call("a")]) == [USER, call("a"), unknown("a")]


def test_a_missing_output_is_placed_after_the_group_of_its_call_where_the_call_has_its_place() -> None:
    paired = pair([USER, call("a"), call("b"), output("b"), SAID])
    assert paired == [USER, call("a"), call("b"), unknown("a"), output("b"), SAID]


def test_outputs_stand_in_the_order_of_their_calls_whichever_came_first() -> None:
    calls = [call("a"), call("b"), call("c")]
    assert pair([*calls, output("c"), output("a"), output("b"), SAID]) == [*calls, *map(output, "abc"), SAID]


def test_an_output_that_comes_late_is_moved_to_its_call() -> None:
    assert pair([call("a"), USER, output("a")]) == [call("a"), output("a"), USER]


def test_outputs_without_a_call_and_second_outputs_are_dropped() -> None:
    items = [output("x"), USER, call("a"), output("a"), output("a", "again"), SAID]
    assert pair(items) == [USER, call("a"), output("a"), SAID]


def test_an_output_before_its_call_does_not_count_as_its_output() -> None:
    assert pair([output("a", "early"), call("a")]) == [call("a"), unknown("a")]


def test_a_name_used_twice_belongs_to_two_calls() -> None:
    items = [call("a"), output("a", "one"), SAID, call("a"), output("a", "two")]
    assert pair(items) == items


def test_reasoning_stays_before_its_call_and_its_answer() -> None:
    items = [USER, thought("r1"), call("a"), thought("r2"), call("b"), output("a"), output("b"), thought("r3"), SAID]
    assert pair(items) == items


def test_reasoning_that_leads_to_nothing_is_dropped() -> None:
    items = [thought("r1"), USER, thought("r2"), thought("r3"), call("a"), thought("r4"), output("a"), thought("r5")]
    assert pair(items) == [USER, thought("r2"), thought("r3"), call("a"), output("a")]


def test_a_repair_sends_no_reasoning() -> None:
    assert repair([USER, thought("r"), call("a"), thought("s"), SAID]) == [USER, call("a"), unknown("a"), SAID]


# ---------------------------------------------------------------- properties

NAMES = st.sampled_from("abcd")
ITEMS = st.one_of(
    st.builds(call, NAMES),
    st.builds(output, NAMES, st.sampled_from(["1", "2"])),
    st.builds(thought, NAMES),
    st.sampled_from([USER, SAID, SystemItem("be kind"), search("s")]),
)
TRANSCRIPTS = st.lists(ITEMS, max_size=16)


@st.composite
def fit_transcripts(draw: st.DrawFn) -> list[Item]:
    items: list[Item] = []
    for step in range(draw(st.integers(0, 5))):
        items += draw(st.lists(st.sampled_from([USER, SAID]), max_size=2))
        names = [f"{step}{n}" for n in range(draw(st.integers(0, 3)))]
        for name in names:
            items += [*draw(st.lists(st.sampled_from([thought(name), search(name)]), max_size=3)), call(name)]
        items += map(output, names)
    return items


@given(TRANSCRIPTS)
def test_every_group_of_calls_is_followed_by_exactly_its_outputs_in_order(items: list[Item]) -> None:
    asked: list[str] = []
    kinds = [(item.kind, item) for item in pair(items) if item.kind not in ("reasoning", "hosted")]
    for kind, group in groupby(kinds, key=lambda entry: entry[0]):
        names = [item.call_id for _, item in group if isinstance(item, (CallItem, OutputItem))]
        if kind == "output":
            assert names == asked
            asked = []
        else:
            assert not asked
            asked = names
    assert not asked


@given(TRANSCRIPTS)
def test_reasoning_always_leads_to_a_call_or_an_answer(items: list[Item]) -> None:
    paired = pair(items)
    for item, after in zip(paired, [*paired[1:], None], strict=False):
        if item.kind == "reasoning":
            assert after is not None
            assert after.kind in ("reasoning", "hosted", "call", "assistant")


@given(TRANSCRIPTS)
def test_pairing_twice_is_pairing_once(items: list[Item]) -> None:
    assert pair(pair(items)) == pair(items)


@given(fit_transcripts())
def test_a_transcript_that_is_fit_comes_back_as_it_is(items: list[Item]) -> None:
    assert pair(items) == items


@given(TRANSCRIPTS)
def test_what_was_said_and_asked_is_all_kept_in_order(items: list[Item]) -> None:
    def said(entries: list[Item]) -> list[Item]:
        return [item for item in entries if item.kind in ("user", "assistant", "system", "hosted", "call")]

    assert said(pair(items)) == said(items)


@given(TRANSCRIPTS)
def test_a_result_that_a_call_waited_for_is_never_replaced(items: list[Item]) -> None:
    """Only calls with no output behind them get a made-up one."""
    waiting: Counter[str] = Counter()
    for item in items:
        if isinstance(item, CallItem):
            waiting[item.call_id] += 1
        elif isinstance(item, OutputItem) and waiting[item.call_id]:
            waiting[item.call_id] -= 1
    made_up = Counter(item.call_id for item in pair(items) if isinstance(item, OutputItem) and item.status == "unknown")
    assert made_up == +waiting
