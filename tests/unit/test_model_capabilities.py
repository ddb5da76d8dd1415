"""What is known of a server follows from its address, its name or a setting, and wrong words are told."""

from __future__ import annotations

from typing import Any

import pytest

from tests.rows import each_row
from turnkeep.errors import ConfigurationError
from turnkeep.models.capabilities import (
    Capabilities,
    Protocol,
    capabilities_of,
    known_servers,
    protocol_of,
    read_capabilities,
    server_of,
)
from turnkeep.models.provider import Provider


@pytest.mark.parametrize(
    ("url", "server", "protocol"),
    [
        ("https://api.openai.com/v1", "openai", "responses"),
        ("https://eu.api.openai.com/v1", "openai", "responses"),
        ("https://x.openai.azure.com/openai/v1", "azure", "responses"),
        ("https://us-central1-aiplatform.googleapis.com/v1/projects/p/endpoints/openapi", "gemini", "chat"),
        ("https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1", "bedrock", "chat"),
        ("https://dbc-1.cloud.databricks.com/serving-endpoints", "databricks", "chat"),
        ("https://adb-1.2.azuredatabricks.net/serving-endpoints", "databricks", "chat"),
        ("http://127.0.0.1:11434/v1", "ollama", "chat"),
        ("http://127.0.0.1:1234/v1", "lmstudio", "chat"),
        ("http://127.0.0.1:8000/v1", "compatible", "chat"),
        ("https://api.groq.com.example/v1", "compatible", "chat"),
        ("https://evil-api.openai.com.example/v1", "compatible", "chat"),
    ],
)
def test_a_server_is_known_by_its_address(url: str, server: str, protocol: str) -> None:
    endpoint = Provider(url)
    assert (server_of(endpoint), protocol_of(endpoint)) == (server, protocol)


@each_row("name", known_servers())
@each_row("protocol", ["chat", "responses"])
def test_each_entry_of_the_table_is_made_of_capabilities_and_names_its_source(name: str, protocol: Protocol) -> None:
    entry = known_servers()[name]
    assert entry["source"]
    assert entry["seen"]
    caps = capabilities_of(Provider("https://x.example", capabilities={"server": name}), protocol)
    assert caps.server == name
    assert isinstance(caps.drops, frozenset)


@pytest.mark.parametrize(
    ("text", "given"),
    [
        ("", {}),
        (" , ,", {}),
        ("vllm", {"server": "vllm"}),
        ("VLLM , Images = No", {"server": "vllm", "takes_images": False}),
        ("takes_store=1,wants_thoughts=on", {"takes_store": True, "wants_thoughts": True}),
        ("call_ids=nine", {"call_ids": "nine"}),
    ],
)
def test_a_setting_says_what_a_server_takes(text: str, given: dict[str, Any]) -> None:
    assert read_capabilities(text) == given


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("vlm", "no model server is called 'vlm'; there are openai, azure"),
        ("pictures=no", "unknown model capability pictures; there are call_ids, takes_"),
        ("images=maybe", "takes_images is yes or no, not 'maybe'"),
        ("images=", "takes_images is yes or no, not ''"),
        ("call_ids=ten", "call_ids are any, word, nine, not 'ten'"),
        ("server=1", "no model server is called True"),
        ("drops=stream", "unknown model capability drops"),
    ],
)
def test_what_is_wrong_with_a_setting_is_told(text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        read_capabilities(text)


def test_an_override_goes_before_what_is_known() -> None:
    known = capabilities_of(Provider("https://api.mistral.ai/v1"), "chat")
    assert (known.call_ids, known.takes_parallel_tool_calls, known.takes_image_ids) == ("nine", True, False)
    own: dict[str, bool | str] = {"call_ids": "word", "takes_stream_options": True}
    other = capabilities_of(Provider("https://api.mistral.ai/v1", capabilities=own), "chat")
    assert (other.call_ids, other.takes_stream_options, other.takes_parallel_tool_calls) == ("word", True, True)
    assert Capabilities().takes_image_ids
