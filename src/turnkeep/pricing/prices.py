"""What a request costs: exact, and never 0 for lack of a price.

A price is looked up in the person's own file first, then among the published ones. Where neither
knows the model, or the tier in which the provider says it served, the cost is unknown and says so.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from turnkeep.clock import Clock, SystemClock
from turnkeep.errors import ConfigurationError
from turnkeep.pricing import price_file
from turnkeep.pricing.catalog import without_date
from turnkeep.pricing.price_list import PublishedPrices
from turnkeep.pricing.rates import Price, Rates
from turnkeep.usage import Usage

Dollars = Annotated[Decimal, Field(ge=0)]

SIMULATOR = "simulator"
"""The model that a simulator says it is. It costs nothing."""

_FREE = Price(Rates(*[Decimal(0)] * 5), source="free")

_OWN_PRICES = 256
"""Models and tiers whose prices are remembered: answers may name any."""

_STANDARD = {None, "", "auto", "default", "standard"}


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
        self._own_price = functools.lru_cache(_OWN_PRICES)(self._find_own_price)
        self._published_prices = PublishedPrices(base_url)
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
        tier = None if tier in _STANDARD else tier
        if (own := self._own_price(model, tier)) is not None:
            return own.price
        return self._published_prices.price(model, tier, self._clock.now() if at is None else at)

    def cost(self, usage: Usage, model: str, tier: str | None = None, at: float | None = None) -> Usage:
        """The usage of one request with its cost, or counted as unpriced.

        `tier` is the one that the provider's answer names. Thresholds are per request: price each
        request, then add.
        """
        if not (usage.requests or usage.total_tokens):
            return usage
        price = self.price(model, tier, at)
        if price is None:
            # Unknown is said and counted. Taken for nothing it would pass every budget.
            return replace(usage, cost_nano=0, unpriced=max(usage.requests, 1))
        return replace(usage, cost_nano=price.nano(usage), unpriced=0)

    def _find_own_price(self, model: str, tier: str | None) -> _OwnPrice | None:
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
