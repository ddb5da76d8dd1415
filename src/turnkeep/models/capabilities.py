"""What a server takes: known by its host, overridable by settings, refined by the
family of the model.

An OpenAI-compatible server answers 400 to a parameter it does not know, so nothing is sent on a
guess. What is known of which server is in `capabilities.toml`; what a server refuses in spite of it
is learned (`refusals.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit

from turnkeep import toml
from turnkeep.errors import ConfigurationError
from turnkeep.models.provider import Provider

Protocol = Literal["responses", "chat", "anthropic"]
CallIdForm = Literal["any", "word", "nine"]
"""Ids of calls: any of up to 40 characters; of letters, digits, `_` and `-`; or
nine letters and digits.
"""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One server, spoken to in one protocol. What is False is not sent.

    `takes_temperature` (and the other sampling parameters) None: by the family of the model.
    """

    server: str = "compatible"
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
    takes_background: bool = False
    takes_temperature: bool | None = None
    takes_stream: bool = True
    takes_strict_tools: bool = True
    takes_images: bool = True
    """False: those of the past are replaced by a word."""
    takes_files: bool = True
    takes_image_ids: bool = True
    """Images by the id of an uploaded file; Chat Completions has no place for them."""
    takes_consecutive_roles: bool = True
    """False: neighbours of one role are joined, and the first turn is the user's."""
    takes_system_role: bool = True
    """False: what a system message says is told at the beginning of what the user says."""
    takes_late_system: bool = True
    """False: system messages are told at the beginning, whenever they were said."""
    takes_user_after_tool: bool = True
    """False: a word of the assistant stands between what a tool gave and what the user says then.
    """
    takes_calls_together: bool = True
    """False: the calls of one step are told one after the other, each with its output."""
    takes_null_content: bool = True
    """False: an assistant's message that only calls has an empty text."""
    takes_thoughts: bool = True
    """Whether what the server attached to calls and thoughts goes back to it."""
    wants_thoughts: bool = False
    """A call that another model made, without its thought, is given a blank one."""
    wants_signatures: bool = False
    """A step without a signed call is given the stand-in that the server documents."""
    wants_declared_tools: bool = False
    """Tools that were called in the past are declared where no tool is offered."""
    call_ids: CallIdForm = "any"
    most_output_tokens: int | None = None
    """A request for a longer answer is lowered to this."""
    drops: frozenset[str] = frozenset()
    """Fields of the body that are left out."""
    drops_keywords: frozenset[str] = frozenset()
    """Keywords of JSON Schema that are left out of the parameters of tools."""

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


FAMILIES_REMEMBERED = 256
"""Names whose family is remembered: people may write any."""

_REASONING = re.compile(r"(?:o[1-9]|gpt-(?:[5-9]|[12]\d)(?!\d)|codex)(?![\w.-]*-chat)")
_PLAIN = re.compile(r"gpt-[34]|chatgpt-|gpt-[5-9][\w.]*-chat")


@lru_cache(FAMILIES_REMEMBERED)
def reasons(model: str) -> bool:
    """Whether this is one of OpenAI's reasoning models, by its name."""
    return _REASONING.match(_bare(model)) is not None


@lru_cache(FAMILIES_REMEMBERED)
def is_plain(model: str) -> bool:
    """Whether this is one of OpenAI's models that do not reason, by its name."""
    return _PLAIN.match(_bare(model)) is not None


def _bare(model: str) -> str:
    return model.lower().removeprefix("ft:").rpartition("/")[2]


SIMULATOR_KEY = "sk-simulator"
"""What the key of a simulator running elsewhere begins with: it tells it from any other server on
the same host.
"""


@cache
def known_servers() -> Mapping[str, Mapping[str, Any]]:
    """The table of servers, by name."""
    text = resources.files("turnkeep.models").joinpath("capabilities.toml").read_text("utf-8")
    return toml.parse(text)


def capabilities_of(endpoint: Provider, protocol: Protocol) -> Capabilities:
    """What is known of this endpoint, with its own overrides applied.

    Raises ConfigurationError for an override that does not exist.
    """
    overrides = {name: value for name, value in endpoint.capabilities.items() if name != "server"}
    check_capabilities(endpoint.capabilities)
    server, servers = server_of(endpoint), known_servers()
    entry = servers[server].get(protocol) or servers["compatible"][protocol]
    values: dict[str, Any] = {"takes_image_ids": protocol == "responses", **entry, **overrides}
    values["drops"] = frozenset(values.get("drops", ()))
    return Capabilities(server=server, **values)


def server_of(endpoint: Provider) -> str:
    """Whose server this is; the simulator takes what OpenAI takes."""
    if server := endpoint.capabilities.get("server"):
        return cast("str", server)
    if is_simulated(endpoint):
        return "openai"
    parts = urlsplit(endpoint.base_url)
    places = (parts.hostname or "", endpoint.host)
    for name, entry in known_servers().items():
        if any(fnmatchcase(place, pattern) for pattern in entry.get("hosts", ()) for place in places):
            return name
    return "compatible"


def is_simulated(endpoint: Provider) -> bool:
    """Whether our simulator answers there: it was said, or the key is one of its own."""
    return endpoint.is_simulated or endpoint.api_key.startswith(SIMULATOR_KEY)


def protocol_of(endpoint: Provider) -> Protocol:
    """Anthropic's Messages where the address says so, Responses where it is certain to exist, else
    Chat Completions.
    """
    parts = urlsplit(endpoint.base_url)
    if parts.hostname == "api.anthropic.com" or parts.path.rstrip("/").endswith(("/anthropic", "/anthropic/v1")):
        return "anthropic"
    return cast("Protocol", known_servers()[server_of(endpoint)].get("protocol", "chat"))


OVERRIDES = tuple(f.name for f in fields(Capabilities) if f.name.startswith(("takes_", "wants_", "call_ids")))
"""What a setting may say of a server."""

_YES_NO = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


def read_capabilities(text: str) -> dict[str, bool | str]:
    """Overrides as a setting says them: the name of a server, then `capability=yes` or `=no`, with
    commas between.

    `takes_` may be left out of a name. Raises ConfigurationError that names
    everything that is wrong.
    """
    overrides: dict[str, bool | str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip().lower() for piece in part.partition("="))
        if not equals:
            name, value = "server", name
        elif f"takes_{name}" in OVERRIDES:
            name = f"takes_{name}"
        overrides[name] = _YES_NO.get(value, value)
    check_capabilities(overrides)
    return overrides


def check_capabilities(overrides: Mapping[str, bool | str]) -> None:
    """Raises ConfigurationError for what is no capability, server or value."""
    if strange := sorted(set(overrides) - set(OVERRIDES) - {"server"}):
        names = ", ".join(sorted(OVERRIDES))
        raise ConfigurationError(f"unknown model capability {', '.join(strange)}; there are {names}")
    if (server := overrides.get("server")) is not None and server not in known_servers():
        raise ConfigurationError(f"no model server is called {server!r}; there are {', '.join(known_servers())}")
    for name, value in overrides.items():
        if name == "call_ids" and value not in get_args(CallIdForm):
            raise ConfigurationError(f"call_ids are {', '.join(get_args(CallIdForm))}, not {value!r}")
        if name not in ("call_ids", "server") and not isinstance(value, bool):
            raise ConfigurationError(f"the model capability {name} is yes or no, not {value!r}")
