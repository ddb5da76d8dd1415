"""How an `OpenAIService` answers: checked once, when made, against what is known of the model."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Self, Unpack

from turnkeep.clock import Clock, SystemClock
from turnkeep.composition import endpoint_of
from turnkeep.errors import ConfigurationError
from turnkeep.lean_dataclass import dataclass
from turnkeep.models import ModelApi
from turnkeep.models.capabilities import server_of
from turnkeep.option_names import check_options, load_options
from turnkeep.pricing.catalog import Catalog, ModelFacts
from turnkeep.runs.answer import LEAST_OUTPUT
from turnkeep.seconds import SecondsLimit
from turnkeep.service.retries import RetryConfig
from turnkeep.setting_types import ServiceSettings
from turnkeep.settings import Settings
from turnkeep.spelling import strangers_sentence
from turnkeep.store.contract import Store
from turnkeep.telemetry import get_log

log = get_log(__name__)

OWN_NAMES = {
    "openai_api_key": "api_key",
    "openai_model": "model",
    "openai_base_url": "base_url",
    "run_deadline": "timeout",
}
"""The parameters that stand for a setting of another name."""

TIMEOUT = SecondsLimit(3_600.0, "run_deadline")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAIConfig:
    """A checked configuration; `create_openai_config` makes it. Times in seconds."""

    settings: Settings
    catalog: Catalog
    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    reasoning_effort: str | None = None
    timeout: float = 300.0
    retries: RetryConfig = RetryConfig()
    store: Store | None = None
    """Where sessions are kept, if somebody else opens and closes it."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What each request carries."""
        values = {
            "max_output_tokens": self.max_tokens,
            "temperature": self.temperature,
            "presence_penalty": self.presence_penalty or None,
            "frequency_penalty": self.frequency_penalty or None,
            "reasoning_effort": self.reasoning_effort,
        }
        return {name: value for name, value in values.items() if value is not None}

    @property
    def protocol(self) -> ModelApi:
        """Penalties exist in Chat Completions only."""
        wants_penalties = bool(self.presence_penalty or self.frequency_penalty)
        return "chat" if wants_penalties and self.settings.model_api == "auto" else self.settings.model_api

    def check(self, today: date) -> Self:
        """Itself. Raises `ConfigurationError` for what the model would refuse; says what will end."""
        _check_numbers(self)
        _check_model(self, today)
        facts = self.catalog.model(self.model)
        if facts is not None:
            _check_parameters(self, facts)
        return self


def create_openai_config(
    api_key: str | None = None,
    model: str | None = None,
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    reasoning_effort: str | None = None,
    timeout: float | None = None,
    retries: int | RetryConfig | Mapping[str, Any] | None = None,
    base_url: str | None = None,
    store: Store | str | Path | None = None,
    workspace: str | Path | None = None,
    clock: Clock | None = None,
    **settings: Unpack[ServiceSettings],
) -> OpenAIConfig:
    """A configuration from what is given here, then the environment, then defaults.

    `timeout` is for a whole answer, with its tools and retries. `retries` is a number or a
    `RetryConfig`. `workspace` turns on the file and git tools beneath a directory, and with
    `allow_bash=True` the shell in its sandbox. `store` (a path, ``memory:``, a URL or an open
    store) is where sessions are kept. `settings` are those of `Settings` by name. Raises
    `ConfigurationError` with a sentence that says what to do, for a model that is gone with the
    name of one that is not.
    """
    if isinstance(api_key, Mapping):
        raise ConfigurationError("create_openai_config takes keywords: create_openai_config(api_key=…, model=…)")
    check_options(create_openai_config, "create_openai_config", settings)
    TIMEOUT.check("timeout", timeout)
    own_values = {
        "openai_api_key": api_key,
        "openai_model": model,
        "openai_base_url": base_url,
        # the process may change its directory before the first tool runs
        "workspace": None if workspace is None else Path(workspace).absolute(),
        "run_deadline": timeout,
        "store": str(store) if isinstance(store, str | Path) else None,
    }
    effective = load_options(own_values, settings, OWN_NAMES, exclusive=OWN_NAMES)
    catalog = Catalog.load(effective.price_file)
    config = OpenAIConfig(
        settings=effective,
        catalog=catalog,
        model=effective.model or catalog.default,
        max_tokens=max_tokens,
        temperature=temperature,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        reasoning_effort=reasoning_effort,
        timeout=effective.run_deadline,
        retries=_retries(retries),
        store=None if isinstance(store, str | Path) else store,
    )
    return config.check(datetime.fromtimestamp((clock or SystemClock()).now(), UTC).date())


def _retries(value: int | RetryConfig | Mapping[str, Any] | None) -> RetryConfig:
    if value is None:
        return RetryConfig()
    if isinstance(value, RetryConfig):
        return value
    if isinstance(value, int):
        return RetryConfig(max_retries=value)
    names = RetryConfig.__dataclass_fields__
    if strangers := [name for name in value if name not in names]:
        raise ConfigurationError(strangers_sentence("retries", strangers, names))
    values = dict(value)
    if "retryable_errors" in values:
        values["retryable_errors"] = tuple(values["retryable_errors"])
    return RetryConfig(**values)


def _check_numbers(config: OpenAIConfig) -> None:
    if config.max_tokens is not None and config.max_tokens < LEAST_OUTPUT:
        raise ConfigurationError(f"max_tokens is {config.max_tokens}, providers take {LEAST_OUTPUT} or more")
    ranges = {"temperature": (0, 2), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2)}
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if value is not None and not least <= value <= most:
            raise ConfigurationError(f"{name} is {value}, use a number from {least} to {most}")


def _check_model(config: OpenAIConfig, today: date) -> None:
    """A model that has ended is refused where OpenAI answers; elsewhere the name may mean something
    else.
    """
    settings = config.settings
    is_openais = settings.uses_openai and server_of(endpoint_of(settings)) in ("openai", "azure")
    for warning in config.catalog.check(config.model, today):
        if warning.kind == "gone" and is_openais:
            raise ConfigurationError(str(warning))
        log.warning("model_warning", model=config.model, hint=str(warning))


def _check_parameters(config: OpenAIConfig, facts: ModelFacts) -> None:
    name, effort = config.model, config.reasoning_effort
    if effort is not None and effort not in facts.efforts:
        hint = f"it takes {', '.join(facts.efforts)}" if facts.efforts else "it does not reason: leave it out"
        raise ConfigurationError(f"{name} takes no reasoning_effort {effort!r}; {hint}")
    # said before the first request: the provider would refuse it anyway, and each call would fail
    if config.temperature is not None and not facts.samples(effort):
        cure = "leave it out" if facts.sampling == "no" else "leave it out, or set reasoning_effort='none'"
        raise ConfigurationError(f"{name} takes no temperature; {cure}")
    if config.presence_penalty or config.frequency_penalty:
        if not facts.penalties:
            raise ConfigurationError(f"{name} takes no presence_penalty and no frequency_penalty; leave them out")
        if config.settings.model_api == "responses":
            raise ConfigurationError("the Responses API takes no penalties; leave them out, or use model_api='chat'")
