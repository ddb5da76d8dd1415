"""Where state lives: one `contract`, engines that keep it, and the rules they share (`rules_accept`
…).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from turnkeep.errors import ConfigurationError
from turnkeep.settings import Settings
from turnkeep.store.aes import codec_of
from turnkeep.store.contract import Store
from turnkeep.store.sealing import require_unsealed, seal_store
from turnkeep.store.values import Policies, Policy

__all__ = ["Policies", "Policy", "Store", "open_store", "seal_store", "store_of"]

_REDIS = ("redis", "rediss", "valkey", "valkeys", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster")


def open_store(url: str, policies: Policies | None = None, **options: Any) -> Store:
    """The engine that a URL names, with its options, not opened yet.

    ``memory:`` · ``sqlite:PATH`` (``sqlite:`` alone: the default file) · ``redis://…`` and its
    relatives. Raises `ConfigurationError` for any other, and with the command to run when the
    engine's extra is not installed.
    """
    scheme, _, rest = url.partition(":")
    policies_or_default = policies or Policies()
    if scheme == "memory":
        return _memory(policies_or_default, options)
    if scheme == "sqlite":
        return _sqlite(rest, policies_or_default, options)
    if scheme in _REDIS:
        return _redis(url, policies_or_default, options)
    raise ConfigurationError(f"no engine for a store at {_public_url(url)!r}, use memory:, sqlite:PATH or redis://HOST")


def store_of(settings: Settings, policies: Policies) -> Store:
    """The engine that settings name, with the options it takes from them, sealed if they hold keys,
    not opened yet.
    """
    engine = _engine_of(settings, policies)
    if settings.store_keys is None:
        return require_unsealed(engine)
    return seal_store(engine, codec_of(settings.store_keys.get_secret_value()))


def _engine_of(settings: Settings, policies: Policies) -> Store:
    if settings.store_url.startswith("memory:"):
        return open_store(settings.store_url, policies)
    if settings.store_url.startswith("sqlite:"):
        on_network = settings.allow_network_filesystem
        return open_store(settings.store_url, policies, allow_network_filesystem=on_network)
    return open_store(
        settings.store_url,
        policies,
        prefix=settings.redis_prefix,
        partitions=settings.partitions,
        durability=settings.durability,
        replicas=settings.replicas,
        allow_unsafe=settings.allow_unsafe_redis,
    )


def _memory(policies: Policies, options: dict[str, Any]) -> Store:
    # Imported where it is opened: an engine brings a library, and its extra may be absent.
    from turnkeep.store.memory import MemoryStore

    return MemoryStore(policies, **options)


def _sqlite(rest: str, policies: Policies, options: dict[str, Any]) -> Store:
    from turnkeep.store.sqlite import SqliteStore

    path = Path(rest.removeprefix("//") or ".turnkeep/turnkeep.db")
    return SqliteStore(path, policies, **options)


def _redis(url: str, policies: Policies, options: dict[str, Any]) -> Store:
    try:
        from turnkeep.store.redis import RedisStore
    except ModuleNotFoundError as missing:
        # Only when it is the extra itself: a broken
        # installation must not be called a missing extra.
        if (missing.name or "").partition(".")[0] in ("redis", "hiredis"):
            raise ConfigurationError(
                "the redis engine is not installed, run: python -m pip install 'turnkeep[redis]'"
            ) from missing
        raise
    return RedisStore(url, policies, **options)


def _public_url(url: str) -> str:
    """A URL without its user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
