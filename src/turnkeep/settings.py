"""Settings: one frozen value, and the only reader of the environment.

Nothing set means: SQLite in the working directory, the built-in simulator, 127.0.0.1:8080. `REDIS_URL` moves the store
to Redis, `RABBITMQ_URL` opens the AMQP door, `OPENAI_API_KEY` asks the real API. All wrong values are told at once.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AliasChoices,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from turnkeep.backoff import Backoff
from turnkeep.env_file import DEFAULT, Provenance
from turnkeep.errors import ConfigurationError
from turnkeep.failpoints import read_points
from turnkeep.messages import BusyPolicy


def _env(*names: str, doc: str, default: Any, **limits: Any) -> Any:
    """A field with its environment names, first one preferred, and the sentence that the reference prints."""
    return Field(default=default, validation_alias=AliasChoices(*names), description=doc, **limits)


REDIS_LEASE = 8.0
"""Seconds. With a renewal every third of it and a claim within a second, an answer goes on within ten after a kill."""


class Settings(BaseSettings):
    """Everything that can be set. Values given in code go before the environment, that before `.env`."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
        allow_inf_nan=False,
    )

    _doubtful_acts: frozenset[str] = PrivateAttr(default=frozenset())
    """What lets others act here and is set by a file that nobody named."""

    # ------------------------------------------------------------ model
    openai_api_key: SecretStr | None = _env(
        "OPENAI_API_KEY", default=None, doc="Key of the model API; without one the simulator answers."
    )
    openai_base_url: str | None = _env("OPENAI_BASE_URL", default=None, doc="Base URL of an OpenAI-compatible server.")
    openai_model: str | None = _env(
        *("OPENAI_MODEL", "ANTHROPIC_MODEL"),
        default=None,
        doc="Model of the default assistant (else the catalogue's default).",
    )
    openai_assistant_id: str | None = _env(
        "OPENAI_ASSISTANT_ID", default=None, doc="Assistant that answers where no other is chosen."
    )
    openai_organization: str | None = _env(
        "OPENAI_ORGANIZATION", "OPENAI_ORG_ID", default=None, doc="Organisation header."
    )
    openai_project: str | None = _env("OPENAI_PROJECT", "OPENAI_PROJECT_ID", default=None, doc="Project header.")
    simulator: bool = _env(
        "TURNKEEP_SIMULATOR",
        default=False,
        doc="Let the simulator answer without a model although credentials are asked for (`--simulator`).",
    )
    anthropic_api_key: SecretStr | None = _env(
        *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
        default=None,
        doc="Key of Anthropic: it answers for models named claude…, or for all where no OPENAI_* names a server.",
    )
    anthropic_base_url: str | None = _env(
        "ANTHROPIC_BASE_URL", default=None, doc="Base URL of a server that speaks Anthropic's Messages."
    )
    model_api: Literal["auto", "responses", "chat", "anthropic"] = _env(
        "TURNKEEP_MODEL_API",
        default="auto",
        doc="Protocol of OPENAI_BASE_URL: Responses, Chat Completions, Anthropic's Messages, or by the server's name.",
    )
    model_capabilities: str = _env(
        "TURNKEEP_MODEL_CAPABILITIES",
        default="",
        doc="Which model server this is and what it takes: `vllm, images=no` ([how](../how-to/models.md)).",
    )
    model_proxy: str | None = _env("TURNKEEP_MODEL_PROXY", default=None, doc="HTTP proxy for model requests.")
    model_ca_file: Path | None = _env(
        "TURNKEEP_MODEL_CA_FILE", default=None, doc="Certificate authorities for model requests."
    )
    first_event_timeout: float | None = _env(
        "TURNKEEP_FIRST_EVENT_TIMEOUT",
        default=None,
        gt=0,
        doc="Seconds until the model's first event. Default: 60, and 240 where the server is in your own network.",
    )
    idle_timeout: float = _env(
        "TURNKEEP_IDLE_TIMEOUT", default=30.0, gt=0, doc="Seconds of silence in a model's stream."
    )
    instructions: str = _env(
        "TURNKEEP_INSTRUCTIONS",
        default="Reply to all messages logically.",
        doc="Instructions of the assistant that is created on first start.",
    )
    sentences_file: Path | None = _env(
        "TURNKEEP_SENTENCES", default=None, doc="What people are told of errors, by cause or code (TOML)."
    )
    price_file: Path | None = _env(
        "TURNKEEP_PRICE_FILE", default=None, doc="Prices that override the built-in ones (TOML or JSON)."
    )

    # ------------------------------------------------------------ store
    store: str | None = _env(
        "TURNKEEP_STORE",
        default=None,
        doc="An SQLite file, `memory:`, or a Redis URL. Default: `REDIS_URL`, else .turnkeep/turnkeep.db.",
    )
    redis_url: str | None = _env(
        "REDIS_URL",
        default=None,
        doc="Redis or Valkey that holds all state: redis://, rediss://, unix://, redis+sentinel://, redis+cluster://.",
    )
    redis_prefix: str = _env("REDIS_PREFIX", default="cosmo:", doc="First part of every Redis key.")
    thread_expiry: float = _env(
        "REDIS_THREAD_EXPIRY",
        "TURNKEEP_THREAD_EXPIRY",
        default=7_776_000.0,
        gt=0,
        doc="Seconds without activity after which an idle thread is forgotten.",
    )
    durability: Literal["fast", "standard", "strict"] = _env(
        "TURNKEEP_DURABILITY", default="standard", doc="What a Redis receipt waits for."
    )
    replicas: int | None = _env(
        "TURNKEEP_REPLICAS",
        default=None,
        ge=0,
        doc="Replicas of Redis that a strict answer waits for; unset: as many as were seen, never fewer.",
    )
    store_keys: SecretStr | None = _env(
        "TURNKEEP_STORE_KEYS",
        default=None,
        doc="Keys that seal what people say before it is stored: `ID:BASE64` of 32 bytes, the newest first, with commas"
        " between.",
    )
    allow_unsafe_redis: bool = _env(
        "TURNKEEP_ALLOW_UNSAFE_REDIS",
        default=False,
        doc="Start on a Redis without append-only file or with an evicting memory policy.",
    )
    allow_network_filesystem: bool = _env(
        "TURNKEEP_ALLOW_NETWORK_FILESYSTEM",
        default=False,
        doc="Open a SQLite store on a file system of the network, from one machine alone.",
    )

    # ------------------------------------------------------------ doors
    host: str = _env("TURNKEEP_HOST", default="127.0.0.1", doc="Address to listen on.")
    port: int = _env("TURNKEEP_PORT", default=8080, ge=0, le=65535, doc="Port to listen on.")
    url: str | None = _env("TURNKEEP_URL", default=None, doc="Server that command line verbs talk to.")
    queue: str = _env("TURNKEEP_QUEUE", default="assistant", min_length=1, doc="Queue of the service.")
    rabbitmq_url: str | None = _env("RABBITMQ_URL", default=None, doc="RabbitMQ to take messages from.")
    queue_name: str = _env("QUEUE_NAME", default="cosmo_queue", doc="AMQP queue.")
    routing_key: str = _env("ROUTING_KEY", default="cosmo_key", doc="AMQP routing key.")
    exchange_name: str = _env("EXCHANGE_NAME", default="cosmo_exchange", doc="AMQP exchange.")
    amqp_tenants: dict[str, str] = _env(
        "TURNKEEP_AMQP_TENANTS", default={}, doc="Tenant by AMQP virtual host or user (JSON object)."
    )
    amqp_reply_exchange: str | None = _env(
        "TURNKEEP_AMQP_REPLY_EXCHANGE", default=None, doc="AMQP exchange for final events."
    )
    websocket_url: str | None = _env(
        "WEBSOCKET_URL", "WEBSOCKET_URI", default=None, doc="WebSocket server that every frame is relayed to."
    )
    webhook_url: str | None = _env("TURNKEEP_WEBHOOK_URL", default=None, doc="Receiver of signed final events.")
    webhook_secret: SecretStr | None = _env(
        "TURNKEEP_WEBHOOK_SECRET",
        default=None,
        doc="Key of the webhook signature: `whsec_` and base64 of 16 bytes or more; two with a blank, to exchange it.",
    )
    webhook_allow_private: bool = _env(
        "TURNKEEP_WEBHOOK_ALLOW_PRIVATE", default=False, doc="Let webhooks reach private addresses."
    )

    # ------------------------------------------------------------ turns
    window: float = _env(
        "TURNKEEP_WINDOW", default=1.5, ge=0, le=3600, doc="Seconds a thread waits for more after the last message."
    )
    max_wait: float = _env("TURNKEEP_MAX_WAIT", default=8.0, ge=0, le=86400, doc="Seconds nobody waits longer than.")
    adaptive: bool = _env(
        "TURNKEEP_ADAPTIVE", default=False, doc="Learn each channel's window from its rhythm (0.25 to 4 s)."
    )
    max_batch: int = _env("TURNKEEP_MAX_BATCH", default=64, ge=1, le=1000, doc="Messages of one turn.")
    max_batch_bytes: int = _env("TURNKEEP_MAX_BATCH_BYTES", default=256_000, ge=1, doc="Bytes of one turn.")
    on_busy: BusyPolicy = _env("TURNKEEP_ON_BUSY", default="collect", doc="What a message asks of a busy thread.")
    max_attempts: int = _env("TURNKEEP_MAX_ATTEMPTS", default=3, ge=1, doc="Failures of a batch until it is given up.")
    max_deaths: int = _env(
        "TURNKEEP_MAX_DEATHS", default=10, ge=1, doc="Workers that may die on a batch until it is given up."
    )
    backoff_type: Literal["exponential", "fixed"] = _env(
        "TURNKEEP_BACKOFF", default="exponential", doc="How retries are spread."
    )
    backoff_delay: float = _env("TURNKEEP_BACKOFF_DELAY", default=5.0, ge=0, doc="Seconds of the first delay.")
    backoff_cap: float = _env("TURNKEEP_BACKOFF_CAP", default=300.0, ge=0, doc="Longest delay in seconds.")
    concurrency: int = _env("TURNKEEP_CONCURRENCY", default=256, ge=1, doc="Runs at once in one worker.")
    lease: float = _env(
        "TURNKEEP_LEASE",
        default=30.0,
        ge=0.2,
        doc="Seconds after which a silent worker loses its threads. Unset on Redis: 8.",
    )
    run_deadline: float = _env("TURNKEEP_RUN_DEADLINE", default=300.0, gt=0, doc="Seconds of work a run may take.")
    drain: float = _env("TURNKEEP_DRAIN", default=25.0, ge=0, doc="Seconds that runs may take to end at shutdown.")
    max_steps: int = _env("TURNKEEP_MAX_STEPS", default=8, ge=1, doc="Model calls of one run.")
    max_calls: int = _env("TURNKEEP_MAX_CALLS", default=16, ge=1, doc="Tool calls of one step.")
    parallel_tools: int = _env("TURNKEEP_PARALLEL_TOOLS", default=8, ge=1, doc="Tool calls of one run at once.")
    action_expiry: float = _env(
        "TURNKEEP_ACTION_EXPIRY", default=86_400.0, gt=0, doc="Seconds a requested action waits for its decision."
    )
    dedupe: float = _env(
        "TURNKEEP_DEDUPE", default=604_800.0, gt=0, doc="Seconds a message id is remembered after its end."
    )
    history_items: int = _env(
        "TURNKEEP_HISTORY_ITEMS", default=2_000, ge=10, doc="Transcript entries kept of a thread."
    )
    history_bytes: int = _env(
        "TURNKEEP_HISTORY_BYTES", default=4_000_000, ge=10_000, doc="Transcript bytes kept of a thread."
    )
    weights: dict[str, float] = _env(
        "TURNKEEP_WEIGHTS", default={}, doc="Share of the workers by tenant (JSON object; default 1)."
    )

    # ------------------------------------------------------------ limits
    max_message_bytes: int = _env("TURNKEEP_MAX_MESSAGE_BYTES", default=256_000, ge=1, doc="Bytes of one message.")
    max_frame_bytes: int = _env(
        "TURNKEEP_MAX_FRAME_BYTES", default=512_000, ge=1, doc="Bytes of one socket frame or request body."
    )
    max_inbox: int = _env("TURNKEEP_MAX_INBOX", default=100, ge=1, doc="Messages waiting on a channel.")
    amqp_max_inbox: int = _env(
        "TURNKEEP_AMQP_MAX_INBOX", default=10_000, ge=1, doc="Messages waiting on a channel when they come by AMQP."
    )
    amqp_channel_rate: str = _env(
        "TURNKEEP_AMQP_CHANNEL_RATE",
        default="0",
        doc="Messages per seconds on one channel that come by AMQP; `0` is unlimited: a broker hands over at once what "
        "came while we were away.",
    )
    amqp_tenant_rate: str = _env(
        "TURNKEEP_AMQP_TENANT_RATE",
        default="0",
        doc="Messages per seconds of one tenant that come by AMQP; `0` is unlimited.",
    )
    channels_per_socket: int = _env(
        "TURNKEEP_CHANNELS_PER_SOCKET", default=100, ge=1, doc="Subscriptions of one socket."
    )
    sockets_per_user: int = _env(
        "TURNKEEP_SOCKETS_PER_USER",
        default=1_000,
        ge=1,
        doc="Sockets and event streams of one credential.",
    )
    bodies_per_user: int = _env(
        "TURNKEEP_BODIES_PER_USER", default=50, ge=1, doc="Request bodies of one credential that are still arriving."
    )
    max_connections: int = _env(
        "TURNKEEP_MAX_CONNECTIONS",
        default=10_000,
        ge=0,
        doc="Connections of one process, never more than it may have descriptors for; 0 is as many as those.",
    )
    connections_per_peer: int = _env(
        "TURNKEEP_CONNECTIONS_PER_PEER",
        default=1_000,
        ge=0,
        doc="Connections from one address other than this machine's and those of `TURNKEEP_PROXIES`; 0 is unlimited.",
    )
    channel_rate: str = _env(
        "TURNKEEP_CHANNEL_RATE", default="64/10", doc="Messages per seconds on one channel; `0` is unlimited."
    )
    user_rate: str = _env(
        "TURNKEEP_USER_RATE",
        default="100/10",
        doc="Messages per seconds of one person: of a token, or named by `metadata.user`; `0` is unlimited.",
    )
    tenant_rate: str = _env(
        "TURNKEEP_TENANT_RATE", default="10000/10", doc="Messages per seconds of one tenant; `0` is unlimited."
    )
    request_rate: str = _env(
        "TURNKEEP_REQUEST_RATE",
        default="3000/10",
        doc="Requests per seconds of one credential, over all that is no message; `0` is unlimited.",
    )
    tenant_request_rate: str = _env(
        "TURNKEEP_TENANT_REQUEST_RATE", default="20000/10", doc="The same of one tenant; `0` is unlimited."
    )
    error_rate: str = _env(
        "TURNKEEP_ERROR_RATE",
        default="100/1",
        doc="Refusals per seconds of one address; more are told up to 5 s later. `0` is unlimited.",
    )
    max_threads: int = _env(
        "TURNKEEP_MAX_THREADS", default=1_000_000, ge=0, doc="Threads of one tenant; 0 is unlimited."
    )
    requests_per_minute: int = _env(
        "TURNKEEP_REQUESTS_PER_MINUTE", default=0, ge=0, doc="Model requests of all workers per minute; 0 is unlimited."
    )
    tokens_per_minute: int = _env(
        "TURNKEEP_TOKENS_PER_MINUTE", default=0, ge=0, doc="Model tokens of all workers per minute; 0 is unlimited."
    )
    tenant_budget: float = _env(
        "TURNKEEP_TENANT_BUDGET", default=0.0, ge=0, doc="US dollars per tenant and period; 0 is unlimited."
    )
    user_budget: float = _env(
        "TURNKEEP_USER_BUDGET",
        default=0.0,
        ge=0,
        doc="US dollars per user (of a credential, or named by metadata) and period; 0 is unlimited.",
    )
    thread_budget: float = _env(
        "TURNKEEP_THREAD_BUDGET", default=0.0, ge=0, doc="US dollars per thread and period; 0 is unlimited."
    )
    budget_period: Literal["hour", "day", "month"] = _env(
        "TURNKEEP_BUDGET_PERIOD", default="day", doc="Budgets begin anew with each of these, in UTC."
    )

    @property
    def lease_duration(self) -> float:
        """The lease that counts. On Redis a worker that died is found by its lease alone, and somebody watches the
        answer: so it is short there unless it is set. On SQLite the others see at once who has gone.
        """
        is_set = "lease" in self.model_fields_set
        return self.lease if is_set or self.store_url.startswith(("memory:", "sqlite:")) else REDIS_LEASE

    @property
    def has_budgets(self) -> bool:
        return bool(self.tenant_budget or self.user_budget or self.thread_budget)

    # ------------------------------------------------------------ access
    insecure_no_auth: bool = _env(
        "TURNKEEP_INSECURE_NO_AUTH", default=False, doc="Listen beyond this machine without authentication."
    )
    auth: Literal["off", "on"] | None = _env(
        "TURNKEEP_AUTH",
        default=None,
        doc="Ask for credentials. Default: on when listening beyond this machine, when the store holds an API key, or "
        "when tokens are set.",
    )
    start_token: SecretStr | None = _env(
        "TURNKEEP_START_TOKEN",
        default=None,
        min_length=16,
        doc="One token that opens everything, for a server of one person; `turnkeep dev --token` makes one.",
    )
    jwt_secret: SecretStr | None = _env(
        "TURNKEEP_JWT_SECRET", default=None, doc="Shared secret of JSON web tokens (HS256), 32 random bytes or more."
    )
    jwt_key: str | None = _env(
        "TURNKEEP_JWT_KEY", default=None, doc="Public key of JSON web tokens: PEM, or base64 of its SPKI."
    )
    jwt_jwks: str | None = _env("TURNKEEP_JWT_JWKS", default=None, doc="JWKS file or URL.")
    jwt_jwks_ttl: float = _env(
        "TURNKEEP_JWT_JWKS_TTL",
        default=600.0,
        ge=1,
        le=86_400,
        doc="Seconds after which a key that was taken out of the JWKS is refused, also where it cannot be reached.",
    )
    jwt_algorithms: tuple[Literal["HS256", "EdDSA", "ES256", "ES384", "RS256"], ...] = _env(
        "TURNKEEP_JWT_ALGORITHMS", default=(), doc="Accepted algorithms (JSON list)."
    )
    jwt_audience: str = _env("TURNKEEP_JWT_AUDIENCE", default="turnkeep", doc="Expected audience.")
    jwt_issuer: str | None = _env("TURNKEEP_JWT_ISSUER", default=None, doc="Expected issuer; any without.")
    jwt_leeway: float = _env(
        "TURNKEEP_JWT_LEEWAY", default=30.0, ge=0, le=300, doc="Seconds that a token may begin in the future."
    )
    jwt_claims: dict[Literal["sub", "tenant", "scope", "channels"], str] = _env(
        "TURNKEEP_JWT_CLAIMS",
        default={},
        doc="What the issuer calls the claims sub, tenant, scope and channels (JSON object; dots lead into objects).",
    )
    client_instructions: bool = _env(
        "TURNKEEP_CLIENT_INSTRUCTIONS",
        default=False,
        doc="Take instructions with messages of those who have no scope `manage`; the model is told that they are a "
        "user's. Where nobody is asked for credentials everybody manages.",
    )
    file_ids: bool = _env(
        "TURNKEEP_FILE_IDS",
        default=False,
        doc="Take parts of messages that name a file of the provider's account from those who have no scope `manage`.",
    )
    origins: tuple[str, ...] = _env(
        "TURNKEEP_ORIGINS", default=(), doc="Browser origins that may connect (JSON list); our own page always may."
    )
    proxies: tuple[str, ...] = _env(
        "TURNKEEP_PROXIES",
        default=("127.0.0.1", "::1"),
        doc="Addresses or networks of proxies whose X-Forwarded-For and X-Forwarded-Proto are believed (JSON list).",
    )
    first_frame_auth: bool = _env(
        "TURNKEEP_FIRST_FRAME_AUTH",
        default=False,
        doc="Open sockets that show a credential in their first frame only, within 3 s.",
    )
    hosts: tuple[str, ...] = _env(
        "TURNKEEP_HOSTS", default=(), doc="Host names we answer to (JSON list); default: the address we listen on."
    )

    # ------------------------------------------------------------ tools
    openweather_api_key: SecretStr | None = _env(
        "OPENWEATHER_API_KEY", default=None, doc="Key of OpenWeather; enables `get_weather`."
    )
    openweather_url: str = _env(
        "TURNKEEP_OPENWEATHER_URL",
        default="https://api.openweathermap.org/data/2.5/weather",
        doc="Endpoint of OpenWeather.",
    )
    tools_file: Path | None = _env(
        "TURNKEEP_TOOLS", default=None, doc="TOML file with declared tools, or a Python file with `@tool` functions."
    )
    workspace: Path | None = _env(
        "TURNKEEP_WORKSPACE", default=None, doc="Root for the file and git tools; enables them."
    )
    allow_bash: bool = _env("TURNKEEP_ALLOW_BASH", default=False, doc="Enable `execute_bash` in its sandbox.")
    sandbox: Literal["bubblewrap", "outside"] = _env(
        "TURNKEEP_SANDBOX",
        default="bubblewrap",
        doc="What holds `execute_bash` and git; `outside`: this process is the sandbox, they run bare in it.",
    )
    workspace_quota: int = _env(
        "TURNKEEP_WORKSPACE_QUOTA", default=2_000_000_000, ge=1, doc="Bytes that a workspace may hold."
    )
    workspace_free: int = _env(
        "TURNKEEP_WORKSPACE_FREE",
        default=1_000_000_000,
        ge=0,
        doc="Bytes that stay free on the disk of a workspace, but at most a tenth of it.",
    )
    tenant_tools: dict[str, tuple[str, ...]] | None = _env(
        "TURNKEEP_TENANT_TOOLS",
        default=None,
        doc="Tools of tenants other than `default`, by tenant (JSON object of lists; `*` is every other tenant, or"
        " every tool); without one a tenant has none.",
    )
    tenant_tool_files: dict[str, Path] = _env(
        "TURNKEEP_TENANT_TOOL_FILES",
        default={},
        doc="Files of declared tools that one tenant alone has, by tenant (JSON object).",
    )
    tenant_workspaces: Path | None = _env(
        "TURNKEEP_TENANT_WORKSPACES",
        default=None,
        doc="Directory beneath which every tenant but `default` has its workspace.",
    )

    # ------------------------------------------------------------ watching
    log_level: Literal["debug", "info", "warning", "error"] = _env(
        "TURNKEEP_LOG_LEVEL", default="info", doc="Least severity that is logged."
    )
    log_format: Literal["auto", "json", "console"] = _env(
        "TURNKEEP_LOG_FORMAT", default="auto", doc="JSON lines, or for people when writing to a terminal."
    )
    failpoints: str = _env(
        "TURNKEEP_FAILPOINTS",
        default="",
        doc="For crash tests: steps of a run at which this process kills itself, with chances (`claimed:0.01,…`).",
    )
    otel_endpoint: str | None = _env("OTEL_EXPORTER_OTLP_ENDPOINT", default=None, doc="Where traces go; off without.")

    # ------------------------------------------------------------ checks

    @field_validator("*", mode="before")
    @classmethod
    def _has_no_blanks_around(cls, value: object) -> object:
        """What was pasted brings a blank or a newline along; no setting means one at its edge."""
        return value.strip() if isinstance(value, str) else value

    @field_validator("redis_url")
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and not urlsplit(value).scheme:
            raise ValueError("expected a URL with its scheme, like redis://localhost:6379/0")
        return _readable(value)

    @field_validator("rabbitmq_url")
    @classmethod
    def _is_amqp(cls, value: str | None) -> str | None:
        return _address(value, "amqp", "amqps")

    @field_validator("exchange_name", "queue_name", "routing_key", "amqp_reply_exchange")
    @classmethod
    def _is_amqp_name(cls, value: str | None, info: ValidationInfo) -> str | None:
        """A name has 255 bytes; that of the dead exchange is longer by `_dlx`, of its queue by `_failed`."""
        most = {"exchange_name": 251, "queue_name": 248}.get(info.field_name or "", 255)
        if value is not None and len(value.encode(errors="replace")) > most:
            raise ValueError(f"expected at most {most} bytes")
        return value

    @field_validator("websocket_url")
    @classmethod
    def _is_websocket(cls, value: str | None) -> str | None:
        return _address(value, "ws", "wss")

    @field_validator(
        "openai_base_url", "anthropic_base_url", "webhook_url", "url", "model_proxy", "openweather_url", "otel_endpoint"
    )
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        return _address(value, "http", "https")

    @field_validator("jwt_jwks")
    @classmethod
    def _is_http_or_file(cls, value: str | None) -> str | None:
        if value is not None and "://" in value:
            return _address(value, "http", "https")
        return value if value is None else str(_file(Path(value)))

    @field_validator("model_ca_file", "price_file")
    @classmethod
    def _is_file(cls, value: Path | None) -> Path | None:
        return None if value is None else _file(value)

    @field_validator("store")
    @classmethod
    def _may_be_url(cls, value: str | None) -> str | None:
        return _readable(value)

    @field_validator("amqp_tenants")
    @classmethod
    def _are_tenants(cls, value: dict[str, str]) -> dict[str, str]:
        if "" in value.values():
            raise ValueError("expected tenants that are texts of at least one character")
        return value

    @field_validator("weights")
    @classmethod
    def _are_weights(cls, value: dict[str, float]) -> dict[str, float]:
        if wrong := [tenant for tenant, weight in value.items() if not 0 < weight < math.inf]:
            raise ValueError(f"the weight of {wrong[0][:80]!r} must be a number above 0")
        return value

    @field_validator("proxies")
    @classmethod
    def _are_networks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for one in value:
            try:
                ipaddress.ip_network(one)
            except ValueError:
                raise ValueError(f"{one[:80]!r} is no address and no network, write 10.0.0.7 or 10.0.0.0/8") from None
        return value

    @field_validator(
        "channel_rate", "user_rate", "tenant_rate", "request_rate", "tenant_request_rate", "error_rate",
        "amqp_channel_rate", "amqp_tenant_rate",
    )  # fmt: skip
    @classmethod
    def _is_rate(cls, value: str) -> str:
        parse_rate(value)
        return value

    @field_validator("failpoints")
    @classmethod
    def _are_points(cls, value: str) -> str:
        read_points(value)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.window > 0 and self.max_wait < self.window:
            raise ValueError(f"max_wait ({self.max_wait}) is shorter than window ({self.window})")
        return self

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

    # ------------------------------------------------------------ what follows from them

    @classmethod
    def load(cls, **values: Any) -> Self:
        """Read the environment and `.env`. Raises `ConfigurationError` that names every wrong value, and for an address
        of the file if a key from elsewhere would be sent there.
        """
        settings = cls._read_all(DEFAULT, values)
        settings._doubt(DEFAULT, values)
        return settings

    @classmethod
    def load_named(cls, file: Path, **values: Any) -> Self:
        """Read the environment and this file, for which whoever names it vouches. Raises `ConfigurationError`."""
        if not file.is_file():
            raise ConfigurationError(f"there is no file {str(file)[:200]!r} to read settings from")
        return cls._read_all(file, values)

    def _doubt(self, file: Path, values: Mapping[str, Any]) -> None:
        """Nobody says that this file is theirs."""
        names = {name: tuple(one.upper() for one in _names(field.validation_alias))
                 for name, field in type(self).model_fields.items()}  # fmt: skip
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
        """Raises `ConfigurationError` if a file that nobody named lets a model or a program act on this machine."""
        for field in sorted(self._doubtful_acts):
            name = next(_names(type(self).model_fields[field].validation_alias))
            raise ConfigurationError(
                f"{name} is set by {DEFAULT} of the working directory alone, which may be somebody else's: set it in "
                f"the environment, or say that the file is yours with --env-file {DEFAULT}"
            )

    @classmethod
    def _read_all(cls, file: Path, values: Mapping[str, Any]) -> Self:
        try:
            return cls(_env_file=file, **values)
        except ValidationError as error:
            raise ConfigurationError(_report(error)) from None
        except (SettingsError, RecursionError) as error:
            raise ConfigurationError(f"wrong settings: {_variable(cls, error)} must be JSON") from None
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"the file {file} cannot be read as UTF-8 text: {_kind(error)}") from None

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
        """The model of the default assistant, where it is set or only Anthropic can answer; None: the catalogue's."""
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


DEFAULT_CLAUDE = "claude-sonnet-5-5"


def parse_rate(value: str) -> tuple[int, float]:
    """`"20/10"` → 20 messages per 10 seconds; `"0"` → (0, 1): unlimited. Raises ValueError."""
    if value.strip() == "0":
        return 0, 1.0
    messages, _, over = value.partition("/")
    try:
        count, seconds = int(messages), float(over or 1)
    except ValueError:
        count, seconds = -1, 0.0
    if not 0 <= count <= MOST_OF_A_RATE or not MOST_OF_A_RATE >= seconds > 0:
        raise ValueError("expected MESSAGES/SECONDS, like 20/10")
    return count, seconds


MOST_OF_A_RATE = 1_000_000_000


def misspelt(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names that look like settings of ours and are none, each with the closest that is one (or "")."""
    settings = {name for field in Settings.model_fields.values() for name in _names(field.validation_alias)}
    for name in sorted({name.upper() for name in names}):
        if name.startswith("TURNKEEP_") and name not in settings:
            yield name, next(iter(difflib.get_close_matches(name, settings, n=1, cutoff=0.7)), "")


def _names(alias: object) -> Iterator[str]:
    if isinstance(alias, AliasChoices):
        yield from (str(choice) for choice in alias.choices)


def _readable(value: str | None) -> str | None:
    """Raises ValueError for a URL that whoever takes it apart could not."""
    if value is not None and "://" in value:
        try:
            parts = urlsplit(value)
            _ = parts.port, parts.hostname
        except ValueError:
            raise ValueError("this URL cannot be read, look at its brackets and its port") from None
    return value


def _address(value: str | None, *schemes: str) -> str | None:
    """Raises ValueError for what is no URL of these schemes with a host."""
    if value is None:
        return None
    if urlsplit(_readable(value) or "").scheme not in schemes or not (host := urlsplit(value).hostname):
        raise ValueError(f"expected a URL that begins with {' or '.join(f'{one}://' for one in schemes)} and a host")
    try:
        host.encode("idna")
    except UnicodeError:
        raise ValueError("the host is no name of a host, a part of it has at most 63 characters") from None
    return value


def _file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)[:200]!r}")
    return path


def _variable(settings: type[Settings], error: Exception) -> str:
    """The name of the variable whose value could not be parsed."""
    for name, field in settings.model_fields.items():
        if f'"{name}"' in str(error) and isinstance(field.validation_alias, AliasChoices):
            return str(field.validation_alias.choices[0])
    return str(error)


def _kind(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


_SECRET_WORDS = ("key", "secret", "password", "token", "url", "store", "proxy", "endpoint", "jwks")


def _report(error: ValidationError) -> str:
    """All problems, one a line: variable, value (secrets masked), what was expected."""
    lines = []
    for problem in error.errors():
        name = str(problem["loc"][0]) if problem["loc"] else "settings"
        is_secret = any(word in name.lower() for word in _SECRET_WORDS)
        shown_value = "" if not problem["loc"] else " = ***" if is_secret else f" = {problem['input']!r}"
        lines.append(f"{name}{shown_value}: {problem['msg'].removeprefix('Value error, ')}")
    return "wrong settings:\n  " + "\n  ".join(lines)
