"""What a server takes: known by its host, overridable by settings, refined by the family of the model.

An OpenAI-compatible server answers 400 to a parameter it does not know, so nothing is sent on a guess.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from turnkeep.errors import ConfigurationError
from turnkeep.models.endpoint import Endpoint

Protocol = Literal["responses", "chat", "anthropic"]
Server = Literal["openai", "azure", "mistral", "compatible"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One server, spoken to in one protocol. What is False is not sent.

    `takes_temperature` (and the other sampling parameters) None: by the family of the model.
    """

    server: Server = "compatible"
    takes_store: bool = False
    takes_stream_options: bool = False
    takes_parallel_tool_calls: bool = False
    takes_metadata: bool = False
    takes_cache_key: bool = False
    takes_safety_identifier: bool = False
    takes_encrypted_reasoning: bool = False
    takes_developer_role: bool = False
    takes_max_completion_tokens: bool = False
    takes_unknown_parameters: bool = False
    takes_temperature: bool | None = None

    @property
    def system_role(self) -> str:
        return "developer" if self.takes_developer_role else "system"

    def samples(self, model: str, parameters: Mapping[str, Any]) -> bool:
        """Whether temperature and its like may be sent with these parameters."""
        if self.takes_temperature is not None:
            return self.takes_temperature
        if self.server not in ("openai", "azure") or not reasons(model):
            return True
        reasoning = parameters.get("reasoning")
        effort = reasoning.get("effort") if isinstance(reasoning, Mapping) else parameters.get("reasoning_effort")
        return effort == "none"

    def reasons(self, model: str) -> bool:
        """Whether reasoning parameters may be sent: not to a model that is known to do without."""
        return self.server not in ("openai", "azure") or not is_plain(model)

    def returns_reasoning(self, model: str) -> bool:
        """Whether sealed reasoning may be asked for; refused for models that do not reason."""
        return self.takes_encrypted_reasoning and reasons(model)


_REASONING = re.compile(r"(?:o[1-9]|gpt-(?:[5-9]|[12]\d)(?!\d)|codex)(?![\w.-]*-chat)")
_PLAIN = re.compile(r"gpt-[34]|chatgpt-|gpt-[5-9][\w.]*-chat")


def reasons(model: str) -> bool:
    """Whether this is one of OpenAI's reasoning models, by its name."""
    return _REASONING.match(_bare(model)) is not None


def is_plain(model: str) -> bool:
    """Whether this is one of OpenAI's models that do not reason, by its name."""
    return _PLAIN.match(_bare(model)) is not None


def _bare(model: str) -> str:
    return model.lower().removeprefix("ft:").rpartition("/")[2]


# ---------------------------------------------------------------- known servers

SIMULATOR_KEY = "sk-simulator"
"""What the key of a simulator running elsewhere begins with: it tells it from any other server on the same host."""

_AZURE_HOSTS = (".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com", ".azure-api.net")

_KNOWN: dict[tuple[Server, Protocol], Capabilities] = {
    ("openai", "responses"): Capabilities(
        server="openai",
        takes_store=True,
        takes_stream_options=True,
        takes_parallel_tool_calls=True,
        takes_metadata=True,
        takes_cache_key=True,
        takes_safety_identifier=True,
        takes_encrypted_reasoning=True,
        takes_developer_role=True,
    ),
    ("openai", "chat"): Capabilities(
        server="openai",
        takes_store=True,
        takes_stream_options=True,
        takes_parallel_tool_calls=True,
        takes_cache_key=True,
        takes_safety_identifier=True,
        takes_developer_role=True,
        takes_max_completion_tokens=True,
    ),
    ("azure", "responses"): Capabilities(
        server="azure",
        takes_store=True,
        takes_parallel_tool_calls=True,
        takes_metadata=True,
        takes_cache_key=True,
        takes_encrypted_reasoning=True,
    ),
    ("azure", "chat"): Capabilities(
        server="azure",
        takes_stream_options=True,
        takes_parallel_tool_calls=True,
        takes_max_completion_tokens=True,
    ),
    # Refuses every name it does not know with 422, and sends usage unasked.
    ("mistral", "chat"): Capabilities(server="mistral", takes_parallel_tool_calls=True),
    ("compatible", "responses"): Capabilities(
        takes_store=True, takes_metadata=True, takes_parallel_tool_calls=True, takes_unknown_parameters=True
    ),
    ("compatible", "chat"): Capabilities(takes_stream_options=True, takes_unknown_parameters=True),
}


def capabilities_of(endpoint: Endpoint, protocol: Protocol) -> Capabilities:
    """What is known of this endpoint, with its own overrides applied.

    Raises ConfigurationError for an override that does not exist.
    """
    server = server_of(endpoint)
    known = _KNOWN.get((server, protocol)) or _KNOWN["compatible", protocol]
    names = {f.name for f in fields(Capabilities) if f.name.startswith("takes_")}
    if strange := sorted(set(endpoint.capabilities) - names):
        raise ConfigurationError(f"unknown model capability {', '.join(strange)}; there are {', '.join(sorted(names))}")
    overrides: dict[str, Any] = dict(endpoint.capabilities)
    return replace(known, **overrides)


def server_of(endpoint: Endpoint) -> Server:
    """Whose server this is; the simulator takes what OpenAI takes."""
    host = urlsplit(endpoint.base_url).hostname or ""
    if is_simulated(endpoint) or host == "api.openai.com" or host.endswith(".api.openai.com"):
        return "openai"
    if host.endswith(_AZURE_HOSTS):
        return "azure"
    return "mistral" if host == "api.mistral.ai" else "compatible"


def is_simulated(endpoint: Endpoint) -> bool:
    """Whether our simulator answers there: it was said, or the key is one of its own."""
    return endpoint.simulated or endpoint.api_key.startswith(SIMULATOR_KEY)


def protocol_of(endpoint: Endpoint) -> Protocol:
    """Anthropic's Messages where the address says so, Responses where it is certain to exist, else Chat Completions."""
    parts = urlsplit(endpoint.base_url)
    if parts.hostname == "api.anthropic.com" or parts.path.rstrip("/").endswith(("/anthropic", "/anthropic/v1")):
        return "anthropic"
    return "responses" if server_of(endpoint) in ("openai", "azure") else "chat"
