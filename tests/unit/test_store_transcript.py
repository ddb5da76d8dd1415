"""Whole turns: kept, read, taken back."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnkeep.messages import (
    AssistantItem,
    OutputItem,
    Part,
    ReasoningItem,
    UserItem,
    content_size,
    digest,
    item_from_json,
    item_to_json,
    text_content,
)
from turnkeep.store.transcript import (
    entry_size,
    last_user_turn,
    newest,
    trimmed_through,
)
from turnkeep.store.values import Policy, TranscriptEntry


def entries_of(*turns: int, tokens: int = 1, words: str = "x") -> list[TranscriptEntry]:
    """As many entries in each turn."""
    return [
        TranscriptEntry(AssistantItem(words), tokens, turn) for turn, count in enumerate(turns, 1) for _ in range(count)
    ]


def test_an_item_is_written_and_read_as_it_is() -> None:
    for item in (
        UserItem((Part("text", "hi"), Part("image", data={"url": "u"})), "m1", 2.5),
        AssistantItem("x", interrupted=True),
        ReasoningItem({"id": "r"}),
        OutputItem("c", "o", "unknown"),
    ):
        assert item_from_json(item_to_json(item)) == item


def test_a_size_counts_bytes() -> None:
    assert entry_size(TranscriptEntry(AssistantItem("é"))) == entry_size(TranscriptEntry(AssistantItem("e"))) + 1
    assert entry_size(TranscriptEntry(AssistantItem("\ud800"))) > 0


turns = st.lists(st.integers(1, 5), max_size=10)


@given(turns, st.integers(1, 12))
def test_no_more_turns_go_than_have_to(counts: list[int], limit: int) -> None:
    entries = entries_of(*counts)

    through = trimmed_through(entries, Policy(history_items=limit), sum(map(entry_size, entries)))

    left = [e for e in entries if e.turn > through]
    assert len(left) <= limit or {e.turn for e in left} == {len(counts)}
    if through:
        assert len([e for e in entries if e.turn >= through]) > limit


@given(turns, st.integers(1, 12))
def test_bytes_bound_a_transcript_as_items_do(counts: list[int], limit: int) -> None:
    entries = entries_of(*counts)
    size = entry_size(TranscriptEntry(AssistantItem("x")))

    by_bytes = trimmed_through(entries, Policy(history_bytes=limit * size), sum(map(entry_size, entries)))

    assert by_bytes == trimmed_through(entries, Policy(history_items=limit), sum(map(entry_size, entries)))


@given(turns, st.one_of(st.none(), st.integers(0, 40)), st.one_of(st.none(), st.integers(0, 20)), st.integers(1, 12))
def test_a_history_is_the_longest_run_of_newest_turns_that_fits(
    counts: list[int], tokens: int | None, items: int | None, before: int
) -> None:
    entries = entries_of(*counts, tokens=2)
    older = [e for e in entries if e.turn < before]

    history = newest(entries, "summary", tokens=tokens, items=items, before_turn=before)

    taken = list(history.entries)
    assert taken == older[len(older) - len(taken) :]
    assert history.summary == "summary"
    assert history.complete == (len(taken) == len(older))
    assert items is None or len(taken) <= items
    assert tokens is None or 2 * len(taken) <= tokens
    left = older[: len(older) - len(taken)]
    if left:
        more = len(taken) + sum(e.turn == left[-1].turn for e in left)
        assert left[-1].turn not in {e.turn for e in taken}
        assert (items is not None and more > items) or (tokens is not None and 2 * more > tokens)


def test_the_last_turn_that_asked_is_found_whole() -> None:
    asked = [TranscriptEntry(UserItem(text_content("q")), turn=2), TranscriptEntry(AssistantItem("a"), turn=2)]
    entries = [*entries_of(2), *asked, TranscriptEntry(AssistantItem("later"), turn=3)]

    assert last_user_turn(entries) == asked
    assert last_user_turn(entries_of(2, 3)) == []
    assert last_user_turn([]) == []


@pytest.mark.parametrize("text", ["hello", 'quoted "words" \\ and\nlines', "Zoë 🙂", "\x00\x1f", "\ud800 alone", ""])
def test_digests_are_of_the_json_that_was_always_meant_and_sizes_of_the_text_itself(text: str) -> None:
    """Stores compare with what they have kept for years."""
    content = (*text_content(text), Part("image", data={"url": "https://a/b", "detail": "low"}))
    parts = [part.to_json() for part in content]
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    entry = TranscriptEntry(UserItem(content, "m1"), 3)
    stored = json.dumps(item_to_json(entry.item), ensure_ascii=False, separators=(",", ":"))

    picture = json.dumps(parts[1], ensure_ascii=False)
    assert content_size(content) == len((text + picture).encode("utf-8", "surrogatepass"))
    assert digest(content) == hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()[:32]
    assert entry_size(entry) == len(stored.encode("utf-8", "surrogatepass"))
