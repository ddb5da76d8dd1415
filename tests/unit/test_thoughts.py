"""What servers tell beside the words of a message goes back as they told it, whatever form it has."""

from __future__ import annotations

from typing import Any

import pytest

from turnkeep.models.thoughts import Thoughts

PIECES: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "texts go on": ([{"reasoning_content": "a"}, {"reasoning_content": "b"}], {"reasoning_content": "ab"}),
    "entries of one index go on": (
        [
            {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "a"}]},
            {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "b", "signature": "s"}]},
        ],
        {"reasoning_details": [{"type": "reasoning.text", "index": 0, "text": "ab", "signature": "s"}]},
    ),
    "entries of their own stay apart": (
        [{"thinking_blocks": [{"type": "thinking", "id": "1", "thinking": "a"}]},
         {"thinking_blocks": [{"type": "thinking", "id": "2", "thinking": "b"}]}],
        {"thinking_blocks": [{"type": "thinking", "id": "1", "thinking": "a"},
                             {"type": "thinking", "id": "2", "thinking": "b"}]},
    ),
    "entries that are no objects stay": ([{"thinking_blocks": ["a"]}, {"thinking_blocks": ["b"]}],
                                         {"thinking_blocks": ["a", "b"]}),
    "an object is told piece by piece": (
        [{"extra_content": {"google": {"thought": True}}}, {"extra_content": {"google": {"thought_signature": "s"}}}],
        {"extra_content": {"google": {"thought": True, "thought_signature": "s"}}},
    ),
    "an object takes the place of what is none": (
        [{"extra_content": 1}, {"extra_content": {"a": {"b": 2}}}], {"extra_content": {"a": {"b": 2}}},
    ),
    "anything else comes whole": ([{"thought_signature": 7}, {"thought_signature": 8}], {"thought_signature": 8}),
    "what only decorates stays behind": ([{"channel": "analysis", "content": "x", "reasoning": ""}], {}),
    "one of two that say the same": ([{"reasoning": "a", "reasoning_content": "a"}], {"reasoning_content": "a"}),
}  # fmt: skip


@pytest.mark.parametrize(("pieces", "fields"), PIECES.values(), ids=PIECES)
def test_fields_of_an_answer_are_put_together_from_its_pieces(
    pieces: list[dict[str, Any]], fields: dict[str, Any]
) -> None:
    thoughts = Thoughts()
    for piece in pieces:
        thoughts.take(piece)
    assert thoughts.fields == fields


def test_people_may_read_what_is_thought_in_words() -> None:
    thoughts = Thoughts()
    told = [thoughts.take(piece) for piece in ({"reasoning": "a"}, {"extra_content": {"x": 1}}, {"thinking": "b"})]
    assert (told, thoughts.text_of("reasoning"), thoughts.text_of("nothing")) == (["a", "", "b"], "a", "")
