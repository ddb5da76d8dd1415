"""How long something is for a model, before it is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from turnkeep.conversation.role_messages import items_of
from turnkeep.messages import Item
from turnkeep.pricing.tokenizer import tokenizer_for


def count_tokens(what: str | Sequence[Mapping[str, Any] | Item], model: str) -> int:
    """The tokens of a text, or of a whole request of messages (``{"role": …, "content": …}``) with
    what surrounds each of them.

    Counted offline with the model's own vocabulary, which takes 0.3 s to load the first time; where
    it is not known, or `turnkeep[tokens]` is not installed, an estimate. Raises `InvalidMessage`.
    """
    tokenizer = tokenizer_for(model)
    if isinstance(what, str):
        return tokenizer.count(what)
    return tokenizer.count_items([item for message in what for item in items_of(message)])
