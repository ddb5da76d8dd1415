"""TOML that a person wrote: prices, tools, sentences. Read in time that grows with its length."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any

_DEEP = re.compile(r"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){32}")
"""A key of more than 32 parts. The standard library needs a second for one of 9,000."""


def parse(text: str, *, parse_float: Callable[[str], Any] = float) -> dict[str, Any]:
    """The tables of this text.

    Raises ValueError for what is no TOML or too deep a key, RecursionError for arrays a thousand
    deep.
    """
    # Looked for before parsing: the time of the parser grows with the square of the parts.
    if (deep := _DEEP.search(text)) is not None:
        raise ValueError(f"a key of more than 32 parts (at character {deep.start()})")
    return tomllib.loads(text, parse_float=parse_float)
