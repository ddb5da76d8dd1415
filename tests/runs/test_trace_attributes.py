"""Traces say whose protocol a model is asked in."""

from __future__ import annotations

import pytest

from turnkeep.models.model import ModelRequest
from turnkeep.runs.trace_attributes import request_attributes


@pytest.mark.parametrize(("model", "provider"), [("claude-sonnet-5-5", "anthropic"), ("gpt-6", "openai")])
def test_a_request_names_the_provider_of_its_model(model: str, provider: str) -> None:
    assert request_attributes(ModelRequest(model, []))["gen_ai.provider.name"] == provider
