"""Every setting as a typed keyword, for the constructors that take them beside their own.

None is as if it was not given. Made by `scripts/setting_types.py` from the settings; a test compares it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

from pydantic import SecretStr

from turnkeep.messages import BusyPolicy


class SharedSettings(TypedDict, total=False):
    """What every constructor takes."""

    openai_base_url: str | None
    openai_model: str | None
    openai_assistant_id: str | None
    openai_organization: str | None
    openai_project: str | None
    simulator: bool | None
    anthropic_api_key: str | SecretStr | None
    anthropic_base_url: str | None
    model_api: Literal["auto", "responses", "chat", "anthropic"] | None
    model_capabilities: str | None
    model_proxy: str | None
    model_ca_file: str | Path | None
    first_event_timeout: float | None
    idle_timeout: float | None
    instructions: str | None
    sentences_file: str | Path | None
    price_file: str | Path | None
    redis_prefix: str | None
    partitions: int | None
    thread_expiry: float | None
    durability: Literal["fast", "standard", "strict"] | None
    replicas: int | None
    store_keys: str | SecretStr | None
    allow_unsafe_redis: bool | None
    allow_network_filesystem: bool | None
    host: str | None
    port: int | None
    processes: int | None
    url: str | None
    queue: str | None
    rabbitmq_url: str | None
    queue_name: str | None
    routing_key: str | None
    exchange_name: str | None
    amqp_tenants: Mapping[str, str] | None
    amqp_reply_exchange: str | None
    websocket_url: str | None
    webhook_url: str | None
    webhook_secret: str | SecretStr | None
    webhook_allow_private: bool | None
    max_batch: int | None
    max_batch_bytes: int | None
    max_deaths: int | None
    backoff_type: Literal["exponential", "fixed"] | None
    backoff_delay: float | None
    backoff_cap: float | None
    lease: float | None
    run_deadline: float | None
    drain: float | None
    max_steps: int | None
    max_calls: int | None
    parallel_tools: int | None
    action_expiry: float | None
    dedupe: float | None
    history_items: int | None
    history_bytes: int | None
    weights: Mapping[str, float] | None
    max_message_bytes: int | None
    max_frame_bytes: int | None
    max_inbox: int | None
    amqp_max_inbox: int | None
    amqp_channel_rate: str | None
    amqp_tenant_rate: str | None
    channels_per_socket: int | None
    sockets_per_user: int | None
    bodies_per_user: int | None
    max_connections: int | None
    connections_per_peer: int | None
    channel_rate: str | None
    user_rate: str | None
    tenant_rate: str | None
    request_rate: str | None
    tenant_request_rate: str | None
    error_rate: str | None
    max_threads: int | None
    requests_per_minute: int | None
    tokens_per_minute: int | None
    tenant_budget: float | None
    user_budget: float | None
    thread_budget: float | None
    budget_period: Literal["hour", "day", "month"] | None
    openai_conversations: Literal["named", "any"] | None
    openai_history: Literal["refuse", "fresh"] | None
    openai_runs: Literal["kind", "strict"] | None
    insecure_no_auth: bool | None
    auth: Literal["off", "on"] | None
    start_token: str | SecretStr | None
    jwt_secret: str | SecretStr | None
    jwt_key: str | None
    jwt_jwks: str | None
    jwt_jwks_ttl: float | None
    jwt_algorithms: Sequence[Literal["HS256", "EdDSA", "ES256", "ES384", "RS256"]] | None
    jwt_audience: str | None
    jwt_issuer: str | None
    jwt_leeway: float | None
    jwt_claims: Mapping[Literal["sub", "tenant", "scope", "channels"], str] | None
    client_instructions: bool | None
    file_ids: bool | None
    origins: Sequence[str] | None
    proxies: Sequence[str] | None
    first_frame_auth: bool | None
    hosts: Sequence[str] | None
    worker_port: int | None
    openweather_api_key: str | SecretStr | None
    openweather_url: str | None
    tools_file: str | Path | None
    allow_bash: bool | None
    sandbox: Literal["bubblewrap", "outside"] | None
    workspace_quota: int | None
    workspace_free: int | None
    tenant_tools: Mapping[str, Sequence[str]] | None
    tenant_tool_files: Mapping[str, str | Path] | None
    tenant_workspaces: str | Path | None
    log_level: Literal["debug", "info", "warning", "error"] | None
    log_format: Literal["auto", "json", "console"] | None
    failpoints: str | None
    otel_endpoint: str | None


class QueueSettings(SharedSettings, total=False):
    """And what has no parameter of its own there."""

    workspace: str | Path | None


class ServiceSettings(SharedSettings, total=False):
    """And what has no parameter of its own there."""

    openai_api_key: str | SecretStr | None
    redis_url: str | None
    window: float | None
    max_wait: float | None
    adaptive: bool | None
    on_busy: BusyPolicy | None
    max_attempts: int | None
    concurrency: int | None
