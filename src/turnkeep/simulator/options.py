"""What can be turned on a simulator: its pace and its ways."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from turnkeep.lean_dataclass import dataclass

Abort = Literal["discard", "orphan", "finish"]
DAY = 86_400.0

_NUMBERS = (
    *("lock_release_delay", "persistence_lag", "queue_delay"),
    *("stream_expiry", "response_ttl", "unstored_ttl", "keep_responses", "max_body"),
)
_NUMBERS_OR_NONE = ("context_tokens", "ping", "requests_per_minute")
_WORDS = {"on_abort": ("discard", "orphan", "finish"), "region": ("us", "eu")}


@dataclass(frozen=True, slots=True)
class StreamPace:
    """Seconds before the first token and between tokens. Zero, the default, is for tests."""

    first: float = 0.0
    token: float = 0.0

    @classmethod
    def lively(cls) -> Self:
        """As a person expects it: what `turnkeep dev` uses."""
        return cls(first=0.15, token=0.02)


@dataclass(frozen=True, slots=True)
class Options:
    """The ways of one simulator; all may be changed while it runs.

    `on_abort` says what becomes of a response bound to a conversation when its stream is cut by
    the client: ``discard`` (the conversation holds nothing of the turn although the response
    says completed), ``orphan`` (input and finished items are there, a function call perhaps
    without its output) or ``finish`` (it goes on and appears later). `persistence_lag` delays
    the moment when appended items can be listed, `lock_release_delay` the moment when a
    conversation accepts the next response.
    """

    quirk: str = "openai"
    answers_as: str | None = None
    """The model that is said to have answered; None: the one that was asked."""
    api_keys: frozenset[str] | None = None
    strict_models: bool = False
    context_tokens: int | None = None
    max_body: int = 64 * 1024 * 1024
    # On by default, as at the platform: padding costs whoever does not ask to be spared.
    obfuscation: bool = True
    split: bool = False
    ping: float | None = None
    # Reported of the platform: nothing of the turn is there (openai-python#3561), or a call without
    # its output, after which every further turn is refused (openai-agents-js#1190).
    on_abort: Abort = "discard"
    lock_release_delay: float = 0.0
    persistence_lag: float = 0.0
    metadata_needs_store: bool = False
    """Chat Completions of the platform refuse metadata unless `store` is true."""
    region: Literal["us", "eu"] = "us"
    queue_delay: float = 0.0
    stream_expiry: float = 300.0
    response_ttl: float = 30 * DAY
    # Background needs storage even with `store: false`; the platform says about ten minutes.
    unstored_ttl: float = 600.0
    keep_responses: int = 10_000
    requests_per_minute: int | None = None
    ledger_limit: int | None = None
    ledger_file: Path | None = None
    keep_bodies: bool = False

    def but(self, changes: Mapping[str, Any]) -> Self:
        """A copy with other values; raises ValueError with a sentence for names and types
        that do not exist.
        """
        current = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in changes.items():
            # The ledger is open already.
            if name not in current or name in ("ledger_limit", "ledger_file"):
                raise ValueError(f"there is no option {name!r} that can be changed now")
            if not _fits(value, name):
                raise ValueError(f"option {name!r} does not take {value!r}")
        values: dict[str, Any] = {
            k: frozenset(v) if k == "api_keys" and v is not None else v for k, v in changes.items()
        }
        return replace(self, **values)


def _fits(value: object, name: str) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0
    if name in _NUMBERS:
        return number
    if name in _NUMBERS_OR_NONE:
        return value is None or number
    if name in _WORDS:
        return value in _WORDS[name]
    if name == "quirk":
        return isinstance(value, str)
    if name == "answers_as":
        return value is None or isinstance(value, str)
    if name == "api_keys":
        return value is None or (isinstance(value, list) and all(isinstance(key, str) for key in value))
    return isinstance(value, bool)
