"""What people are told of an error: the sentences that clients know, replaceable by cause and by code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from turnkeep import errors
from turnkeep.errors import ConfigurationError, TurnkeepError
from turnkeep.wording import CAUSES, sentences

GOLDEN = Path(__file__).parents[1] / "data/golden/seed-frames.jsonl"

KNOWN: dict[str, tuple[type[TurnkeepError], str]] = {
    "rate_limit": (
        errors.ModelRateLimited,
        "I'm receiving too many requests right now. Please try again in a moment.",
    ),
    "timeout": (errors.ModelTimedOut, "The request took too long to process. Please try again."),
    "connection": (
        errors.ModelUnavailable,
        "I'm having trouble connecting to my services. Please try again in a moment.",
    ),
    "invalid_request": (errors.ModelRefused, "There was an issue with your request format. Please try again."),
    "thread_not_found": (
        errors.ThreadNotFound,
        "I couldn't find the conversation thread. Please start a new conversation.",
    ),
    "tool_failure": (errors.ToolFailed, "I had trouble gathering the information. Please try again."),
}


def written(folder: Path, **values: object) -> Path:
    file = folder / "sentences.toml"
    file.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items()), "utf-8")
    return file


def test_there_is_a_sentence_for_each_of_the_six_causes() -> None:
    assert set(KNOWN) == set(CAUSES)


@pytest.mark.parametrize("cause", KNOWN)
def test_a_cause_has_the_sentence_that_clients_know(cause: str) -> None:
    kind, sentence = KNOWN[cause]
    assert sentences(None)(kind("details for the log")) == sentence


@pytest.mark.parametrize("cause", ["rate_limit", "timeout", "connection", "invalid_request"])
def test_the_captured_sentences_are_ours_word_for_word(cause: str) -> None:
    frames = [json.loads(json.loads(line)["frame"])["payload"] for line in GOLDEN.read_text().splitlines()]
    assert KNOWN[cause][1] in {frame["message"] for frame in frames if frame.get("type") == "error"}


@pytest.mark.parametrize("cause", CAUSES)
def test_a_file_translates_a_cause_and_nothing_else(tmp_path: Path, cause: str) -> None:
    told = sentences(written(tmp_path, **{cause: "Einen Augenblick bitte."}))
    for other, (kind, sentence) in KNOWN.items():
        assert told(kind()) == ("Einen Augenblick bitte." if other == cause else sentence)


def test_a_code_goes_before_a_cause_and_before_the_codes_above_it(tmp_path: Path) -> None:
    told = sentences(
        written(tmp_path, connection="away", store_full="full", tool_error="no tool", tool_timed_out="slow")
    )
    assert told(errors.StoreUnavailable()) == "away"
    assert told(errors.StoreFull()) == "full"
    assert told(errors.ToolFailed()) == "no tool"
    assert told(errors.ToolTimedOut()) == "slow"


def test_an_error_with_a_sentence_of_its_own_does_not_take_that_of_its_parent(tmp_path: Path) -> None:
    told = sentences(written(tmp_path, model_error="broken"))
    assert told(errors.ContextTooLong()) == errors.ContextTooLong.public
    assert told(errors.UnansweredCall()) == "broken"


def test_everything_that_is_wrong_with_a_file_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as told:
        sentences(written(tmp_path, coffee="empty", timeout="", rate_limit=5))
    assert "coffee: no such cause and no such code" in str(told.value)
    assert "timeout: expected a text" in str(told.value)
    assert "rate_limit: expected a text" in str(told.value)


@pytest.mark.parametrize("text", [b"no toml at all", b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_a_wrong_setting(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "sentences.toml").write_bytes(text)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        sentences(tmp_path / "sentences.toml")
