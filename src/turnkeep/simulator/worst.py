"""The worst calls a model can emit: what a hijacked or broken one would do with the tools it was
given.
"""

from __future__ import annotations

from collections.abc import Sequence

import orjson

MEGABYTE = 1_000_000
MANY = 50
WORST_KINDS = ("unknown", "huge", "many", "duplicate", "invalid", "hostile", "shape")

WorstCall = tuple[str, str, str | None]


def calls(names: Sequence[str], kind: str) -> list[WorstCall]:
    """Name, arguments and, where it matters, the call id. Without a kind: fifty calls with
    everything among them.
    """
    name = names[0] if names else "anything"
    if kind == "many":
        return [(name, "{}", None)] * MANY
    if kind in WORST_KINDS:
        return _one(name, kind)
    bad = [call for each in WORST_KINDS if each != "many" for call in _one(name, each)]
    return bad + [(name, "{}", None)] * (MANY - len(bad))


def _one(name: str, kind: str) -> list[WorstCall]:
    if kind == "unknown":
        return [("drop_all_tables", "{}", None)]
    if kind == "huge":
        return [(name, orjson.dumps({"text": "x" * MEGABYTE}).decode(), None)]
    if kind == "duplicate":
        return [(name, '{"n":1}', "call_0000000000000000twin"), (name, '{"n":2}', "call_0000000000000000twin")]
    if kind == "invalid":
        return [(name, '{"location": "Par', None), (name, "", None)]
    if kind == "shape":
        return [(name, "[]", None), (name, '"text"', None), (name, "null", None), (name, '{"a":' * 60, None)]
    hostile = {
        "location": "../../../../etc/passwd",
        "url": "http://169.254.169.254/latest/meta-data/",
        "query": "'; DROP TABLE users; --",
        "__class__": "os.system",
    }
    return [(name, orjson.dumps(hostile).decode(), None)]
