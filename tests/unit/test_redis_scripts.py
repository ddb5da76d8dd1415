"""The Lua scripts are put together as their headers say, and touch only the keys that they declare."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from tests.rows import each_row
from turnkeep.store.redis.client.scripts import require_declared
from turnkeep.store.redis.key_names import GROUPS, operation_scripts

FOLDER = files("turnkeep.store") / "lua"
NAMES = sorted(operation_scripts("PUBLISH"))
PIECES = sorted(entry.name for entry in (FOLDER / "lib").iterdir())


def source(name: str) -> str:
    return (FOLDER / f"{name}.lua").read_text("utf-8")


@each_row("name", NAMES)
def test_a_header_says_what_a_script_is_for_and_gives(name: str) -> None:
    lines = source(name).splitlines()

    assert lines[0].startswith(f"-- {name}: ")
    assert any(line.startswith("-- KEYS: ") for line in lines)
    assert any(line.startswith("-- RETURNS: ") for line in lines)


@each_row("name", NAMES)
def test_keys_are_declared(name: str) -> None:
    """The loader refuses a script that reaches any other."""
    script = operation_scripts("PUBLISH")[name]
    used = set(re.findall(r"\bK\.(\w+)", source(name)))

    assert used <= {*script.keys, *script.repeated_keys, *script.shared_keys}


@each_row("path", [*(f"{name}.lua" for name in NAMES), *(f"lib/{piece}" for piece in PIECES)])
def test_every_command_names_its_key_by_the_table_of_keys(path: str) -> None:
    text = (FOLDER / path).read_text("utf-8")
    keyless = {"TIME", "PUBLISH"}

    for command, key in re.findall(r"redis\.call\(\s*'(\w+)'\s*(?:,\s*([^,)\s]+))?", text):
        derived = ("key", "index_of", "outbox_of", "'STREAM'")
        assert command in keyless or key.startswith(("K.", "ALL.", *derived)), f"{command} {key}"
    assert not re.search(r"\bKEYS\b", re.sub(r"--.*", "", text))


@each_row("name", NAMES)
def test_arguments_are_declared(name: str) -> None:
    header = re.search(r"^-- ARGV: (.*)$", source(name), re.MULTILINE)
    declared = set(header[1].split()) if header else set()
    used = set(re.findall(r"\bA\.(\w+)", source(name)))

    assert used <= declared | {"want", "policy"}


def test_subscribers_are_reached_by_the_command_of_the_topology() -> None:
    assert b"local PUBLISH = 'SPUBLISH'" in operation_scripts("SPUBLISH")["accept"].text
    assert operation_scripts("SPUBLISH")["accept"].sha != operation_scripts("PUBLISH")["accept"].sha


def test_groups_of_keys_are_spelled_out() -> None:
    accept = operation_scripts("PUBLISH")["accept"]

    assert accept.keys == ()
    assert accept.repeated_keys == GROUPS["@thread"]
    assert accept.shared_keys == GROUPS["@partition"]


def test_a_script_gets_only_what_it_reaches() -> None:
    publish = operation_scripts("PUBLISH")["publish"]

    assert publish.keys == ()
    assert publish.repeated_keys == ("thread", "log", "channel")
    assert publish.shared_keys == ("sinks",)
    assert b"sha1hex" not in publish.text


def test_an_undeclared_key_is_an_error_at_the_start() -> None:
    with pytest.raises(LookupError, match=r"mine.lua uses K.log and does not declare it"):
        require_declared("mine", "redis.call('DEL', K.log)", {"K": {"thread"}, "A": set()})


def test_comments_stay_at_home() -> None:
    assert not any(b"\n-- " in script.text for script in operation_scripts("PUBLISH").values())


def test_what_only_a_seldom_function_needs_is_defined_when_that_runs() -> None:
    text = operation_scripts("PUBLISH")["accept"].text.decode()
    head, _, rest = text.partition("\nlocal function trim(t, p, now)\n")
    inside, _, tail = rest.partition("\n  t.untrimmed = 0\nend\n")

    assert ["local function cut_log(" in part for part in (head, inside, tail)] == [False, True, False]


def names_in(pattern: str, text: str) -> set[str]:
    return {name for names in re.findall(pattern, text) for name in re.findall(r"\w+", names)}


@each_row("name", NAMES)
def test_what_a_script_calls_is_defined(name: str) -> None:
    """Redis refuses unknown names only when they are met."""
    text = re.sub(r"'[^'\n]*'", "''", operation_scripts("PUBLISH")[name].text.decode())
    defined = names_in(r"\blocal (?:function )?([\w, ]+)", text) | names_in(r"\bfor ([\w, ]+) (?:=|in)", text)
    defined |= names_in(r"\bfunction[ \w]*\(([\w, ]*)\)", text)
    words = {"function", "if", "and", "or", "not", "return", "while", "elseif", "until", "in"}
    lua = {"ipairs", "pairs", "tonumber", "tostring", "unpack", "type", "error", "pcall", "setmetatable", "next"}
    unless_recounted = {"plan_history"}  # `save` calls it for scripts that change the transcript, which define it

    called = set(re.findall(r"(?<![\w.:])([a-z_]\w*)\(", text))

    assert called - defined - words - lua - unless_recounted == set()
