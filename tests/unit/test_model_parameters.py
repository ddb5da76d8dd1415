"""Parameters of a request in one form, whichever protocol they were written for."""

from __future__ import annotations

from typing import Any

import pytest

from turnkeep.errors import ModelRefused
from turnkeep.models.model import canonical, output_limit, wrong_form


@pytest.mark.parametrize(
    ("given", "form"),
    [
        ({"max_tokens": 5}, {"max_output_tokens": 5}),
        ({"max_completion_tokens": 5, "max_output_tokens": 7}, {"max_output_tokens": 7}),
        (
            {"reasoning_effort": "low", "reasoning": {"summary": "auto"}},
            {"reasoning": {"effort": "low", "summary": "auto"}},
        ),
        ({"verbosity": "low"}, {"text": {"verbosity": "low"}}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            {"tool_choice": {"type": "function", "name": "f"}},
        ),
        ({"temperature": None}, {}),
    ],
)
def test_a_parameter_has_one_form(given: dict[str, Any], form: dict[str, Any]) -> None:
    assert canonical(given) == form


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"reasoning": "low"}, "reasoning"),
        ({"text": []}, "text"),
        ({"response_format": "json"}, "response_format"),
        ({"text": {"format": "json"}}, "text.format"),
    ],
)
def test_what_cannot_be_put_into_a_request_is_refused_by_its_name(given: dict[str, Any], name: str) -> None:
    assert wrong_form(given) == f"the parameter {name!r} must be an object"
    with pytest.raises(ModelRefused, match=f"the parameter '{name}' must be an object"):
        canonical(given)


@pytest.mark.parametrize(("given", "limit"), [({"max_tokens": 5}, 5), ({"max_tokens": "5"}, None), ({}, None)])
def test_the_limit_of_an_answer_is_a_number_or_there_is_none(given: dict[str, Any], limit: int | None) -> None:
    assert output_limit(given) == limit
