"""What a request costs: exact, and never 0 for lack of a price.

A price is looked up in the person's own file first, then among the published ones (the tables
inside the installed genai-prices: nothing is downloaded). Where neither knows the model, or the
tier in which the provider says it served, the cost is unknown and says so. Decimal throughout:
rounded once, to a billionth of a dollar.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from turnkeep.clock import Clock, SystemClock
from turnkeep.errors import ConfigurationError
from turnkeep.lean_dataclass import dataclass
from turnkeep.pricing import price_file
from turnkeep.pricing.catalog import without_date
from turnkeep.usage import Price, Rates, Usage

if TYPE_CHECKING:
    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelPrice, PriceCalculation, PriceVariant, TieredPrices

ARE_INSTALLED = importlib.util.find_spec("genai_prices") is not None
"""Without the extra ``prices`` no price is published here: costs are unknown, never 0."""

_OPENAI = "openai"
_ANTHROPIC = "anthropic"
PRICE_PERIOD = 60
"""Seconds. Prices change at a date or a time of day, never within one of them."""
_RECENT = 256
"""Prices that are remembered: answers may name any model and tier."""

Dollars = Annotated[Decimal, Field(ge=0)]

SIMULATOR = "simulator"
"""The model that a simulator says it is. It costs nothing."""

_STANDARD = {None, "", "auto", "default", "standard"}

_FREE = Price(Rates(*[Decimal(0)] * 5), source="free")


class PublishedPrices:
    """Prices at the provider behind `base_url`.

    An address that is nobody's in the tables (a gateway, a simulator, none) counts as OpenAI: who
    serves ``gpt-4o`` there, serves OpenAI's, and who serves ``claude-…``, Anthropic's. Open weights
    have no such owner and stay without a price.
    """

    def __init__(self, base_url: str | None = None) -> None:
        self._base_url = base_url
        self._provider: str | None = None

    @property
    def are_loaded(self) -> bool:
        return not ARE_INSTALLED or _tables.cache_info().currsize > 0

    def load(self) -> None:
        """Read the tables now instead of at the first price; a process does that once."""
        if ARE_INSTALLED:
            _tables()

    def price(self, model: str, tier: str | None, period: int) -> Price | None:
        """The price in this period, or None where the model or the tier has none.

        `tier` None: standard.
        """
        begin = datetime.fromtimestamp(period * PRICE_PERIOD, UTC)
        calculation = self._find(model, tier, begin) if ARE_INSTALLED else None
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


class RateEntry(BaseModel):
    """US dollars per million tokens. What is not given costs what the whole it belongs to costs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    input: Dollars
    output: Dollars
    cached: Dollars | None = None
    cache_write: Dollars | None = None
    reasoning: Dollars | None = None

    def rates(self) -> Rates:
        return Rates(
            input=self.input,
            cached=self.input if self.cached is None else self.cached,
            cache_write=self.input if self.cache_write is None else self.cache_write,
            output=self.output,
            reasoning=self.output if self.reasoning is None else self.reasoning,
        )


class AboveEntry(RateEntry):
    """The rates of a request with more input tokens than this."""

    input_tokens: Annotated[int, Field(gt=0)]


class TierEntry(RateEntry):
    """The rates of one service tier."""

    above: tuple[AboveEntry, ...] = ()


class PriceEntry(TierEntry):
    """One model in a person's price file.

    A tier is a factor on all rates, or has rates of its own.
    """

    request: Dollars = Decimal(0)
    tiers: dict[str, Dollars | TierEntry] = {}

    def price(self, tier: str | None, source: str) -> Price | None:
        """The price in a tier; None where it is not given."""
        own: Decimal | TierEntry | None = self if tier is None else self.tiers.get(tier)
        if own is None:
            return None
        base, factor = (self, own) if isinstance(own, Decimal) else (own, Decimal(1))
        steps = sorted(base.above, key=lambda step: step.input_tokens)
        return Price(
            rates=base.rates().times(factor),
            above=tuple((step.input_tokens, step.rates().times(factor)) for step in steps),
            request=self.request * factor,
            source=source,
        )


@dataclass(frozen=True, slots=True)
class _OwnPrice:
    """What a person's file says of a model in a tier; None: that there is no such tier."""

    price: Price | None


class PriceBook:
    """All prices this process knows.

    `base_url` says whose prices count where several sell a model.
    """

    def __init__(self, override: Path | None = None, *, base_url: str | None = None, clock: Clock | None = None):
        self._source = override.name if override else ""
        self._own = _entries(override) if override else {}
        self._published_prices = PublishedPrices(base_url)
        # Of the instance: a cache on the method would keep every book of prices alive.
        self.price_in = functools.lru_cache(_RECENT)(self._find_price)
        """`price_in(period, model, tier)`: the price in a period since 1970, found once in it."""
        self._clock = clock or SystemClock()

    @property
    def is_loaded(self) -> bool:
        """Whether a price stops nobody any more."""
        return self._published_prices.are_loaded

    def read_tables(self) -> None:
        """Read the published tables (0.2 s) instead of at the first price; at once when that was done."""
        self._published_prices.load()

    async def load(self) -> None:
        """The same in a thread: the first price would stop the event loop."""
        if not self.is_loaded:
            await asyncio.to_thread(self.read_tables)

    def price(self, model: str, tier: str | None = None, at: float | None = None) -> Price | None:
        """The price in a service tier at a moment (Unix seconds; now), or None: unknown."""
        return self.price_in(int((self._clock.now() if at is None else at) // PRICE_PERIOD), model, tier)

    def cost(self, usage: Usage, model: str, tier: str | None = None, at: float | None = None) -> Usage:
        """The usage of one request with its cost, or counted as unpriced.

        `tier` is the one that the provider's answer names. Thresholds are per request: price each
        request, then add.
        """
        return usage.with_cost(self.price(model, tier, at))

    def _find_price(self, period: int, model: str, tier: str | None) -> Price | None:
        tier = None if tier in _STANDARD else tier
        if (own := self._own_price(model, tier)) is not None:
            return own.price
        return self._published_prices.price(model, tier, period)

    def _own_price(self, model: str, tier: str | None) -> _OwnPrice | None:
        entry = self._entry(model.lower())
        if entry is not None:
            return _OwnPrice(entry.price(tier, self._source))
        return _OwnPrice(_FREE) if model == SIMULATOR else None

    def _entry(self, model: str) -> PriceEntry | None:
        """By name, by the name without its date, by the longest ``prefix*``."""
        for name in (model, without_date(model)):
            if entry := self._own.get(name):
                return entry
        stars = [key for key in self._own if key.endswith("*") and model.startswith(key[:-1])]
        return self._own[max(stars, key=len)] if stars else None


def cost_of(usage: Usage, model: str, *, tier: str | None = None) -> float | None:
    """US dollars of what a model has used, or will: `cost_of(Usage(input_tokens=1_000), "gpt-4o")`.

    By published prices, which are as old as this release; None where none is known, never 0. With
    prices of your own: `PriceBook(file).cost`.
    """
    return _published_book().cost(replace(usage, requests=usage.requests or 1), model, tier).cost


@functools.cache
def _published_book() -> PriceBook:
    return PriceBook()


def _entries(path: Path) -> Mapping[str, PriceEntry]:
    return {
        name.lower(): _read_entry(path, name, data) for name, data in price_file.read_price_file(path).prices.items()
    }


def _read_entry(path: Path, name: str, data: Mapping[str, Any]) -> PriceEntry:
    try:
        return PriceEntry.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError(f"the price of {name} in {path}: {price_file.sentence(error)}") from error
