"""A configuration is checked when it is made, and says what to do."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from turnkeep.errors import (
    AnswerMalformed,
    ConfigurationError,
    ModelRateLimited,
    ModelRefused,
    ModelTimedOut,
    ModelUnavailable,
)
from turnkeep.service import OpenAIConfig, RetryConfig, create_openai_config
from turnkeep.testing.fake_clock import FakeClock


def made(**given: Any) -> OpenAIConfig:
    clock = FakeClock(datetime(2026, 11, 20, tzinfo=UTC).timestamp())
    return create_openai_config(**{"api_key": "sk-test", "clock": clock, **given})


def test_nothing_given_is_the_default_model_and_no_parameters() -> None:
    config = made()
    assert (config.model, config.parameters) == ("gpt-6-luna", {})


def test_the_environment_counts_where_nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_MODEL", "gpt-4.1")
    assert made().model == "gpt-4.1"
    assert made(model="gpt-4o").model == "gpt-4o"


def test_the_key_does_not_show() -> None:
    assert "sk-very-secret" not in repr(made(api_key="sk-very-secret"))


# ---------------------------------------------------------------- models


def test_a_model_that_is_gone_is_refused_with_one_that_is_not() -> None:
    with pytest.raises(ConfigurationError, match=r"gpt-3.5-turbo ended on 2026-10-23: requests fail; use gpt-\S+$"):
        made(model="gpt-3.5-turbo")


def test_elsewhere_the_same_name_may_mean_something_else(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert made(model="gpt-3.5-turbo", base_url="http://localhost:1234/v1").model == "gpt-3.5-turbo"
    assert "gpt-3.5-turbo ended on 2026-10-23" in caplog.text


def test_a_model_that_will_end_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made(model="gpt-4o-mini")
    assert "gpt-4o-mini ends on 2027-01-14; successor gpt-" in caplog.text


# ---------------------------------------------------------------- parameters


def test_parameters_are_sent_where_the_model_takes_them() -> None:
    config = made(model="gpt-4o", max_tokens=100, temperature=0.0, presence_penalty=0.5, frequency_penalty=0.0)
    assert config.parameters == {"max_output_tokens": 100, "temperature": 0.0, "presence_penalty": 0.5}
    assert config.protocol == "chat"
    assert made(model="gpt-4o").protocol == "auto"


def test_a_model_that_reasons_takes_a_temperature_only_without_reasoning() -> None:
    with pytest.raises(ConfigurationError, match="gpt-6-luna takes no temperature; leave it out, or set reasoning_eff"):
        made(temperature=0.1)
    config = made(temperature=0.1, reasoning_effort="none")
    assert config.parameters == {"temperature": 0.1, "reasoning_effort": "none"}
    with pytest.raises(ConfigurationError, match=r"gpt-6-astra takes no temperature; leave it out$"):
        made(model="gpt-6-astra", temperature=0.1)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"presence_penalty": 0.1}, "gpt-6-luna takes no presence_penalty and no frequency_penalty; leave them out"),
        ({"model": "gpt-4o", "frequency_penalty": 1, "model_api": "responses"}, "the Responses API takes no penalties"),
        ({"reasoning_effort": "huge"}, "gpt-6-luna takes no reasoning_effort 'huge'; it takes none, low, medium"),
        ({"model": "gpt-4o", "reasoning_effort": "low"}, "gpt-4o takes no reasoning_effort 'low'; it does not reason"),
        ({"max_tokens": 1}, "max_tokens is 1, providers take 16 or more"),
        ({"model": "gpt-4o", "temperature": 2.1}, "temperature is 2.1, use a number from 0 to 2"),
        ({"model": "gpt-4o", "presence_penalty": -3}, "presence_penalty is -3, use a number from -2 to 2"),
        ({"retries": {"max": 3}}, "max: there is none with a name like it\nIt takes max_retries, initial_delay"),
        ({"retries": -1}, "retries need numbers of 0 or more"),
        ({"lease": "soon"}, "lease = 'soon'"),
    ],
)
def test_what_would_be_refused_later_is_refused_at_once(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        made(**given)
    assert sentence in str(refused.value)


def test_a_model_nobody_knows_may_take_anything() -> None:
    config = made(model="own", base_url="http://localhost:1234/v1", temperature=1.5, presence_penalty=1)
    assert config.parameters == {"temperature": 1.5, "presence_penalty": 1}


def test_a_workspace_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert made(workspace="here").settings.workspace == tmp_path / "here"


# ---------------------------------------------------------------- retries


@pytest.mark.parametrize("retries", [2, {"max_retries": 2}, RetryConfig(max_retries=2)])
def test_retries_are_a_number_or_more_than_that(retries: Any) -> None:
    assert made(retries=retries).retries == RetryConfig(max_retries=2)


def test_retries_follow_the_backoff_up_to_their_number() -> None:
    retries = RetryConfig(max_retries=3, initial_delay=1.0, max_delay=3.0, backoff_factor=2.0)
    assert [retries.backoff.ceiling(failures) for failures in (1, 2, 3)] == [1.0, 2.0, 3.0]
    delays = [retries.again(ModelUnavailable(), failures) for failures in (1, 2, 3, 4)]
    assert delays[3] is None
    assert all(delay is not None and delay <= 3.0 for delay in delays[:3])


def test_the_time_that_the_provider_names_counts() -> None:
    assert RetryConfig(max_delay=3.0).again(ModelRateLimited("slow", retry_after=20.0), 1) == 20.0


@pytest.mark.parametrize(
    ("names", "covered"),
    [
        ((), set()),
        (("rate_limit_exceeded",), {ModelRateLimited}),
        (("SERVER_ERROR",), {ModelUnavailable, AnswerMalformed}),
        (("ETIMEDOUT",), {ModelTimedOut}),
        (("ECONNRESET",), {ModelUnavailable, ModelTimedOut, AnswerMalformed}),
        (("model_unavailable",), {ModelUnavailable}),
    ],
)
def test_retryable_errors_have_the_names_people_know(names: tuple[str, ...], covered: set[type]) -> None:
    retries = RetryConfig(retryable_errors=names)
    kinds = (ModelRateLimited, ModelUnavailable, ModelTimedOut, AnswerMalformed, ModelRefused)
    assert {kind for kind in kinds if retries.again(kind(), 1) is not None} == covered


def test_names_that_are_not_known_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no errors are called gremlins; there are "):
        RetryConfig(retryable_errors=("gremlins",))
