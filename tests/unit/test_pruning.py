"""Whatever a transcript looks like, what is told of it fits, and nothing in it is torn apart."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from turnkeep.conversation import prune
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
from turnkeep.store.values import TranscriptEntry


def user(text: str) -> UserItem:
    return UserItem(text_content(text))


def entries_of(*items: Item, tokens: int = 10) -> list[TranscriptEntry]:
    return [TranscriptEntry(item, tokens, turn) for turn, item in enumerate(items, 1)]


def items(entries: Sequence[TranscriptEntry]) -> list[Item]:
    return [entry.item for entry in entries]


# ---------------------------------------------------------------- by hand


def test_everything_is_kept_where_it_fits() -> None:
    entries = entries_of(SystemItem("be brief"), user("a"), AssistantItem("b"))
    assert prune(entries) == entries
    assert prune(entries, tokens=30, messages=3) == entries


def test_the_newest_whole_turns_are_kept() -> None:
    entries = entries_of(user("1"), AssistantItem("2"), user("3"), AssistantItem("4"), user("5"), AssistantItem("6"))
    assert prune(entries, tokens=50) == entries[2:]
    assert prune(entries, messages=3) == entries[4:]


def test_system_messages_stay_where_they_stand() -> None:
    first, second = SystemItem("be brief"), SystemItem("and kind")
    entries = entries_of(first, user("1"), AssistantItem("2"), second, user("3"), AssistantItem("4"))
    assert items(prune(entries, tokens=40)) == [first, second, user("3"), AssistantItem("4")]


def test_system_messages_that_do_not_fit_go_from_the_end() -> None:
    entries = entries_of(SystemItem("first"), SystemItem("second"), user("1"))
    assert items(prune(entries, tokens=19)) == [SystemItem("first")]


def test_several_messages_in_a_row_are_one_turn() -> None:
    entries = entries_of(user("1"), AssistantItem("2"), user("3"), user("4"), AssistantItem("5"))
    assert prune(entries, tokens=30) == entries[2:]
    assert prune(entries, tokens=20) == entries[3:], "the newest turn does not fit, so its end is told"


def test_a_call_stays_with_its_output() -> None:
    call, output = CallItem("c", "look", "{}"), OutputItem("c", "found")
    entries = entries_of(user("1"), call, output, AssistantItem("2"))
    assert items(prune(entries, tokens=30)) == [call, output, AssistantItem("2")]
    assert items(prune(entries, tokens=20)) == [AssistantItem("2")]


def test_reasoning_stays_with_what_it_led_to() -> None:
    thought = ReasoningItem({"id": "r"})
    call, output = CallItem("c", "look", "{}"), OutputItem("c", "found")
    entries = entries_of(user("1"), thought, call, output, thought, AssistantItem("2"))
    assert items(prune(entries, tokens=40)) == [thought, AssistantItem("2")]
    assert items(prune(entries, tokens=10)) == []


def test_no_room_is_nothing() -> None:
    assert prune(entries_of(SystemItem("s"), user("1")), tokens=0) == []
    assert prune(entries_of(SystemItem("s"), user("1")), messages=0) == []
    assert prune([], tokens=10) == []


# ---------------------------------------------------------------- at random


def transcript(dice: random.Random) -> list[TranscriptEntry]:
    """Turns as they come, and in one of three something that should not."""
    made: list[Item] = []
    for _ in range(dice.randrange(9)):
        made += _turn(dice, len(made))
    if dice.random() < 1 / 3:
        dice.shuffle(made)
    return [
        TranscriptEntry(item, dice.randrange(60), place // dice.choice([1, 1, 4])) for place, item in enumerate(made)
    ]


def _turn(dice: random.Random, number: int) -> list[Item]:
    turn: list[Item] = [user(f"u{number}.{i}") for i in range(dice.choice([1, 1, 1, 2, 3]))]
    if dice.random() < 0.2:
        turn.insert(dice.randrange(len(turn) + 1), SystemItem(f"s{number}"))
    for step in range(dice.choice([0, 0, 1, 2])):
        if dice.random() < 0.5:
            turn.append(ReasoningItem({"id": f"r{number}.{step}"}))
        if dice.random() < 0.3:
            turn.append(HostedItem("web_search", {"id": f"h{number}.{step}"}))
        calls = [CallItem(f"c{number}.{step}.{i}", "look", "{}") for i in range(dice.choice([1, 1, 2, 3]))]
        outputs: list[Item] = [OutputItem(call.call_id, "found") for call in calls if dice.random() < 0.95]
        dice.shuffle(outputs)
        turn += [*calls, *outputs]
    if dice.random() < 0.3:
        turn.append(ReasoningItem({"id": f"r{number}"}))
    if dice.random() < 0.9:
        turn.append(AssistantItem(f"a{number}"))
    return turn


def limit(dice: random.Random, most: int) -> int | None:
    return None if dice.random() < 0.3 else dice.randrange(most + 2)


def check(
    entries: list[TranscriptEntry], told: list[TranscriptEntry], tokens: int | None, messages: int | None
) -> None:
    places = [entries.index(entry) for entry in told]
    assert places == sorted(set(places)), "in order, nothing twice, nothing made up"
    assert tokens is None or sum(entry.tokens for entry in told) <= tokens
    assert messages is None or len(told) <= messages
    _system_is_kept(entries, told, tokens, messages)
    _nothing_is_torn_apart(entries, set(places))
    _what_is_told_is_the_end(entries, set(places))
    _no_older_turn_would_fit(entries, told, tokens, messages)


def _system_is_kept(
    entries: list[TranscriptEntry], told: list[TranscriptEntry], tokens: int | None, messages: int | None
) -> None:
    system = [entry for entry in entries if entry.item.kind == "system"]
    weight = sum(entry.tokens for entry in system)
    if (tokens is None or weight <= tokens) and (messages is None or len(system) <= messages):
        assert [entry for entry in told if entry.item.kind == "system"] == system


def _nothing_is_torn_apart(entries: list[TranscriptEntry], told: set[int]) -> None:
    talk = [(place, entry.item) for place, entry in enumerate(entries) if entry.item.kind != "system"]
    calls: dict[str, int] = {}
    for at, (place, item) in enumerate(talk):
        if isinstance(item, CallItem):
            calls[item.call_id] = place
        elif isinstance(item, OutputItem) and item.call_id in calls:
            assert (place in told) == (calls[item.call_id] in told), "a call or its output is missing"
        elif isinstance(item, ReasoningItem | HostedItem) and at + 1 < len(talk):
            assert (place in told) == (talk[at + 1][0] in told), "reasoning without what it led to, or the reverse"


def _what_is_told_is_the_end(entries: list[TranscriptEntry], told: set[int]) -> None:
    talk = [place for place, entry in enumerate(entries) if entry.item.kind != "system"]
    newest_first = [place in told for place in reversed(talk)]
    assert newest_first == sorted(newest_first, reverse=True), "something newer was left out"


def _no_older_turn_would_fit(
    entries: list[TranscriptEntry], told: list[TranscriptEntry], tokens: int | None, messages: int | None
) -> None:
    """A turn begins where a user speaks after somebody else, unless a call before it is answered behind it."""
    talk = [entry for entry in entries if entry.item.kind != "system"]
    system = [entry for entry in told if entry.item.kind == "system"]
    for at, entry in enumerate(talk):
        begins = entry.item.kind == "user" and (
            at == 0 or talk[at - 1].item.kind not in ("user", "reasoning", "hosted")
        )
        outputs = {item.item.call_id for item in talk[at:] if isinstance(item.item, OutputItem)}
        parted = any(isinstance(e.item, CallItem) and e.item.call_id in outputs for e in talk[:at])
        if begins and not parted and entry not in told:
            whole = [*system, *talk[at:]]
            fits = (tokens is None or sum(e.tokens for e in whole) <= tokens) and (
                messages is None or len(whole) <= messages
            )
            assert not fits, "there was room for more"


@pytest.mark.prove
def test_random_transcripts_are_pruned_within_their_budget(
    size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    count, pruned = size(1000, 10_000), 0
    for seed in range(count):
        dice = random.Random(seed)
        entries = transcript(dice)
        given: dict[str, Any] = {
            "tokens": limit(dice, sum(entry.tokens for entry in entries)),
            "messages": limit(dice, len(entries)),
        }
        told = prune(entries, **given)
        check(entries, told, **given)
        assert prune(entries, **given) == told, "the same every time"
        assert prune(told, **given) == told, "what fits already is not pruned again"
        pruned += len(told) < len(entries)
    assert pruned > count / 3
    proof("pruning", f"{count} random transcripts, {pruned} did not fit: within the budget, pairs whole, newest kept")
