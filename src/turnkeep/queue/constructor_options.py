"""From the options of the constructor, in the names of the seeds, to settings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from turnkeep.errors import ConfigurationError
from turnkeep.option_names import load_options
from turnkeep.seconds import SecondsLimit
from turnkeep.settings import Settings
from turnkeep.spelling import strangers_sentence
from turnkeep.thread_options import PRESETS, Preset

OPTION_FIELDS: Mapping[str, tuple[str, ...]] = {
    "assistant_id": ("openai_assistant_id",),
    "base_url": ("openai_base_url",),
    "model": ("openai_model",),
    "queue_prefix": ("queue",),
    "default_instructions": ("instructions",),
    "lock_duration": ("run_deadline",),
    "message_delay": ("window", "max_wait"),
    "backoff": ("backoff_type", "backoff_delay", "backoff_cap"),
}
"""The settings behind the options that have another name."""

MESSAGE_DELAY = SecondsLimit(120.0, "window", longest=3_600.0)
LOCK_DURATION = SecondsLimit(3_600.0, "run_deadline")
BACKOFF_DELAY = SecondsLimit(300.0, "backoff_delay")
BACKOFF_CAP = SecondsLimit(7_200.0, "backoff_cap")
TWO_NAMES = ("assistant_id", "base_url", "model")
"""Options without a default: whether they were given can be told."""
TIMES = ("message_delay", "lock_duration")


class BackoffOptions(TypedDict, total=False):
    """How attempts are spread: ``exponential`` or ``fixed``, the first delay and the
    longest one, in seconds.
    """

    type: str
    delay: float
    cap: float


def settings_of(values: Mapping[str, Any], settings: Mapping[str, Any], *, has_delay: bool) -> Settings:
    """The settings that these options and settings are. Raises `ConfigurationError`. `has_delay`: the
    window is the fixed delay.
    """
    options = {name: fields for name, fields in OPTION_FIELDS.items() if has_delay or name != "message_delay"}
    aliases = {field: name for name, fields in options.items() for field in fields}
    return load_options(values, settings, aliases, exclusive=[OPTION_FIELDS[name][0] for name in TWO_NAMES])


def check_store(store: object) -> None:
    """Raises `ConfigurationError`."""
    if store is not None and not isinstance(store, str | Path) and not hasattr(store, "accept"):
        raise ConfigurationError(
            f"store is of type {type(store).__name__}: give the path of an SQLite file, 'memory:', a Redis URL, or a "
            "store of turnkeep"
        )


def window_of(
    delay: float | None, preset: Preset | None, window: float | None, max_wait: float | None
) -> dict[str, Any]:
    """A fixed delay is a window that does not slide: it ends `delay` after the first message."""
    if window is not None:
        # what is no number is refused with all else that is wrong
        longest = max(window, 8.0) if isinstance(window, int | float) else None
        return {"window": window, "max_wait": longest if max_wait is None else max_wait}
    if preset is not None:
        if preset not in PRESETS:
            raise ConfigurationError(f"there is no preset {preset!r}, choose from {', '.join(PRESETS)}")
        usual, longest = PRESETS[preset]
        return {"window": usual, "max_wait": longest if max_wait is None else max_wait}
    MESSAGE_DELAY.check("message_delay", delay)
    return {} if delay is None else {"window": delay, "max_wait": delay if max_wait is None else max_wait}


def backoff_of(backoff: BackoffOptions | None) -> dict[str, Any]:
    """Raises `ConfigurationError`."""
    if backoff is None:
        return {}
    if not isinstance(backoff, Mapping):
        raise ConfigurationError(f"backoff={backoff!r}: it takes an object, as {{'type': 'exponential', 'delay': 5.0}}")
    names = [*BackoffOptions.__annotations__]
    if strangers := [name for name in backoff if name not in names]:
        raise ConfigurationError(strangers_sentence("backoff", strangers, names))
    BACKOFF_DELAY.check("backoff delay", backoff.get("delay"))
    BACKOFF_CAP.check("backoff cap", backoff.get("cap"))
    return {f"backoff_{name}": value for name, value in backoff.items()}
