"""The tables of what servers say stand on something, and no row of them takes the words of another matter."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import pytest

from tests.rows import each_row
from turnkeep import toml
from turnkeep.errors import ContextTooLong
from turnkeep.models import servers
from turnkeep.models.classify import classify

ROWS: list[dict[str, Any]] = [
    *servers.table()["sentence"],
    *toml.parse((resources.files("turnkeep.models") / "refusals.toml").read_text("utf-8"))["refusal"],
]
PLACE = re.compile(r"[\w.-]+/[\w.-]+#\d+|[\w.-]+/[\w.-]+ [\w./-]+\.\w+|https://\S+|\bpublic code\b")


@each_row("row", ROWS, ids=[str(row.get("pattern", row.get("says")))[:60] for row in ROWS])
def test_a_row_has_a_source_that_was_read_or_says_that_it_has_none(row: dict[str, Any]) -> None:
    if "source" in row:
        assert "confirmed" not in row
        assert row["seen"].isoformat() >= "2026-01-01"
        assert all(PLACE.search(part) for part in row["source"].split(";"))
    else:
        assert row["confirmed"] is False
        assert "seen" not in row


def test_nearly_all_rows_are_confirmed() -> None:
    unconfirmed = [row for row in ROWS if "source" not in row]
    assert len(unconfirmed) * 20 <= len(ROWS), unconfirmed


@each_row(
    "said",
    [
        # of the answer, not of what was asked
        "max_tokens is too large: 6000. This model supports at most 4096 completion tokens, whereas you provided 6000.",
        "Invalid max_tokens value, the valid range of max_tokens is [1, 8192]",
        "`max_tokens` must be less than or equal to `16384`, the maximum value for `max_tokens` is less than the "
        "`context_window` for this model",
        "max_tokens: 8000 > 4096, which is the maximum allowed number of output tokens for claude-3-haiku-20240307",
        "Range of max_tokens should be [1, 65536]",
        "The maximum tokens you requested exceeds the model limit of 32768",
        "The number of output tokens exceeds the limit of 4096",
        "Invalid 'max_output_tokens': integer above maximum value. Expected a value <= 16384, but got 20000 instead.",
        # of one field
        "Invalid 'input[3].call_id': string too long. Expected a string with maximum length 64, but got 80 instead.",
        "Invalid 'tools': array too long. Expected an array with maximum length 128, but got an array with length 200.",
        "Invalid 'metadata.note': string too long. Expected a string with maximum length 512.",
        "tools.0.custom.name: String should have at most 128 characters",
        "The number of stop sequences exceeds the limit of 4",
        "prompt_cache_key is too long: at most 64 characters",
        "Function description is over the limit of 1024 characters",
        # of pictures and files
        "messages.0.content.0.image.source.base64: image exceeds 5 MB maximum: 6291456 bytes > 5242880 bytes",
        "A maximum of 100 PDF pages may be provided.",
        "Input images exceed the limit of 20",
        "Your input audio is longer than the limit of 1500 seconds",
        # of pace, account and key
        "Too many tokens, please wait before trying again.",
        "Daily token limit exceeded",
        "You have used more tokens than your plan allows, over the limit of 100000",
        "Access token exceeds the maximum number of uses",
        "Rate limit reached on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000. Please try again in 2s.",
        "Input validation failed: the number of tools is greater than the limit of 64",
        "The input rate is greater than the limit of 10 requests",
    ],
)
@each_row("status", [400, 200])
def test_what_is_too_long_elsewhere_does_not_cut_the_past(said: str, status: int) -> None:
    assert type(classify(status, {}, {"error": {"message": said}})) is not ContextTooLong


@pytest.mark.parametrize(
    ("said", "window"),
    [
        ("The decoder prompt (length 21535) is longer than the maximum model length of 16384.", 16_384),
        ("Cannot truncate prompt with n_keep (15028) >= n_ctx (7424)", 7_424),
        ("Input length 1581 exceeds context length 1500", 1_500),
        ("Reached context length of 4096 tokens, but this model does not currently support mid-generation", 4_096),
        ("Requested token count exceeds the model's maximum context length of 256000 tokens.", 256_000),
        ("Prompt exceeds maximum context length", None),
        ("Prompt length (5056) exceeds maximum sequence length (2048)", 2_048),
        ("Encountered an error when fetching new request: Prompt length (200) exceeds maximum input length (150)", 150),
        ("The prompt is too long: 262960, model maximum context length: 262144", 262_144),
        ("the input length exceeds the context length", None),
        ("max tokens of 200000 exceeded", 200_000),
        ("Request input tokens exceed model token limit. Reduce the input size.", None),
        ("Value at 'body' failed to satisfy constraint: Member must have length less than or equal to 25000000", None),
        ("<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]", 129_024),
    ],
)
def test_other_sentences_of_the_same_servers_are_understood_too(said: str, window: int | None) -> None:
    failure = classify(400, {}, {"error": {"message": said}})
    assert isinstance(failure, ContextTooLong)
    assert failure.window == window
