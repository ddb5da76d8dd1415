"""How many tokens a model takes that no table knows: what its server tells, else what
a refusal has taught.

Local servers run any model with any context; sending more than fits is refused by some and cut in
silence by others.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

from turnkeep.models.provider import Provider

LEAST_CONTEXT = 2_000
"""Tokens below which nothing is believed: a mistaken refusal must not take a model its memory."""
MOST_CONTEXT = 100_000_000
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


class ContextSizes:
    """The contexts of the models at one endpoint, in tokens.

    Each model is asked for once in the life of a process.
    """

    def __init__(self, endpoint: Provider | None = None) -> None:
        """Without an endpoint nobody is asked; what refusals teach is remembered all the same."""
        self._endpoint = None if endpoint is None or endpoint.is_simulated else endpoint
        self._server_sizes: dict[str, int | None] = {}
        self._learned_sizes: dict[str, int] = {}
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

    def learned_size(self, model: str) -> int | None:
        """What refusals of this model's server have taught."""
        return self._learned_sizes.get(model)

    def learn(self, model: str, *, window: int | None, tokens: int) -> None:
        """A request of so many tokens (our count) was too long; `window` where the refusal named
        the size.
        """
        # Where no size is named, three quarters of what was too long: a few refusals reach it.
        size = window if window is not None and LEAST_CONTEXT <= window <= MOST_CONTEXT else tokens * 3 // 4
        if len(self._learned_sizes) < SIZES_REMEMBERED or model in self._learned_sizes:
            # Down only: what was too long once stays too long.
            self._learned_sizes[model] = max(LEAST_CONTEXT, min(size, self._learned_sizes.get(model, size)))


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


async def _document(endpoint: Provider, path: str, **how: Any) -> object:
    # here and not above: with aiohttp behind it, see `open_model`
    from turnkeep.models.http_client import look_up

    return await look_up(endpoint, path, **how)


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
