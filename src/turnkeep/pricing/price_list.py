"""Published prices, from the tables inside the installed genai-prices. Nothing is downloaded."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING

from turnkeep.pricing.rates import Price, Rates

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelPrice, PriceCalculation, PriceVariant, TieredPrices

ARE_INSTALLED = importlib.util.find_spec("genai_prices") is not None
"""Without the extra ``prices`` no price is published here: costs are unknown, never 0."""

_OPENAI = "openai"
_ANTHROPIC = "anthropic"
_MINUTE = 60  # prices change at a date or a time of day, never within a minute
_RECENT = 256


class PublishedPrices:
    """Prices at the provider behind `base_url`.

    An address that is nobody's in the tables (a gateway, a simulator, none) counts as OpenAI: who
    serves ``gpt-4o`` there, serves OpenAI's, and who serves ``claude-…``, Anthropic's. Open weights
    have no such owner and stay without a price.
    """

    def __init__(self, base_url: str | None = None) -> None:
        self._base_url = base_url
        self._provider: str | None = None
        # Of the instance: a cache on the method would keep every book of prices alive.
        self._recent = functools.lru_cache(maxsize=_RECENT)(self._look_up)

    @property
    def are_loaded(self) -> bool:
        return not ARE_INSTALLED or _tables.cache_info().currsize > 0

    def load(self) -> None:
        """Read the tables now instead of at the first price; a process does that once."""
        if ARE_INSTALLED:
            _tables()

    def price(self, model: str, tier: str | None, at: float) -> Price | None:
        """The price at this moment, or None where the model or the tier has none.

        `tier` None: standard.
        """
        return self._recent(model, tier, int(at // _MINUTE)) if ARE_INSTALLED else None

    def _look_up(self, model: str, tier: str | None, minute: int) -> Price | None:
        calculation = self._find(model, tier, datetime.fromtimestamp(minute * _MINUTE, UTC))
        if (
            calculation is None
            or calculation.model_price.input_mtok is None
            or calculation.model_price.output_mtok is None
        ):
            return None
        return _price(calculation.model_price)

    def _find(self, model: str, tier: str | None, at: datetime) -> PriceCalculation | None:
        from genai_prices import Usage, calc_price  # noqa: PLC0415 - half a second that most commands never need

        provider = self._provider_id()
        # Who serves `claude-…` at an address that is nobody's, serves Anthropic's.
        if provider == _OPENAI and model.rpartition("/")[2].startswith("claude"):
            provider = _ANTHROPIC
        context = _context(tier)
        try:
            calculation = calc_price(
                Usage(), model, provider_id=provider, genai_request_timestamp=at, price_context=context
            )
        except LookupError:
            return None
        # Open weights: whoever serves them has a price of his own.
        if provider == _OPENAI and calculation.model.id.startswith("gpt-oss"):
            return None
        # An unknown tier would silently be priced as standard.
        if context and not _is_offered(calculation.model.price_variants or (), context, at):
            return None
        return calculation

    def _provider_id(self) -> str:
        if self._provider is None:
            self._provider = _provider_at(self._base_url)
        return self._provider


@functools.cache
def _tables() -> DataSnapshot:
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 - see above

    return get_snapshot()


def _provider_at(base_url: str | None) -> str:
    try:
        return _tables().find_provider(None, None, base_url).id
    except LookupError:
        return _OPENAI


def _context(tier: str | None) -> dict[str, str]:
    if tier is None:
        return {}
    return {{"batch": "processing", "fast": "speed"}.get(tier, "service_tier"): tier}


def _is_offered(variants: Iterable[PriceVariant], context: dict[str, str], at: datetime) -> bool:
    return any(
        variant.when == context and (variant.constraint is None or variant.constraint.active(at))
        for variant in variants
    )


def _price(prices: ModelPrice) -> Price:
    keys = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok", "output_reasoning_mtok")
    table = {key: getattr(prices, key) for key in keys}
    starts = sorted({tier.start for value in table.values() for tier in getattr(value, "tiers", ())})
    per_thousand = prices.requests_kcount
    return Price(
        rates=_rates(table, 0),
        above=tuple((start, _rates(table, start + 1)) for start in starts),
        request=per_thousand / 1000 if isinstance(per_thousand, Decimal) else Decimal(0),
        source=f"genai-prices {version('genai-prices')}",
    )


def _rates(table: dict[str, Decimal | TieredPrices | None], input_tokens: int) -> Rates:
    """What has no price of its own costs what the whole it belongs to costs."""
    value = {key: _at(price, input_tokens) for key, price in table.items()}
    base, output = value["input_mtok"], value["output_mtok"]
    assert base is not None and output is not None  # noqa: S101, PT018 - looked at before
    cache_read, cache_write, reasoning = (
        value[key] for key in ("cache_read_mtok", "cache_write_mtok", "output_reasoning_mtok")
    )
    return Rates(
        input=base,
        cached=base if cache_read is None else cache_read,
        cache_write=base if cache_write is None else cache_write,
        output=output,
        reasoning=output if reasoning is None else reasoning,
    )


def _at(price: Decimal | TieredPrices | None, input_tokens: int) -> Decimal | None:
    if price is None or isinstance(price, Decimal):
        return price
    return next((tier.price for tier in reversed(price.tiers) if input_tokens > tier.start), price.base)
