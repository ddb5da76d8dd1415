"""Names that do not exist, all of them in one sentence, each with the name that was meant.

Who comes from TypeScript writes `redisUrl`; who types fast writes `redis_ur`. A name that is
swallowed is the worst answer: the program runs with what nobody has chosen.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LIKE = 0.75
"""How alike two names are of which one may be meant for the other (0 to 1)."""
SHORTEST_END = 5
"""Characters from which on the end of a name is enough to know it by: `apiKey`."""

NO_ADVICE = "there is none with a name like it"
FEW = 16
"""Options that can all be told where one was not understood."""


def plain_name(name: str) -> str:
    """The same for `redisUrl`, `redis_url` and `REDIS_URL`."""
    return name.replace("_", "").replace("-", "").lower()


def meant_name(name: str, options: Iterable[str]) -> str | None:
    """The option that this name was meant for; the first ones are the likeliest."""
    names = {plain_name(one): one for one in reversed([*options])}
    plain = plain_name(name)
    if plain in names:
        return names[plain]
    if close := difflib.get_close_matches(plain, names, n=1, cutoff=LIKE):
        return names[close[0]]
    if len(plain) < SHORTEST_END:
        return None
    return next((one for other, one in reversed(names.items()) if other.endswith(plain)), None)


def strangers_sentence(taker: str, strangers: Iterable[str], options: Iterable[str]) -> str:
    """What is said of names that `taker` does not take."""
    names = [*options]
    advice = {name: _advice(name, meant_name(name, names)) for name in strangers}
    lines = [f"  {name[:80]}: {sentence}" for name, sentence in advice.items()]
    if NO_ADVICE in advice.values() and len(names) <= FEW:
        lines.append(f"It takes {', '.join(names)}.")
    return f"{taker} has no option of {'this name' if len(advice) == 1 else 'these names'}:\n" + "\n".join(lines)


def _advice(name: str, nearest: str | None) -> str:
    if nearest is None:
        return NO_ADVICE
    return f"use {nearest}" if plain_name(name) == plain_name(nearest) else f"did you mean {nearest}?"
