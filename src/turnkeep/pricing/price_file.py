"""A person's own facts and prices, in one file (TOML or JSON) that is laid over what is shipped.

default = "my-model"

[encodings]                      # name prefix -> encoding, for counting tokens
"my-" = "o200k_base"

[models."my-model"]              # keys as in models.toml
context = 32_768

[prices."my-model"]              # US dollars per million tokens; keys as in `PriceEntry` of
prices.py input = 0.5 output = 1.5
"""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from turnkeep import toml
from turnkeep.errors import ConfigurationError


class PricingFile(BaseModel):
    """What such a file may hold. Entries are looked at by those who use them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: str | None = None
    encodings: dict[str, Literal["o200k_base", "cl100k_base"]] = {}
    models: dict[str, dict[str, Any]] = {}
    prices: dict[str, dict[str, Any]] = {}


def read_price_file(path: Path) -> PricingFile:
    """The file, with numbers as written (Decimal, nothing rounded). Raises ConfigurationError."""
    try:
        return PricingFile.model_validate(_parse(path))
    except ValidationError as error:
        raise ConfigurationError(f"the file {path} is not understood: {sentence(error)}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the file {path} cannot be read: {error}") from error


def sentence(error: ValidationError) -> str:
    """The first thing wrong, as one line."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"])) or "the file"
    return f"{place}: {first['msg'][:1].lower()}{first['msg'][1:]}"


def _parse(path: Path) -> Any:
    text = path.read_text("utf-8")
    if path.suffix == ".toml":
        # As written: a float would make a price of 0.1 one that nobody charges.
        return toml.parse(text, parse_float=Decimal)
    return json.loads(text, parse_float=Decimal)
