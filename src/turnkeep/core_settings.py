"""What every installation decides: who answers, where state lives, what is listened on, and how
turns go. `settings` adds what some decide (limits, other dialects, access, tools, watching), and is
what everybody reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from turnkeep.messages import BusyPolicy
from turnkeep.setting_checks import SettingChecks, env

Role = Literal["all", "gateway", "worker"]
"""What a process of the service does: doors, answers, or both. Told to each process, so no setting."""

REDIS_LEASE = 8.0
"""Seconds. With a renewal every third of it and a claim within a second, an answer goes on within
ten after a kill.
"""


class CoreSettings(SettingChecks):
    """Model, store, doors and turns."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        populate_by_name=True,
        env_ignore_empty=True,
        allow_inf_nan=False,
        defer_build=True,  # nobody makes one of these: its validator would only make the import slower
    )

    # Section model
    openai_api_key: SecretStr | None = env(
        "OPENAI_API_KEY", default=None, doc="Key of the model API; without one the simulator answers."
    )
    openai_base_url: str | None = env("OPENAI_BASE_URL", default=None, doc="Base URL of an OpenAI-compatible server.")
    openai_model: str | None = env(
        *("OPENAI_MODEL", "ANTHROPIC_MODEL"),
        default=None,
        doc="Model of the default assistant (else the catalogue's default).",
    )
    openai_assistant_id: str | None = env(
        "OPENAI_ASSISTANT_ID", default=None, doc="Assistant that answers where no other is chosen."
    )
    openai_organization: str | None = env(
        "OPENAI_ORGANIZATION", "OPENAI_ORG_ID", default=None, doc="Organisation header."
    )
    openai_project: str | None = env("OPENAI_PROJECT", "OPENAI_PROJECT_ID", default=None, doc="Project header.")
    simulator: bool = env(
        "TURNKEEP_SIMULATOR",
        default=False,
        doc="Let the simulator answer without a model although credentials are asked for (`--simulator`).",
    )
    anthropic_api_key: SecretStr | None = env(
        *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
        default=None,
        doc="Key of Anthropic: it answers for models named claude…, or for all where no OPENAI_* names a server.",
    )
    anthropic_base_url: str | None = env(
        "ANTHROPIC_BASE_URL", default=None, doc="Base URL of a server that speaks Anthropic's Messages."
    )
    model_api: Literal["auto", "responses", "chat", "anthropic"] = env(
        "TURNKEEP_MODEL_API",
        default="auto",
        doc="Protocol of OPENAI_BASE_URL: Responses, Chat Completions, Anthropic's Messages, or by the server's name.",
    )
    model_capabilities: str = env(
        "TURNKEEP_MODEL_CAPABILITIES",
        default="",
        doc="Which model server this is and what it takes: `vllm, images=no` ([how](../how-to/models.md)).",
    )
    model_proxy: str | None = env("TURNKEEP_MODEL_PROXY", default=None, doc="HTTP proxy for model requests.")
    model_ca_file: Path | None = env(
        "TURNKEEP_MODEL_CA_FILE", default=None, doc="Certificate authorities for model requests."
    )
    first_event_timeout: float | None = env(
        "TURNKEEP_FIRST_EVENT_TIMEOUT",
        default=None,
        gt=0,
        doc="Seconds until the model's first event. Default: 60, and 240 where the server is in your own network.",
    )
    idle_timeout: float = env(
        "TURNKEEP_IDLE_TIMEOUT", default=30.0, gt=0, doc="Seconds of silence in a model's stream."
    )
    instructions: str = env(
        "TURNKEEP_INSTRUCTIONS",
        default="Reply to all messages logically.",
        doc="Instructions of the assistant that is created on first start.",
    )
    sentences_file: Path | None = env(
        "TURNKEEP_SENTENCES", default=None, doc="What people are told of errors, by cause or code (TOML)."
    )
    price_file: Path | None = env(
        "TURNKEEP_PRICE_FILE", default=None, doc="Prices that override the built-in ones (TOML or JSON)."
    )

    # Section store
    store: str | None = env(
        "TURNKEEP_STORE",
        default=None,
        doc="An SQLite file, `memory:`, or a Redis URL. Default: `REDIS_URL`, else .turnkeep/turnkeep.db.",
    )
    redis_url: str | None = env(
        "REDIS_URL",
        default=None,
        doc="Redis or Valkey that holds all state: redis://, rediss://, unix://, redis+sentinel://, redis+cluster://.",
    )
    # The seeds' prefix: a setup that was written for them goes on as it is.
    redis_prefix: str = env("REDIS_PREFIX", default="cosmo:", doc="First part of every Redis key.")
    partitions: int | None = env(
        "TURNKEEP_PARTITIONS",
        default=None,
        doc="Parts a new Redis store is cut into, a power of two from 16 to 1024; default: as it is, else 16.",
    )
    thread_expiry: float = env(
        "REDIS_THREAD_EXPIRY",
        "TURNKEEP_THREAD_EXPIRY",
        default=7_776_000.0,
        gt=0,
        doc="Seconds without activity after which an idle thread is forgotten.",
    )
    durability: Literal["fast", "standard", "strict"] = env(
        "TURNKEEP_DURABILITY", default="standard", doc="What a Redis receipt waits for."
    )
    replicas: int | None = env(
        "TURNKEEP_REPLICAS",
        default=None,
        ge=0,
        doc="Replicas of Redis that a strict answer waits for; unset: as many as were seen, never fewer.",
    )
    store_keys: SecretStr | None = env(
        "TURNKEEP_STORE_KEYS",
        default=None,
        doc="Keys that seal what people say before it is stored: `ID:BASE64` of 32 bytes, the newest first, with commas"
        " between.",
    )
    allow_unsafe_redis: bool = env(
        "TURNKEEP_ALLOW_UNSAFE_REDIS",
        default=False,
        doc="Start on a Redis without append-only file or with an evicting memory policy.",
    )
    allow_network_filesystem: bool = env(
        "TURNKEEP_ALLOW_NETWORK_FILESYSTEM",
        default=False,
        doc="Open a SQLite store on a file system of the network, from one machine alone.",
    )

    # Section doors
    host: str = env("TURNKEEP_HOST", default="127.0.0.1", doc="Address to listen on.")
    port: int = env("TURNKEEP_PORT", default=8080, ge=0, le=65535, doc="Port to listen on.")
    processes: int = env(
        "TURNKEEP_PROCESSES", default=1, ge=1, le=256, doc="Processes of `turnkeep serve` on one port."
    )
    url: str | None = env("TURNKEEP_URL", default=None, doc="Server that command line verbs talk to.")
    queue: str = env("TURNKEEP_QUEUE", default="assistant", min_length=1, doc="Queue of the service.")
    rabbitmq_url: str | None = env("RABBITMQ_URL", default=None, doc="RabbitMQ to take messages from.")
    queue_name: str = env("QUEUE_NAME", default="cosmo_queue", doc="AMQP queue.")
    routing_key: str = env("ROUTING_KEY", default="cosmo_key", doc="AMQP routing key.")
    exchange_name: str = env("EXCHANGE_NAME", default="cosmo_exchange", doc="AMQP exchange.")
    amqp_tenants: dict[str, str] = env(
        "TURNKEEP_AMQP_TENANTS", default={}, doc="Tenant by AMQP virtual host or user (JSON object)."
    )
    amqp_reply_exchange: str | None = env(
        "TURNKEEP_AMQP_REPLY_EXCHANGE", default=None, doc="AMQP exchange for final events."
    )
    websocket_url: str | None = env(
        "WEBSOCKET_URL", "WEBSOCKET_URI", default=None, doc="WebSocket server that every frame is relayed to."
    )
    webhook_url: str | None = env("TURNKEEP_WEBHOOK_URL", default=None, doc="Receiver of signed final events.")
    webhook_secret: SecretStr | None = env(
        "TURNKEEP_WEBHOOK_SECRET",
        default=None,
        doc="Key of the webhook signature: `whsec_` and base64 of 16 bytes or more; two with a blank, to exchange it.",
    )
    webhook_allow_private: bool = env(
        "TURNKEEP_WEBHOOK_ALLOW_PRIVATE", default=False, doc="Let webhooks reach private addresses."
    )

    # Section turns
    window: float = env(
        "TURNKEEP_WINDOW", default=1.5, ge=0, le=3600, doc="Seconds a thread waits for more after the last message."
    )
    max_wait: float = env("TURNKEEP_MAX_WAIT", default=8.0, ge=0, le=86400, doc="Seconds nobody waits longer than.")
    adaptive: bool = env(
        "TURNKEEP_ADAPTIVE", default=False, doc="Learn each channel's window from its rhythm (0.25 to 4 s)."
    )
    max_batch: int = env("TURNKEEP_MAX_BATCH", default=64, ge=1, le=1000, doc="Messages of one turn.")
    max_batch_bytes: int = env("TURNKEEP_MAX_BATCH_BYTES", default=256_000, ge=1, doc="Bytes of one turn.")
    on_busy: BusyPolicy = env("TURNKEEP_ON_BUSY", default="collect", doc="What a message asks of a busy thread.")
    max_attempts: int = env("TURNKEEP_MAX_ATTEMPTS", default=3, ge=1, doc="Failures of a batch until it is given up.")
    max_deaths: int = env(
        "TURNKEEP_MAX_DEATHS", default=10, ge=1, doc="Workers that may die on a batch until it is given up."
    )
    backoff_type: Literal["exponential", "fixed"] = env(
        "TURNKEEP_BACKOFF", default="exponential", doc="How retries are spread."
    )
    backoff_delay: float = env("TURNKEEP_BACKOFF_DELAY", default=5.0, ge=0, doc="Seconds of the first delay.")
    backoff_cap: float = env("TURNKEEP_BACKOFF_CAP", default=300.0, ge=0, doc="Longest delay in seconds.")
    concurrency: int = env("TURNKEEP_CONCURRENCY", default=256, ge=1, doc="Runs at once in one worker.")
    # Two values in one: unset is another lease on Redis, see `lease_duration`.
    lease: float = env(
        "TURNKEEP_LEASE",
        default=30.0,
        ge=0.2,
        doc="Seconds after which a silent worker loses its threads. Unset on Redis: 8.",
    )
    run_deadline: float = env("TURNKEEP_RUN_DEADLINE", default=300.0, gt=0, doc="Seconds of work a run may take.")
    drain: float = env("TURNKEEP_DRAIN", default=25.0, ge=0, doc="Seconds that runs may take to end at shutdown.")
    max_steps: int = env("TURNKEEP_MAX_STEPS", default=8, ge=1, doc="Model calls of one run.")
    max_calls: int = env("TURNKEEP_MAX_CALLS", default=16, ge=1, doc="Tool calls of one step.")
    parallel_tools: int = env("TURNKEEP_PARALLEL_TOOLS", default=8, ge=1, doc="Tool calls of one run at once.")
    action_expiry: float = env(
        "TURNKEEP_ACTION_EXPIRY", default=86_400.0, gt=0, doc="Seconds a requested action waits for its decision."
    )
    dedupe: float = env(
        "TURNKEEP_DEDUPE", default=604_800.0, gt=0, doc="Seconds a message id is remembered after its end."
    )
    history_items: int = env("TURNKEEP_HISTORY_ITEMS", default=2_000, ge=10, doc="Transcript entries kept of a thread.")
    history_bytes: int = env(
        "TURNKEEP_HISTORY_BYTES", default=4_000_000, ge=10_000, doc="Transcript bytes kept of a thread."
    )
    weights: dict[str, float] = env(
        "TURNKEEP_WEIGHTS", default={}, doc="Share of the workers by tenant (JSON object; default 1)."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.window > 0 and self.max_wait < self.window:
            raise ValueError(f"max_wait ({self.max_wait}) is shorter than window ({self.window})")
        return self
