"""When a failed request of a direct call is made again."""

from __future__ import annotations

from collections.abc import Mapping

from turnkeep.backoff import Backoff
from turnkeep.errors import (
    AnswerMalformed,
    ConfigurationError,
    ModelError,
    ModelRateLimited,
    ModelTimedOut,
    ModelUnavailable,
)
from turnkeep.lean_dataclass import dataclass
from turnkeep.seconds import SecondsLimit

_RATE, _SERVER = (ModelRateLimited,), (ModelUnavailable, AnswerMalformed)
_SLOW, _LINE = (ModelTimedOut,), (ModelUnavailable, ModelTimedOut, AnswerMalformed)

ERRORS: Mapping[str, tuple[type[ModelError], ...]] = {
    **dict.fromkeys(("rate_limit", "rate_limit_exceeded", "rate_limit_error", "429"), _RATE),
    **dict.fromkeys(
        ("server_error", "internal_error", "service_unavailable", "overloaded", "500", "502", "503"), _SERVER
    ),
    **dict.fromkeys(("timeout", "etimedout", "504"), _SLOW),
    **dict.fromkeys(("connection_error", "network_error", "econnreset", "econnrefused"), _LINE),
    **{kind.code: (kind,) for kind in (ModelRateLimited, ModelUnavailable, ModelTimedOut, AnswerMalformed)},
}
"""The names under which errors may be listed as retryable, in any case.

All others are the same the next time.
"""

INITIAL_DELAY = SecondsLimit(120.0)
LONGEST_DELAY = SecondsLimit(3_600.0)


@dataclass(frozen=True, slots=True)
class RetryConfig:
    """How often a request is made again, and after how many seconds (full jitter, at most
    `max_delay`).

    Where the provider names a time to wait, that counts. An answer that was partly shown begins
    anew: the next ``content`` chunk replaces it.
    """

    max_retries: int = 3
    initial_delay: float = 1.0
    max_delay: float = 30.0
    backoff_factor: float = 2.0
    retryable_errors: tuple[str, ...] = ("rate_limit", "server_error", "timeout", "connection_error")

    def __post_init__(self) -> None:
        INITIAL_DELAY.check("initial_delay", self.initial_delay)
        LONGEST_DELAY.check("max_delay", self.max_delay)
        if self.max_retries < 0 or self.initial_delay < 0 or self.max_delay < 0 or self.backoff_factor < 1:
            raise ConfigurationError("retries need numbers of 0 or more, and a backoff_factor of 1 or more")
        if strangers := [name for name in self.retryable_errors if name.lower() not in ERRORS]:
            raise ConfigurationError(
                f"no errors are called {', '.join(strangers)}; there are {', '.join(sorted(ERRORS))}"
            )

    @property
    def backoff(self) -> Backoff:
        return Backoff("exponential", self.initial_delay, self.backoff_factor, self.max_delay)

    def again(self, error: ModelError, failures: int) -> float | None:
        """Seconds until the request is made again after so many failures; None: it is not."""
        kinds = tuple(kind for name in self.retryable_errors for kind in ERRORS[name.lower()])
        if failures > self.max_retries or not error.retryable or not isinstance(error, kinds):
            return None
        return self.backoff.after(failures) if error.retry_after is None else error.retry_after
