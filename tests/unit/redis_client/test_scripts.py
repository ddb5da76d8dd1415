"""Scripts are put together from pieces, and get only the keys and definitions that they reach."""

from __future__ import annotations

import pathlib

import pytest

from turnkeep.store.redis.client.scripts import Script, load_scripts

PIECE = """\
-- A piece.
local function double(n)
  return n * 2
end
local function triple(n)
  return n * 3
end
"""


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "numbers.lua").write_text(PIECE)
    return tmp_path


def load(folder: pathlib.Path, source: str) -> Script:
    (folder / "act.lua").write_text(source)
    return load_scripts(folder, {"@both": ("left", "right")}, "PUBLISH")["act"]


def test_names_become_places_in_the_order_of_the_header(folder: pathlib.Path) -> None:
    script = load(folder, "-- KEYS: a b\n-- ARGV: x y\nreturn {K.b, K.a, A.y}\n")

    assert script.keys == ("a", "b")
    assert script.text.endswith(b"return {KEYS[2], KEYS[1], ARGV[2]}")


def test_a_group_stands_for_its_keys_and_what_is_not_reached_is_left_out(folder: pathlib.Path) -> None:
    script = load(folder, "-- KEYS: @both own\nreturn {K.right, K.own}\n")

    assert script.keys == ("right", "own")


def test_only_the_definitions_that_are_reached_are_in_the_text(folder: pathlib.Path) -> None:
    script = load(folder, "-- KEYS:\n-- USES: numbers\nreturn double(2)\n")

    assert b"double" in script.text
    assert b"triple" not in script.text


def test_a_name_that_no_header_declares_is_an_error_at_the_start(folder: pathlib.Path) -> None:
    with pytest.raises(LookupError, match=r"act\.lua uses A\.y and does not declare it"):
        load(folder, "-- KEYS: a\n-- ARGV: x\nreturn {K.a, A.y}\n")


def test_repeated_keys_are_pointed_at(folder: pathlib.Path) -> None:
    script = load(folder, "-- KEYS: a | each\nfor i = 1, GROUPS do point(i) redis.call('GET', K.each) end return K.a\n")

    assert (script.keys, script.repeated_keys) == (("a",), ("each",))
    assert b"KEYS[POINTED + 1]" in script.text


def test_a_shared_key_of_all_partitions_is_named_at_once(folder: pathlib.Path) -> None:
    source = (
        "-- KEYS: own | each | left right\npoint(1) return {redis.call('EXISTS', ALL.right), K.left, K.own, K.each}\n"
    )

    script = load(folder, source)

    # Two threads of two partitions: behind `own` and the keys of both stand `left` and `right` of each.
    assert (script.keys, script.repeated_keys, script.shared_keys) == (("own",), ("each",), ("left", "right"))
    assert b"redis.call('EXISTS', every(2))" in script.text
    assert b"for at = 1 + GROUPS * 1 + i, #KEYS, 2 do" in script.text


def test_a_key_that_is_no_shared_one_is_all_of_its_name(folder: pathlib.Path) -> None:
    assert load(folder, "-- KEYS: a b\nreturn {ALL.b}\n").text.endswith(b"return {KEYS[1]}")


def test_a_key_of_each_thread_is_not_to_be_had_of_all(folder: pathlib.Path) -> None:
    with pytest.raises(LookupError, match=r"act\.lua uses ALL\.each and does not declare it"):
        load(folder, "-- KEYS: | each | left\npoint(1) return {ALL.each, K.left}\n")


def test_the_only_value_of_a_row_is_a_place(folder: pathlib.Path) -> None:
    script = load(folder, "-- KEYS: a\n-- ARGV: x | each\nreturn {K.a, value(ROWS), value(ROWS - 1)}\n")

    assert script.text.endswith(b"return {KEYS[1], ARGV[1 + ROWS], ARGV[1 + ROWS - 1]}")
