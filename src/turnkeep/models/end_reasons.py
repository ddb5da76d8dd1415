"""Why an answer has ended, in whichever words its server says it."""

from __future__ import annotations

from typing import Literal

from turnkeep.models.reading import label, mapping

End = Literal["stop", "length", "filter", "refusal", "failed"]

# How servers say that the answer goes on, beside saying nothing.
_NO_REASON = ("null", "none", "None")

_ENDS: tuple[tuple[str, End], ...] = (
    # What servers mean by their finish reasons, where it is not what OpenAI calls it; the first
    # that is in it counts.
    ("malformed_function_call", "failed"),
    ("unexpected_tool_call", "failed"),
    ("error", "failed"),
    ("abort", "failed"),
    ("insufficient_system_resource", "failed"),
    ("cancel", "failed"),
    ("timeout", "failed"),
    ("interrupt", "failed"),
    ("spii", "filter"),
    ("content_filter", "filter"),
    ("safety", "filter"),
    ("recitation", "filter"),
    ("sensitive", "filter"),
    ("blocklist", "filter"),
    ("prohibited_content", "filter"),
    ("guardrail", "filter"),
    ("refusal", "refusal"),
    ("max_", "length"),
    ("truncat", "length"),
    ("limit", "length"),
    ("model_length", "length"),
    ("context_window", "length"),
    ("length", "length"),
)


def end_of(reason: object) -> str | None:
    """The reason for which an answer has ended, None while it goes on; odd ones are a plain end."""
    if not reason or reason in _NO_REASON:
        return None
    return label(mapping(reason).get("type") or reason) or "stop"


def meaning_of_end(reason: str | None) -> End:
    """What the reason of an answer's end means, in whichever words."""
    if reason is None or reason in ("stop", "tool_calls", "end_turn"):
        return "stop"
    lower = reason.lower()
    return next((meaning for word, meaning in _ENDS if word in lower), "stop")
