"""Sealing what people say: every text of a message, an item, an event or a call becomes a token
that only a key opens.

Engines append texts to each other, compare them and tell repeats by them, and need not know that
they are sealed: a token says where it ends, so that tokens in a row open to the texts in a row, and
a codec seals the same text in the same way. Names, ids, times, sizes and the shape of things stay
readable; a text that is not sealed is taken as it is, so that a store with a past can be sealed
from now on.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, Protocol, TypeVar

from turnkeep.errors import StoreUnsealable
from turnkeep.messages import Address

T = TypeVar("T")

WHOLE = "tks1:whole"
"""The one name of a mapping that is sealed as a whole."""

# Ends in a semicolon: tokens that an engine has put one after another can be told apart.
_TOKEN = re.compile(r"tks1:([A-Za-z0-9_.-]{1,32}):([A-Za-z0-9_-]*);")
# Named are the exceptions: a field that somebody adds
# to the contract is sealed until he says otherwise.
_PLAIN = frozenset(
    (
        *(
            "message_id",
            "call_id",
            "run_id",
            "thread_id",
            "dead_id",
            "digest",
            "kind",
            "type",
            "status",
            "phase",
            "verdict",
        ),
        *("name", "tools", "code", "message", "decision", "by", "author", "policy", "outcome", "epoch", "on_busy"),
        *("site", "model", "assistant", "message_ids", "show"),
    )
)
"""Fields that engines, metrics and people's lists go by; any other field is sealed."""
_NOT_TEXT = frozenset({"address", "usage", "receipt", "options"})

_NAMES: dict[type, tuple[str, ...]] = {}
"""The fields of every type that was met, none of what is no dataclass: as many as
the contract has types.
"""

_NO_TEXT = (int, float, bool)


class Codec(Protocol):
    """Seals bytes. The same bytes with the same `about` and key give the same, or repeats are not
    known as such.

    `keys` are the ids of all keys, the one that seals first. `about` is bound to what is sealed
    without being in it: opening with another must fail. `open` raises ValueError.
    """

    @property
    def keys(self) -> Sequence[str]: ...

    def seal(self, plain: bytes, *, about: bytes, key: str) -> bytes: ...

    def open(self, token: bytes, *, about: bytes, key: str) -> bytes: ...


class Seal:
    """Seals and opens values of one tenant's queue. Every value but a text is given back with its
    texts changed.
    """

    def __init__(self, codec: Codec, address: Address, *, key: str | None = None) -> None:
        self._codec = codec
        # Tenant and queue, not the channel: a thread may be
        # read by its id, and letters outlive their channel.
        self._about = f"{address.tenant}\0{address.queue}".encode("utf-8", "surrogatepass")
        self._key = key or codec.keys[0]

    def text(self, plain: str) -> str:
        # An empty text has nothing to hide, and stays empty for whoever looks whether there is one.
        if not plain:
            return plain
        cipher = self._codec.seal(plain.encode("utf-8", "surrogatepass"), about=self._about, key=self._key)
        return f"tks1:{self._key}:{base64.urlsafe_b64encode(cipher).decode().rstrip('=')};"

    def mapping(self, plain: Mapping[str, Any]) -> dict[str, Any]:
        """One token for all of it, its names as well."""
        return {WHOLE: self.text(json.dumps(plain))} if plain else {}

    def values(self, plain: Mapping[str, str | None]) -> dict[str, str | None]:
        """One token for each value, where the names are the store's to merge."""
        return {name: None if value is None else self.text(value) for name, value in plain.items()}

    def record(self, plain: Mapping[str, Any]) -> dict[str, Any]:
        """A journal record: the store reads its place, and through where it takes messages in."""
        readable = {name: plain[name] for name in ("n", "steered_through") if name in plain}
        return readable | self.mapping({name: value for name, value in plain.items() if name not in readable})

    def whole(self, value: T, field: str = "") -> T:
        """A frozen dataclass, or a sequence of them."""
        return self._seal_value(value, field)  # type: ignore[no-any-return]

    def _seal_value(self, value: Any, field: str) -> Any:
        if field in _NOT_TEXT:
            return value
        if isinstance(value, str):
            return value if field in _PLAIN else self.text(value)
        # Names too: the keys of somebody's metadata are his words.
        if isinstance(value, Mapping):
            return self.mapping(value)
        if isinstance(value, tuple | list):
            return tuple(self._seal_value(one, field) for one in value)
        return _map_fields(value, self._seal_value)

    def open_text(self, text: str) -> str:
        """Every token in it opened. Raises `StoreUnsealable`."""
        # A plain search first, cheaper than the pattern: a store with a past holds plain texts.
        return _TOKEN.sub(self._open_token, text) if "tks1:" in text else text

    def unseal(self, value: T) -> T:
        """A value of any form with all its texts opened. Raises `StoreUnsealable`."""
        return self._open_value(value, "")  # type: ignore[no-any-return]

    def _open_value(self, value: Any, field: str) -> Any:
        if isinstance(value, str):
            return self.open_text(value)
        if isinstance(value, Mapping):
            return self._open_mapping(value)
        if isinstance(value, tuple | list):
            items = [self._open_value(one, field) for one in value]
            # a named tuple is made of its fields, not of one sequence
            return type(value)._make(items) if hasattr(value, "_make") else type(value)(items)
        return _map_fields(value, self._open_value)

    def _open_mapping(self, value: Mapping[str, Any]) -> dict[str, Any]:
        others = {name: self._open_value(one, name) for name, one in value.items() if name != WHOLE}
        whole = value.get(WHOLE)
        if isinstance(whole, str) and _TOKEN.fullmatch(whole):
            return others | dict(json.loads(self.open_text(whole)))
        return others if whole is None else others | {WHOLE: self._open_value(whole, WHOLE)}

    def _open_token(self, match: re.Match[str]) -> str:
        key, text = match[1], match[2]
        # Not shown as it is: a token on a screen or in a prompt is worse than an error.
        if key not in self._codec.keys:
            raise StoreUnsealable(f"what is stored is sealed with key {key!r}, which is not among the keys: add it")
        try:
            cipher = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            return self._codec.open(cipher, about=self._about, key=key).decode("utf-8", "surrogatepass")
        except (ValueError, binascii.Error):
            raise StoreUnsealable(
                f"what is stored does not open with key {key!r}: another key has this id, or somebody changed it"
            ) from None


def _names_of(kind: type) -> tuple[str, ...]:
    if (names := _NAMES.get(kind)) is None:
        names = _NAMES[kind] = tuple(one.name for one in fields(kind)) if is_dataclass(kind) else ()
    return names


def _map_fields(value: Any, change: Any) -> Any:
    """A dataclass with its fields changed; anything else as it is. The hot path:
    one event per token.
    """
    changes = {}
    for name in _names_of(type(value)):
        before = getattr(value, name)
        # Numbers, None and empty texts have nothing to seal: most fields of a delta are these.
        if not before or type(before) in _NO_TEXT:
            continue
        after = change(before, name)
        # Nothing changed makes no copy: `replace` of a frozen dataclass is what this loop costs.
        if after is not before:
            changes[name] = after
    return replace(value, **changes) if changes else value
