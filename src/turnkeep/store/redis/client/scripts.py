"""Lua scripts: one file per operation, put together with the pieces from `lib` that it names.

The comment on top of a file is read by this loader::

    -- KEYS: names of the keys; `@name` stands for a group; after `|` a group that is repeated, after
    --       another `|` one that several of those share
    -- ARGV: names of the arguments; after `|` a group that is repeated
    -- USES: shared pieces from `lib`, in this order

A script sees them as `K.name` and `A.name`. `row(i)` gives the i-th of the `ROWS` repeated argument
groups by name, `values(i)` in order, `value(i)` the only one of a group of one; `turn_to(i)` makes
its values those of `A.name`, without a table for them. `point(i)` makes the i-th of the `GROUPS`
repeated keys current, and the shared ones that belong to it: which those are is told in `PLACES`,
an argument before all others, a byte each. `ALL.name` is that key of all of them, to be asked for
in one command.

Redis runs all definitions of a script at each call, so a script gets only the definitions and keys
that it reaches, and `K.name` and `A.name` become places in KEYS and ARGV. What only a function
needs that a shared piece calls `SELDOM` is defined inside that function, when it runs. A name that
is not declared is an error at the start.

Redis Functions would run the definitions once, at FUNCTION LOAD. Measured, they are 10 µs of a
script that acts on up to sixteen threads, and 1.4 of the one of tokens: a hundredth of a message
and of a token, for libraries that are written, replicated and backed up, that outlive the program,
and that a full server refuses as a whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence, Set
from functools import lru_cache
from importlib.resources.abc import Traversable
from typing import Literal

from turnkeep.lean_dataclass import dataclass

Publish = Literal["PUBLISH", "SPUBLISH"]
Groups = Mapping[str, tuple[str, ...]]
"""What `@name` stands for in a header: keys that many scripts touch together."""

_HEADER = re.compile(r"^-- (KEYS|ARGV|USES):(.*)$", re.MULTILINE)
_SELDOM = re.compile(r"^-- SELDOM:(.*)$", re.MULTILINE)

_WORD = re.compile(r"(?<![\w:])(?<!(?<!\.)\.)[A-Za-z_]\w*")
"""A name that may be one of a definition: no member, such as `stop` in `t.stop`
or `find` in `text:find`.
"""
_VALUE = re.compile(r"\bvalue\(([\w +-]*)\)")
_REFERENCE = re.compile(r"\b(K|A|ALL)\.(\w+)")
_DEFINITION = re.compile(r"^(?=local )", re.MULTILINE)
_FIRST_LINE = re.compile(r"local (?:function \w+|[\w, ]+)")
_NAMES = re.compile(r"\b(?!local\b|function\b)\w+")

_POINT = """\
local GROUPS, POINTED = (#KEYS - {first}) / {size}, 0
local function point(i)
  POINTED = {first} + (i - 1) * {size}
end"""

_PLACES = "PLACES"

_POINT_SHARED = """\
local PLACES = {{ARGV[1]:byte(1, -1)}}
local GROUPS, POINTED, SHARED = #PLACES, 0, 0
local function point(i)
  POINTED, SHARED = {first} + (i - 1) * {size}, {first} + GROUPS * {size} + (PLACES[i] - 1) * {shared}
end"""

_EVERY = """\
local function every(i)
  local keys = {{}}
  for at = {first} + GROUPS * {size} + i, #KEYS, {shared} do keys[#keys + 1] = KEYS[at] end
  return unpack(keys)
end"""

_ROWS = "local ROWS = (#ARGV - {first}) / {size}"

_TURN = """\
local ROW = {first}
local function turn_to(i)
  ROW = {first} + (i - 1) * {size}
end"""

_ROW = {
    "row(": """\
local NAMES = {names}
local function row(i)
  local found = {{}}
  for j, name in ipairs(NAMES) do found[name] = ARGV[{first} + (i - 1) * {size} + j] end
  return found
end""",
    "values(": """\
local function values(i)
  return unpack(ARGV, {first} + (i - 1) * {size} + 1, {first} + i * {size})
end""",
}


@dataclass(frozen=True, slots=True, eq=False)
class Script:
    """An operation as the server runs it. `keys`, `repeated_keys` and `shared_keys` name its keys, in order."""

    name: str
    keys: tuple[str, ...]
    repeated_keys: tuple[str, ...]
    text: bytes
    sha: bytes
    shared_keys: tuple[str, ...] = ()


def load_scripts(folder: Traversable, groups: Groups, publish: Publish) -> Mapping[str, Script]:
    """All operations by name; `publish` is the command that reaches subscribers here."""
    sources = [entry for entry in folder.iterdir() if entry.name.endswith(".lua")]
    try:
        return {entry.name.removesuffix(".lua"): _script(folder, entry, groups, publish) for entry in sources}
    finally:
        _words.cache_clear()  # what was shared between the operations is not needed again


def _script(folder: Traversable, entry: Traversable, groups: Groups, publish: Publish) -> Script:
    name, source = entry.name.removesuffix(".lua"), entry.read_text("utf-8")
    headers = {header: text.split() for header, text in _HEADER.findall(source)}
    names = [key for word in headers.get("KEYS", []) for key in groups.get(word, (word,))]
    keys, repeated_keys, shared_keys = _parts(names)
    arguments, rows, _ = _parts(headers.get("ARGV", []))
    pieces = [(folder / "lib" / f"{piece}.lua").read_text("utf-8") for piece in headers.get("USES", [])]
    # Without comments: the text is what EVAL sends, and what its digest is made of.
    own = _bare(source)
    seldom = {word for piece in pieces for line in _SELDOM.findall(piece) for word in line.split()}
    body = "\n".join([*_arrange([_bare(piece) for piece in pieces], own, seldom), own])
    declared_keys = {*keys, *repeated_keys, *shared_keys}
    require_declared(
        name, body, {"K": declared_keys, "ALL": declared_keys - {*repeated_keys}, "A": {*arguments, *rows}}
    )
    keys, repeated_keys, shared_keys = (_in_use(part, body) for part in (keys, repeated_keys, shared_keys))
    if shared_keys:
        arguments = (_PLACES, *arguments)
    prelude = [f"local PUBLISH = '{publish}'"]
    places = {f"K.{key}": f"KEYS[{i}]" for i, key in enumerate(keys, 1)}
    places |= {f"A.{argument}": f"ARGV[{i}]" for i, argument in enumerate(arguments, 1)}
    places |= {f"ALL.{key}": f"KEYS[{i}]" for i, key in enumerate(keys, 1)}
    places |= {f"ALL.{key}": f"every({i})" for i, key in enumerate(shared_keys, 1)}
    if repeated_keys:
        # A cursor instead of a table of keys for each thread, which every call would have to build.
        point = _POINT_SHARED if shared_keys else _POINT
        cut = {"first": len(keys), "size": len(repeated_keys), "shared": len(shared_keys)}
        prelude.append(point.format(**cut))
        if shared_keys and "ALL." in body:
            prelude.append(_EVERY.format(**cut))
        places |= {f"K.{key}": f"KEYS[POINTED + {i}]" for i, key in enumerate(repeated_keys, 1)}
        places |= {f"K.{key}": f"KEYS[SHARED + {i}]" for i, key in enumerate(shared_keys, 1)}
    if rows:
        at = {"first": len(arguments), "size": len(rows)}
        prelude.append(_ROWS.format(**at))
        if _in_use(rows, body, tables=("A",)):
            prelude.append(_TURN.format(**at))
            places |= {f"A.{argument}": f"ARGV[ROW + {i}]" for i, argument in enumerate(rows, 1)}
        prelude += [text.format(names=_list(rows), **at) for call, text in _ROW.items() if call in body]
        body = _VALUE.sub(rf"ARGV[{len(arguments)} + \1]", body)
    text = _REFERENCE.sub(lambda match: places[match[0]], "\n".join([*prelude, body])).encode()
    sha = hashlib.sha1(text, usedforsecurity=False).hexdigest().encode()
    return Script(name, keys, repeated_keys, text, sha, shared_keys)


def _parts(names: list[str]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    parts: list[list[str]] = [[]]
    for name in names:
        if name == "|":
            parts.append([])
        else:
            parts[-1].append(name)
    first, second, third = (tuple(part) for part in (*parts, [], [])[:3])
    return first, second, third


def _bare(source: str) -> str:
    """Without whole-line comments and blank lines."""
    return "\n".join(line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("--"))


def _arrange(pieces: list[str], own: str, seldom: Set[str]) -> list[str]:
    """The definitions of these pieces that a script reaches, in their order; inside a seldom
    function what no other one needs.
    """
    texts = [part for piece in pieces for part in _DEFINITION.split(piece) if part.strip()]
    names = [set(_NAMES.findall(_FIRST_LINE.match(part)[0])) for part in texts]  # type: ignore[index]
    reachable = _find_reachable(texts, names, own)
    inside = set[int]()
    for i in sorted(i for i in reachable if names[i] & seldom):
        dependencies = (reachable - inside) - _find_reachable(
            ["" if j == i else text for j, text in enumerate(texts)], names, own
        )
        head, _, rest = texts[i].partition("\n")
        texts[i] = "\n".join([head, *(texts[j].rstrip("\n") for j in sorted(dependencies)), rest])
        inside |= dependencies
    return [texts[i] for i in sorted(reachable - inside)]


def _find_reachable(texts: Sequence[str], names: Sequence[Set[str]], own: str) -> set[int]:
    """Which definitions a script reaches."""
    words, reachable = set(_words(own)), set[int]()
    # Until nothing is added: definitions need each other.
    while more := {i for i, definition in enumerate(names) if i not in reachable and words & definition}:
        reachable |= more
        words |= {word for i in more for word in _words(texts[i])}
    return reachable


@lru_cache(maxsize=1_024)
def _words(text: str) -> frozenset[str]:
    """Remembered, as dozens of operations share most of their definitions: looking through them again for each took
    half a second of every process.
    """
    return frozenset(_WORD.findall(text))


def require_declared(name: str, body: str, declarations: Mapping[str, set[str]]) -> None:
    """Raises LookupError for a key or an argument that the header does not name."""
    for table, name_in_use in _REFERENCE.findall(body):
        if name_in_use not in declarations[table]:
            raise LookupError(f"{name}.lua uses {table}.{name_in_use} and does not declare it")


def _in_use(names: tuple[str, ...], body: str, *, tables: tuple[str, ...] = ("K", "ALL")) -> tuple[str, ...]:
    in_use = {name for owner, name in _REFERENCE.findall(body) if owner in tables}
    return tuple(name for name in names if name in in_use)


def _list(names: tuple[str, ...]) -> str:
    return f"{{{', '.join(repr(name) for name in names)}}}"
