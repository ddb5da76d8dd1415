"""Tokens, models, prices: what a request weighs, what is known of its model, what it costs."""

from turnkeep.pricing.catalog import Catalog, ModelFacts, ModelWarning
from turnkeep.pricing.prices import PriceBook, cost_of
from turnkeep.pricing.tokenizer import Tokenizer, item_tokens, tokenizer_for
from turnkeep.usage import Price, Rates

__all__ = [
    "Catalog",
    "ModelFacts",
    "ModelWarning",
    "Price",
    "PriceBook",
    "Rates",
    "Tokenizer",
    "cost_of",
    "item_tokens",
    "tokenizer_for",
]
