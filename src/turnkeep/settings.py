"""Settings: one frozen value, and the only reader of the environment but for `${NAME}` in a tools file (`cli/context`).

Nothing set means: SQLite in the working directory, the built-in simulator, 127.0.0.1:8080. All wrong values are told
at once. What every installation decides stands in `core_settings`.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from dotenv import dotenv_values
from pydantic import PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from turnkeep.backoff import Backoff
from turnkeep.core_settings import REDIS_LEASE, CoreSettings
from turnkeep.env_file import DEFAULT, Provenance
from turnkeep.errors import ConfigurationError
from turnkeep.setting_checks import Spelling, env, kind_of, names_of, report, variable_of
from turnkeep.spelling import strangers_sentence

DEFAULT_CLAUDE = "claude-sonnet-5-5"


class Settings(CoreSettings):
    """Everything that can be set. Values given in code go before the environment, that before `.env`."""

    model_config = SettingsConfigDict(defer_build=False)

    _doubtful_acts: frozenset[str] = PrivateAttr(default=frozenset())
    """What lets others act here and is set by a file that nobody named."""

    # Section limits
    max_message_bytes: int = env("TURNKEEP_MAX_MESSAGE_BYTES", default=256_000, ge=1, doc="Bytes of one message.")
    max_frame_bytes: int = env(
        "TURNKEEP_MAX_FRAME_BYTES", default=512_000, ge=1, doc="Bytes of one socket frame or request body."
    )
    max_inbox: int = env("TURNKEEP_MAX_INBOX", default=100, ge=1, doc="Messages waiting on a channel.")
    amqp_max_inbox: int = env(
        "TURNKEEP_AMQP_MAX_INBOX", default=10_000, ge=1, doc="Messages waiting on a channel when they come by AMQP."
    )
    amqp_channel_rate: str = env(
        "TURNKEEP_AMQP_CHANNEL_RATE",
        default="0",
        doc="Messages per seconds on one channel that come by AMQP; `0` is unlimited: a broker hands over at once what "
        "came while we were away.",
    )
    amqp_tenant_rate: str = env(
        "TURNKEEP_AMQP_TENANT_RATE",
        default="0",
        doc="Messages per seconds of one tenant that come by AMQP; `0` is unlimited.",
    )
    channels_per_socket: int = env(
        "TURNKEEP_CHANNELS_PER_SOCKET", default=100, ge=1, doc="Subscriptions of one socket."
    )
    sockets_per_user: int = env(
        "TURNKEEP_SOCKETS_PER_USER",
        default=1_000,
        ge=1,
        doc="Sockets and event streams of one credential.",
    )
    bodies_per_user: int = env(
        "TURNKEEP_BODIES_PER_USER", default=50, ge=1, doc="Request bodies of one credential that are still arriving."
    )
    max_connections: int = env(
        "TURNKEEP_MAX_CONNECTIONS",
        default=10_000,
        ge=0,
        doc="Connections of one process, never more than it may have descriptors for; 0 is as many as those.",
    )
    connections_per_peer: int = env(
        "TURNKEEP_CONNECTIONS_PER_PEER",
        default=1_000,
        ge=0,
        doc="Connections from one address other than this machine's and those of `TURNKEEP_PROXIES`; 0 is unlimited.",
    )
    channel_rate: str = env(
        "TURNKEEP_CHANNEL_RATE", default="64/10", doc="Messages per seconds on one channel; `0` is unlimited."
    )
    user_rate: str = env(
        "TURNKEEP_USER_RATE",
        default="100/10",
        doc="Messages per seconds of one person: of a token, or named by `metadata.user`; `0` is unlimited.",
    )
    tenant_rate: str = env(
        "TURNKEEP_TENANT_RATE", default="10000/10", doc="Messages per seconds of one tenant; `0` is unlimited."
    )
    request_rate: str = env(
        "TURNKEEP_REQUEST_RATE",
        default="3000/10",
        doc="Requests per seconds of one credential, over all that is no message; `0` is unlimited.",
    )
    tenant_request_rate: str = env(
        "TURNKEEP_TENANT_REQUEST_RATE", default="20000/10", doc="The same of one tenant; `0` is unlimited."
    )
    error_rate: str = env(
        "TURNKEEP_ERROR_RATE",
        default="100/1",
        doc="Refusals per seconds of one address; more are told up to 5 s later. `0` is unlimited.",
    )
    max_threads: int = env(
        "TURNKEEP_MAX_THREADS", default=1_000_000, ge=0, doc="Threads of one tenant; 0 is unlimited."
    )
    requests_per_minute: int = env(
        "TURNKEEP_REQUESTS_PER_MINUTE", default=0, ge=0, doc="Model requests of all workers per minute; 0 is unlimited."
    )
    tokens_per_minute: int = env(
        "TURNKEEP_TOKENS_PER_MINUTE", default=0, ge=0, doc="Model tokens of all workers per minute; 0 is unlimited."
    )
    tenant_budget: float = env(
        "TURNKEEP_TENANT_BUDGET", default=0.0, ge=0, doc="US dollars per tenant and period; 0 is unlimited."
    )
    user_budget: float = env(
        "TURNKEEP_USER_BUDGET",
        default=0.0,
        ge=0,
        doc="US dollars per user (of a credential, or named by metadata) and period; 0 is unlimited.",
    )
    thread_budget: float = env(
        "TURNKEEP_THREAD_BUDGET", default=0.0, ge=0, doc="US dollars per thread and period; 0 is unlimited."
    )
    budget_period: Literal["hour", "day", "month"] = env(
        "TURNKEEP_BUDGET_PERIOD", default="day", doc="Budgets begin anew with each of these, in UTC."
    )

    # Section other dialects
    openai_conversations: Literal["named", "any"] = env(
        "TURNKEEP_OPENAI_CONVERSATIONS",
        default="named",
        doc="What names a conversation at `/v1`: `conversation`, `metadata.channel` and the headers of front ends, or "
        "with `any` also `prompt_cache_key` and `user`.",
    )
    openai_history: Literal["refuse", "fresh"] = env(
        "TURNKEEP_OPENAI_HISTORY",
        default="refuse",
        doc="A history at `/v1` that is not how the conversation went on is refused, or begins a thread of its own.",
    )

    openai_runs: Literal["kind", "strict"] = env(
        "TURNKEEP_OPENAI_RUNS",
        default="kind",
        doc="Messages and runs of a thread that has an active run, by the Assistants API: `kind` queues them, `strict` "
        "refuses them as OpenAI did.",
    )

    # Section access
    insecure_no_auth: bool = env(
        "TURNKEEP_INSECURE_NO_AUTH", default=False, doc="Listen beyond this machine without authentication."
    )
    auth: Literal["off", "on"] | None = env(
        "TURNKEEP_AUTH",
        default=None,
        doc="Ask for credentials. Default: on when listening beyond this machine, when the store holds an API key, or "
        "when tokens are set.",
    )
    start_token: SecretStr | None = env(
        "TURNKEEP_START_TOKEN",
        default=None,
        min_length=16,
        doc="One token that opens everything, for a server of one person; `turnkeep dev --token` makes one.",
    )
    jwt_secret: SecretStr | None = env(
        "TURNKEEP_JWT_SECRET", default=None, doc="Shared secret of JSON web tokens (HS256), 32 random bytes or more."
    )
    jwt_key: str | None = env(
        "TURNKEEP_JWT_KEY", default=None, doc="Public key of JSON web tokens: PEM, or base64 of its SPKI."
    )
    jwt_jwks: str | None = env("TURNKEEP_JWT_JWKS", default=None, doc="JWKS file or URL.")
    jwt_jwks_ttl: float = env(
        "TURNKEEP_JWT_JWKS_TTL",
        default=600.0,
        ge=1,
        le=86_400,
        doc="Seconds after which a key that was taken out of the JWKS is refused, also where it cannot be reached.",
    )
    jwt_algorithms: tuple[Literal["HS256", "EdDSA", "ES256", "ES384", "RS256"], ...] = env(
        "TURNKEEP_JWT_ALGORITHMS", default=(), doc="Accepted algorithms (JSON list)."
    )
    jwt_audience: str = env("TURNKEEP_JWT_AUDIENCE", default="turnkeep", doc="Expected audience.")
    jwt_issuer: str | None = env("TURNKEEP_JWT_ISSUER", default=None, doc="Expected issuer; any without.")
    jwt_leeway: float = env(
        "TURNKEEP_JWT_LEEWAY", default=30.0, ge=0, le=300, doc="Seconds that a token may begin in the future."
    )
    jwt_claims: dict[Literal["sub", "tenant", "scope", "channels"], str] = env(
        "TURNKEEP_JWT_CLAIMS",
        default={},
        doc="What the issuer calls the claims sub, tenant, scope and channels (JSON object; dots lead into objects).",
    )
    client_instructions: bool = env(
        "TURNKEEP_CLIENT_INSTRUCTIONS",
        default=False,
        doc="Take instructions with messages of those who have no scope `manage`; the model is told that they are a "
        "user's. Where nobody is asked for credentials everybody manages.",
    )
    file_ids: bool = env(
        "TURNKEEP_FILE_IDS",
        default=False,
        doc="Take parts of messages that name a file of the provider's account from those who have no scope `manage`.",
    )
    origins: tuple[str, ...] = env(
        "TURNKEEP_ORIGINS", default=(), doc="Browser origins that may connect (JSON list); our own page always may."
    )
    proxies: tuple[str, ...] = env(
        "TURNKEEP_PROXIES",
        default=("127.0.0.1", "::1"),
        doc="Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed (JSON list).",
    )
    first_frame_auth: bool = env(
        "TURNKEEP_FIRST_FRAME_AUTH",
        default=False,
        doc="Open sockets that show a credential in their first frame only, within 3 s.",
    )
    hosts: tuple[str, ...] = env(
        "TURNKEEP_HOSTS", default=(), doc="Host names we answer to (JSON list); default: the address we listen on."
    )

    worker_port: int | None = env(
        "TURNKEEP_WORKER_PORT",
        default=None,
        ge=0,
        le=65_535,
        doc="Port on which a worker shows /metrics, /healthz and /readyz; none without. 0: any.",
    )

    # Section tools
    openweather_api_key: SecretStr | None = env(
        "OPENWEATHER_API_KEY", default=None, doc="Key of OpenWeather; enables `get_weather`."
    )
    openweather_url: str = env(
        "TURNKEEP_OPENWEATHER_URL",
        default="https://api.openweathermap.org/data/2.5/weather",
        doc="Endpoint of OpenWeather.",
    )
    tools_file: Path | None = env(
        "TURNKEEP_TOOLS", default=None, doc="TOML file with declared tools, or a Python file with `@tool` functions."
    )
    workspace: Path | None = env(
        "TURNKEEP_WORKSPACE", default=None, doc="Root for the file and git tools; enables them."
    )
    allow_bash: bool = env("TURNKEEP_ALLOW_BASH", default=False, doc="Enable `execute_bash` in its sandbox.")
    sandbox: Literal["bubblewrap", "outside"] = env(
        "TURNKEEP_SANDBOX",
        default="bubblewrap",
        doc="What holds `execute_bash` and git; `outside`: this process is the sandbox, they run bare in it.",
    )
    workspace_quota: int = env(
        "TURNKEEP_WORKSPACE_QUOTA", default=2_000_000_000, ge=1, doc="Bytes that a workspace may hold."
    )
    workspace_free: int = env(
        "TURNKEEP_WORKSPACE_FREE",
        default=1_000_000_000,
        ge=0,
        doc="Bytes that stay free on the disk of a workspace, but at most a tenth of it.",
    )
    tenant_tools: dict[str, tuple[str, ...]] | None = env(
        "TURNKEEP_TENANT_TOOLS",
        default=None,
        doc="Tools of tenants other than `default`, by tenant (JSON object of lists; `*` is every other tenant, or"
        " every tool); without one a tenant has none.",
    )
    tenant_tool_files: dict[str, Path] = env(
        "TURNKEEP_TENANT_TOOL_FILES",
        default={},
        doc="Files of declared tools that one tenant alone has, by tenant (JSON object).",
    )
    tenant_workspaces: Path | None = env(
        "TURNKEEP_TENANT_WORKSPACES",
        default=None,
        doc="Directory beneath which every tenant but `default` has its workspace.",
    )

    # Section watching
    log_level: Literal["debug", "info", "warning", "error"] = env(
        "TURNKEEP_LOG_LEVEL", default="info", doc="Least severity that is logged."
    )
    log_format: Literal["auto", "json", "console"] = env(
        "TURNKEEP_LOG_FORMAT", default="auto", doc="JSON lines, or for people when writing to a terminal."
    )
    failpoints: str = env(
        "TURNKEEP_FAILPOINTS",
        default="",
        doc="For crash tests: steps of a run at which this process kills itself, with chances (`claimed:0.01,…`).",
    )
    otel_endpoint: str | None = env("OTEL_EXPORTER_OTLP_ENDPOINT", default=None, doc="Where traces go; off without.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings

    @property
    def lease_duration(self) -> float:
        """The lease that counts. On Redis a worker that died is found by its lease alone, and
        somebody watches the answer: so it is short there unless it is set. On SQLite the others see
        at once who has gone.
        """
        is_set = "lease" in self.model_fields_set
        return self.lease if is_set or self.store_url.startswith(("memory:", "sqlite:")) else REDIS_LEASE

    @property
    def has_budgets(self) -> bool:
        return bool(self.tenant_budget or self.user_budget or self.thread_budget)

    @classmethod
    def load(cls, spelling: Mapping[str, str] | None = None, /, **values: Any) -> Self:
        """Read the environment and `.env`. Raises `ConfigurationError` that names every unknown
        name and every wrong value, and for an address of the file if a key from elsewhere would be
        sent there.

        `spelling`: what errors call a field that the caller has under another name.
        """
        settings = cls._read_all(DEFAULT, values, spelling or {})
        settings._doubt(DEFAULT, values)
        return settings

    @classmethod
    def load_named(cls, file: Path, **values: Any) -> Self:
        """Read the environment and this file, for which whoever names it vouches. Raises
        `ConfigurationError`.
        """
        if not file.is_file():
            raise ConfigurationError(f"there is no file {str(file)[:200]!r} to read settings from")
        return cls._read_all(file, values, {})

    def _doubt(self, file: Path, values: Mapping[str, Any]) -> None:
        """Nobody says that this file is theirs."""
        names = _variables()
        # By field or variable: both are taken, in any case.
        set_in_code = {name for name, others in names.items() if {name, *others} & {*values, *map(str.upper, values)}}
        provenance = Provenance(names, set_in_code, file, os.environ)
        if (leak := provenance.foreign_receiver()) is not None:
            address, key = leak
            raise ConfigurationError(
                f"{address} stands in {file}, and {key}, which would be sent there, comes from elsewhere: set both in "
                f"one place, or say that the file is yours with --env-file {file}"
            )
        self._doubtful_acts = provenance.acts()

    def demand_vouched(self) -> None:
        """Raises `ConfigurationError` if a file that nobody named lets a model or a program act on
        this machine.
        """
        for field in sorted(self._doubtful_acts):
            # The preferred name alone: the sentence says what to set, not what might have been set.
            name = next(names_of(type(self).model_fields[field].validation_alias))
            raise ConfigurationError(
                f"{name} is set by {DEFAULT} of the working directory alone, which may be somebody else's: set it in "
                f"the environment, or say that the file is yours with --env-file {DEFAULT}"
            )

    @classmethod
    def variable_names(cls) -> frozenset[str]:
        """What settings are called in the environment, in capitals."""
        return frozenset(name for names in _variables().values() for name in names)

    @classmethod
    def _read_all(cls, file: Path, values: Mapping[str, Any], own: Mapping[str, str]) -> Self:
        names, variables = _variables(), cls.variable_names()
        if strangers := [name for name in values if name not in names and name.upper() not in variables]:
            raise ConfigurationError(strangers_sentence("Settings", strangers, names))
        try:
            return cls(_env_file=file, **values)
        # Not chained: pydantic's own message shows the values, and some of them are secrets.
        except ValidationError as error:
            present = (*values, *os.environ, *dotenv_values(file, interpolate=False))
            raise ConfigurationError(report(error, Spelling(names, own, present))) from None
        except (SettingsError, RecursionError) as error:
            raise ConfigurationError(f"wrong settings: {variable_of(cls, error)} must be JSON") from None
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"the file {file} cannot be read as UTF-8 text: {kind_of(error)}") from None

    @property
    def store_url(self) -> str:
        """Where state lives, as a URL: `sqlite:PATH`, `memory:` or Redis."""
        url = self.store or self.redis_url
        if url is None:
            return "sqlite:.turnkeep/turnkeep.db"
        return url if ":" in url else f"sqlite:{url}"

    @property
    def backoff(self) -> Backoff:
        return Backoff(self.backoff_type, self.backoff_delay, cap=self.backoff_cap)

    @property
    def uses_simulator(self) -> bool:
        """Nobody was named who could answer."""
        return not (self.uses_openai or self.uses_anthropic)

    @property
    def uses_openai(self) -> bool:
        """A key or a server of OpenAI's kind was named."""
        return self.openai_api_key is not None or self.openai_base_url is not None

    @property
    def uses_anthropic(self) -> bool:
        """A key or a server of Anthropic's kind was named."""
        return self.anthropic_api_key is not None or self.anthropic_base_url is not None

    @property
    def model(self) -> str | None:
        """The model of the default assistant, where it is set or only Anthropic can answer; None:
        the catalogue's.
        """
        return self.openai_model or (DEFAULT_CLAUDE if self.uses_anthropic and not self.uses_openai else None)

    @property
    def takes_tokens(self) -> bool:
        """JSON web tokens are a way in."""
        return any(one is not None for one in (self.jwt_secret, self.jwt_key, self.jwt_jwks))

    @property
    def is_open_aloud(self) -> bool:
        """Somebody said that nobody is to be asked."""
        return self.insecure_no_auth or self.auth == "off"

    @property
    def takes_simulator_for_a_model(self) -> bool:
        """Others are to come in, and nobody has said that a simulator is what they shall talk to."""
        return self.uses_simulator and (self.auth == "on" or self.takes_tokens) and not self.simulator

    @property
    def is_loopback(self) -> bool:
        return self.host in ("127.0.0.1", "localhost", "::1")


def _variables() -> dict[str, tuple[str, ...]]:
    """The environment names of each field, in capitals."""
    fields = Settings.model_fields.items()
    return {name: tuple(one.upper() for one in names_of(field.validation_alias)) for name, field in fields}


def misspelt(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names that look like settings of ours and are none, each with the closest one (or "")."""
    settings = {name for field in Settings.model_fields.values() for name in names_of(field.validation_alias)}
    for name in sorted({name.upper() for name in names}):
        if name.startswith("TURNKEEP_") and name not in settings:
            yield name, next(iter(difflib.get_close_matches(name, settings, n=1, cutoff=0.7)), "")
