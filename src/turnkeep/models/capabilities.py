"""What a server takes: known by its host, overridable by settings, refined by the family of the
model, and taught by what it refuses.

An OpenAI-compatible server answers 400 to a parameter it does not know, so nothing is sent on a
guess. What is known of which server is in `capabilities.toml`; what a server refuses in spite of it
is learned (`Lessons`, from the words of `refusals.py`).

So is how many tokens a model takes that no table knows: what its server tells, else what a refusal
has taught. Local servers run any model with any context; sending more than fits is refused by some
and cut in silence by others.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import closing
from dataclasses import field, fields, replace
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit

import orjson

from turnkeep import toml
from turnkeep.errors import ConfigurationError, ModelError
from turnkeep.lean_dataclass import dataclass
from turnkeep.models.provider import Provider

Protocol = Literal["responses", "chat", "anthropic"]
CallIdForm = Literal["any", "word", "nine"]
"""Ids of calls: any of up to 40 characters; of letters, digits, `_` and `-`; or nine letters and digits."""

FAMILIES_REMEMBERED = 256
"""Names whose family is remembered: people may write any."""

_REASONING = re.compile(r"(?:o[1-9]|gpt-(?:[5-9]|[12]\d)(?!\d)|codex)(?![\w.-]*-chat)")
_PLAIN = re.compile(r"gpt-[34]|chatgpt-|gpt-[5-9][\w.]*-chat")

SIMULATOR_KEY = "sk-simulator"
"""What the key of a simulator running elsewhere begins with: it tells it from any other server on
the same host.
"""

_YES_NO = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}

LEAST_CONTEXT = 2_000
"""Tokens below which nothing is believed: a mistaken refusal must not take a model its memory."""
MOST_CONTEXT = 100_000_000
LOOK_UP_TIME = 3.0
SIZES_REMEMBERED = 1_000
"""Models that are remembered; more names than that are not of one server."""

_FIELDS = (
    "max_model_len",  # vLLM, SGLang
    "loaded_context_length",  # LM Studio: what the model was loaded with, before what it could be
    "context_length",  # OpenRouter, Together, Ollama
    "context_window",  # Groq
    "max_context_length",  # Mistral, LM Studio
    "max_input_tokens",  # LiteLLM proxy
    "n_ctx",  # llama.cpp
)

MODELS_REMEMBERED = 256
"""How many models of an endpoint are remembered."""


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


class ContextSizes:
    """The contexts of the models at one endpoint, in tokens.

    Each model is asked for once in the life of a process.
    """

    def __init__(self, endpoint: Provider | None = None) -> None:
        """Without an endpoint nobody is asked; what refusals teach is remembered all the same."""
        self._endpoint = None if endpoint is None or endpoint.is_simulated else endpoint
        self._server_sizes: dict[str, int | None] = {}
        self.learned_sizes: dict[str, int] = {}
        """What refusals have taught, by model."""
        self._asking = asyncio.Lock()

    async def ask_server(self, model: str) -> int | None:
        """What the server says of this model; None where it does not say.

        Never raises, and waits a few seconds.
        """
        if self._endpoint is None or len(self._server_sizes) > SIZES_REMEMBERED:
            return None
        # Runs that start together ask once.
        async with self._asking:
            if model not in self._server_sizes:
                self._server_sizes[model] = await _ask(self._endpoint, model)
        return self._server_sizes[model]

    def learn(self, model: str, *, window: int | None, tokens: int) -> None:
        """A request of so many tokens (our count) was too long; `window` where the refusal named
        the size.
        """
        # Where no size is named, three quarters of what was too long: a few refusals reach it.
        size = window if window is not None and LEAST_CONTEXT <= window <= MOST_CONTEXT else tokens * 3 // 4
        if len(self.learned_sizes) < SIZES_REMEMBERED or model in self.learned_sizes:
            # Down only: what was too long once stays too long.
            self.learned_sizes[model] = max(LEAST_CONTEXT, min(size, self.learned_sizes.get(model, size)))


async def _ask(endpoint: Provider, model: str) -> int | None:
    """The list of models says it at most servers; who owns a model tells which other
    door knows it better.
    """
    entry = _entry(await _document(endpoint, "/models"), model)
    owner = str(entry.get("owned_by", "")).lower()
    if size := _size(entry):
        return size
    if owner == "llamacpp":
        return _size(_at(await _document(endpoint, "/props", from_root=True), "default_generation_settings"))
    if owner in ("library", "ollama"):
        return await _ask_ollama(endpoint, model)
    if owner in ("organization_owner", "lmstudio"):
        return _size(_entry(await _document(endpoint, "/api/v0/models", from_root=True), model))
    return None


async def _ask_ollama(endpoint: Provider, model: str) -> int | None:
    """What it runs with, else what is set, else what the model could; Ollama cuts longer requests
    in silence.
    """
    running = _entry(await _document(endpoint, "/api/ps", from_root=True), model, "models")
    if size := _size(running):
        return size
    details = await _document(endpoint, "/api/show", from_root=True, body={"model": model})
    if not isinstance(details, Mapping):
        return None
    if setting := re.search(r"^num_ctx\s+(\d{1,9})$", str(details.get("parameters", ""))[:10_000], re.MULTILINE):
        return _plausible_size(int(setting[1]))
    facts = details.get("model_info")
    named_sizes = facts.items() if isinstance(facts, Mapping) else ()
    return next((_plausible_size(size) for name, size in named_sizes if str(name).endswith(".context_length")), None)


async def _document(
    endpoint: Provider, path: str, *, from_root: bool = False, body: Mapping[str, Any] | None = None
) -> object:
    """One JSON document of a server, beneath its base URL or its host; None for whatever is none. Never raises for
    what the server does, and waits `LOOK_UP_TIME` at most: it is good to know, not needed.
    """
    # here and not above: with aiohttp behind it, see `open_model`
    from turnkeep.models.http_client import Client

    url, client = endpoint.root_url(path) if from_root else endpoint.url(path), Client(endpoint)
    try:
        async with asyncio.timeout(LOOK_UP_TIME):
            with closing(await (client.get_at(url) if body is None else client.post(url, body, {}))) as reply:
                return orjson.loads(await reply.body())
    except (ModelError, TimeoutError, ValueError):
        return None
    finally:
        await client.close()


def _entry(body: object, model: str, key: str = "data") -> Mapping[str, Any]:
    """The entry of this model in a list of models."""
    entries = body.get(key) if isinstance(body, Mapping) else body
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, Mapping) and model in (entry.get("id"), entry.get("model"), entry.get("name")):
            return entry
    return {}


def _size(entry: object) -> int | None:
    if not isinstance(entry, Mapping):
        return None
    sizes = (_plausible_size(entry.get(name)) for name in _FIELDS)
    inner_sizes = (_size(entry.get(name)) for name in ("meta", "top_provider", "limits", "model_info"))
    return next((size for size in (*sizes, *inner_sizes) if size), None)


def _at(body: object, name: str) -> object:
    return body.get(name) if isinstance(body, Mapping) else None


def _plausible_size(value: object) -> int | None:
    """A whole number within reason."""
    return value if isinstance(value, int) and LEAST_CONTEXT <= value <= MOST_CONTEXT else None


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a refusal changes: for good or (`remember` False) for this request."""

    changes: Mapping[str, Any]
    remember: bool = True

    def apply(self, caps: Capabilities) -> Capabilities:
        changes: dict[str, Any] = dict(self.changes)
        for name in ("drops", "drops_keywords"):
            if name in changes:
                changes[name] = getattr(caps, name) | frozenset(changes[name])
        return replace(caps, **changes)


@dataclass(slots=True)
class Lessons:
    """What one endpoint is known to take, by model: what was known of it from the start, and what
    it has taught.
    """

    start: Capabilities
    capabilities: OrderedDict[str, Capabilities] = field(default_factory=OrderedDict)

    def keep(self, model: str, lesson: Lesson) -> None:
        """Remember it; the model that was learned of longest ago is forgotten when
        there are too many.
        """
        self.capabilities[model] = lesson.apply(self.capabilities.get(model, self.start))
        self.capabilities.move_to_end(model)
        if len(self.capabilities) > MODELS_REMEMBERED:
            self.capabilities.popitem(last=False)
