"""What a run has used, and what that costs at a price. Usage is integers only, so that every engine can add it up
without rounding; a price is Decimal throughout, and rounds once, to a billionth of a dollar.
"""

from __future__ import annotations

from dataclasses import fields, replace
from decimal import ROUND_HALF_UP, Decimal
from operator import add, attrgetter
from typing import Any, Self

from turnkeep.lean_dataclass import dataclass

NANO = 1_000_000_000
MILLION = 1_000_000
MOST = 1_000_000_000
"""Tokens of one kind that a request can have used; a server that names more is not believed."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and money of one or more model requests; adds with `+`.

    `cost_nano` is in billionths of a US dollar and covers the priced requests only:
    `unpriced` counts those for which no price is known, so a total is exact exactly when
    `unpriced` is 0. `estimated` counts requests whose tokens we counted ourselves because the
    provider sent no usage.
    """

    requests: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nano: int = 0
    unpriced: int = 0
    estimated: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*map(add, _counts_of(self), _counts_of(other)))

    @classmethod
    def from_counts(cls, **counts: object) -> Self:
        """What a server says of one request. None is 0; where any count makes no sense, or there is
        none at all, one request that the caller has to estimate.
        """
        tokens = {name: 0 if count is None else count for name, count in counts.items()}
        # `type`, not isinstance: a server's `true` is an int to Python, and no count of tokens.
        sensible = all(type(count) is int and 0 <= count <= MOST for count in tokens.values())
        return cls(requests=1, **tokens) if sensible and any(tokens.values()) else cls(requests=1, estimated=1)  # type: ignore[arg-type]

    def with_cost(self, price: Price | None) -> Usage:
        """The usage of one request with what it costs at this price; without one it is counted as unpriced."""
        if not (self.requests or self.total_tokens):
            return self
        # Unknown is said and counted. Taken for nothing it would pass every budget.
        if price is None:
            return replace(self, cost_nano=0, unpriced=max(self.requests, 1))
        return replace(self, cost_nano=price.nano(self), unpriced=0)

    @property
    def cost(self) -> float | None:
        """US dollars, or None when any request has no known price (never 0 for lack of one)."""
        # Never a part of the sum: a budget that believes it would be overrun.
        return None if self.unpriced else self.cost_nano / NANO

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def to_json(self) -> dict[str, int]:
        return {name: value for name, value in zip(_NAMES, _counts_of(self), strict=True) if value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(*[int(data[name]) if name in data else 0 for name in _NAMES])


_NAMES = tuple(f.name for f in fields(Usage))
_counts_of = attrgetter(*_NAMES)


@dataclass(frozen=True, slots=True)
class Rates:
    """US dollars per million tokens of each kind."""

    input: Decimal
    cached: Decimal
    cache_write: Decimal
    output: Decimal
    reasoning: Decimal

    def times(self, factor: Decimal) -> Rates:
        return Rates(*(getattr(self, field.name) * factor for field in fields(Rates)))


@dataclass(frozen=True, slots=True)
class Price:
    """What one model costs in one service tier.

    A request with more input tokens than a threshold of `above` (ascending) is charged wholly at
    the rates that stand there. `request` is in US dollars per request. `source` says who knows it.
    """

    rates: Rates
    above: tuple[tuple[int, Rates], ...] = ()
    request: Decimal = Decimal(0)
    source: str = ""

    def rates_for(self, input_tokens: int) -> Rates:
        """The rates of a request of this length."""
        return next((rates for start, rates in reversed(self.above) if input_tokens > start), self.rates)

    def nano(self, usage: Usage) -> int:
        """Billionths of a dollar for one request.

        Cached and cache-write tokens are part of the input, reasoning tokens of the output, as in
        the provider's own reports.
        """
        rates = self.rates_for(usage.input_tokens)
        cache_read = min(usage.cached_tokens, usage.input_tokens)
        cache_write = min(usage.cache_write_tokens, usage.input_tokens - cache_read)
        # Bounded by the whole: counts are a server's, and a part above it would
        # make the rest negative.
        reasoning = min(usage.reasoning_tokens, usage.output_tokens)
        per_million = (
            (usage.input_tokens - cache_read - cache_write) * rates.input
            + cache_read * rates.cached
            + cache_write * rates.cache_write
            + (usage.output_tokens - reasoning) * rates.output
            + reasoning * rates.reasoning
        )
        dollars = per_million / MILLION + self.request * max(usage.requests, 1)
        return int((dollars * NANO).to_integral_value(ROUND_HALF_UP))
