"""A price, and what a request costs at it.

Decimal throughout: rounded once, to a billionth of a dollar.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import ROUND_HALF_UP, Decimal

from turnkeep.usage import NANO, Usage

_MILLION = 1_000_000


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
        dollars = per_million / _MILLION + self.request * max(usage.requests, 1)
        return int((dollars * NANO).to_integral_value(ROUND_HALF_UP))
