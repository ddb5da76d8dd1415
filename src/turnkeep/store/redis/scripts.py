"""The Lua scripts: one file per operation under `store/lua`, put together with the shared pieces it names.

The comment on top of a file is read by this loader::

    -- KEYS: names of the keys; `@thread` and `@partition` stand for groups; after `|` a group that is repeated
    -- ARGV: names of the arguments; after `|` a group that is repeated
    -- USES: shared pieces from `store/lua/lib`, in this order

A script sees them as `K.name` and `A.name`. `row(i)` gives the i-th of the `ROWS` repeated argument groups, `point(i)`
makes the i-th of the `GROUPS` repeated keys current.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Literal

Publish = Literal["PUBLISH", "SPUBLISH"]

GROUPS = {
    "@thread": ("thread", "inbox", "delayed", "log", "finals", "known", "history", "snapshot", "channel"),
    "@partition": (
        "due", "ends", "spaces", "leases", "counters", "threads", "aging", "aliases", "sinks", "outbox", "hints",
    ),
}  # fmt: skip

_HEADER = re.compile(r"^-- (KEYS|ARGV|USES):(.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """An operation as the server runs it. `keys` and `repeated` name its keys, in order."""

    name: str
    keys: tuple[str, ...]
    repeated: tuple[str, ...]
    text: bytes
    sha: bytes


@cache
def load_scripts(publish: Publish) -> Mapping[str, Script]:
    """All operations by name; `publish` is the command that reaches subscribers in this topology."""
    folder = files("turnkeep.store") / "lua"
    sources = [entry for entry in folder.iterdir() if entry.name.endswith(".lua")]
    return {entry.name.removesuffix(".lua"): _script(folder, entry, publish) for entry in sources}


def _script(folder: Traversable, entry: Traversable, publish: Publish) -> Script:
    source = entry.read_text("utf-8")
    headers = {name: text.split() for name, text in _HEADER.findall(source)}
    keys, repeated = _parts([name for key in headers.get("KEYS", []) for name in GROUPS.get(key, (key,))])
    arguments, rows = _parts(headers.get("ARGV", []))
    prelude = _prelude(publish, keys, repeated, arguments, rows)
    pieces = [(folder / "lib" / f"{name}.lua").read_text("utf-8") for name in headers.get("USES", [])]
    text = "\n".join([prelude, *map(_bare, pieces), _bare(source)]).encode()
    sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
    return Script(entry.name.removesuffix(".lua"), keys, repeated, text, sha)


def _parts(names: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    border = names.index("|") if "|" in names else len(names)
    return tuple(names[:border]), tuple(names[border + 1 :])


def _prelude(
    publish: Publish,
    keys: tuple[str, ...],
    repeated: tuple[str, ...],
    arguments: tuple[str, ...],
    rows: tuple[str, ...],
) -> str:
    lines = [f"local PUBLISH = '{publish}'", _named("K", "KEYS", keys), _named("A", "ARGV", arguments)]
    if repeated:
        lines += [_names("POINTED", repeated), _POINT.format(first=len(keys), size=len(repeated))]
    if rows:
        lines += [_names("ROW", rows), _ROW.format(first=len(arguments), size=len(rows))]
    return "\n".join(lines)


def _named(table: str, source: str, names: tuple[str, ...]) -> str:
    return f"local {table} = {{{', '.join(f'{name} = {source}[{i}]' for i, name in enumerate(names, 1))}}}"


def _names(table: str, names: tuple[str, ...]) -> str:
    return f"local {table} = {{{', '.join(repr(name) for name in names)}}}"


_POINT = """\
local GROUPS = (#KEYS - {first}) / {size}
local function point(i)
  for j, name in ipairs(POINTED) do K[name] = KEYS[{first} + (i - 1) * {size} + j] end
end"""

_ROW = """\
local ROWS = (#ARGV - {first}) / {size}
local function row(i)
  local found = {{}}
  for j, name in ipairs(ROW) do found[name] = ARGV[{first} + (i - 1) * {size} + j] end
  return found
end"""


def _bare(source: str) -> str:
    """Without whole-line comments and blank lines: fewer bytes to send and to parse."""
    return "\n".join(line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("-- "))
