"""What Redis refuses, as our errors, and what may be tried again."""

from __future__ import annotations

from enum import Enum

from turnkeep.errors import StoreError, StoreFull, StoreMisconfigured, StoreUnavailable, ThreadQuarantined

# Marks are looked for anywhere in the text: from inside a script Redis puts its own words around
# the error, and versions differ in them.
_FINAL: tuple[tuple[tuple[str, ...], type[StoreError], str], ...] = (
    (
        ("DAMAGED", "WRONGTYPE", "ERR The ID specified in XADD", "hash value is not an integer"),
        ThreadQuarantined,
        "what Redis keeps of this thread is damaged",
    ),
    (("OOM ",), StoreFull, "Redis is out of memory, raise maxmemory or delete old threads; runs in progress still end"),
    (("No space left",), StoreFull, "the disk of Redis is full, free some space"),
    (("MISCONF", "NOREPLICAS"), StoreUnavailable, "Redis takes no writes now"),
    (
        ("NOAUTH", "WRONGPASS", "NOPERM", "ACL failure"),
        StoreMisconfigured,
        "Redis refuses these credentials, check REDIS_URL and the ACL",
    ),
    (("CROSSSLOT",), StoreMisconfigured, "this Redis does not keep keys of one tag together"),
)


class Cure(Enum):
    """What to do about a refusal before the command is sent again; nothing of it has happened."""

    LOAD = "load the script"
    FOLLOW = "go where the slot has moved"
    ASK = "ask the node that is taking the slot over, once"
    WAIT = "wait a little"
    RECONNECT = "look for the primary again"


_CURES = (
    ("NOSCRIPT", Cure.LOAD),
    ("MOVED ", Cure.FOLLOW),
    ("ASK ", Cure.ASK),
    ("TRYAGAIN", Cure.WAIT),
    ("CLUSTERDOWN", Cure.WAIT),
    ("LOADING", Cure.WAIT),
    ("BUSY ", Cure.WAIT),
    ("READONLY", Cure.RECONNECT),
    ("MASTERDOWN", Cure.RECONNECT),
    ("UNBLOCKED", Cure.RECONNECT),
)


def cure_of(refusal: str) -> Cure | None:
    """How to go on after this refusal; None if there is no use in going on."""
    # From inside a script it comes wrapped: "ERR Error running script … READONLY …".
    if "READONLY" in refusal:
        return Cure.RECONNECT
    return next((cure for prefix, cure in _CURES if refusal.startswith(prefix)), None)


def meaning(refusal: str, operation: str) -> StoreError:
    """The error to raise for a refusal that stays."""
    for marks, error, sentence in _FINAL:
        if any(mark in refusal for mark in marks):
            return error(f"{sentence} ({operation}: {refusal[:200]})")
    if cure_of(refusal) is not None:
        return StoreUnavailable(f"Redis is not ready ({operation}: {refusal[:200]})")
    return StoreError(f"Redis refused {operation}: {refusal[:200]}")
