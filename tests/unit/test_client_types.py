"""The types of the clients are those of the OpenAPI document: a field that the server has got is theirs, too."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from turnkeep.doors.http.schemas import SCHEMAS
from turnkeep.messages import BUSY_POLICIES
from turnkeep.wishes import Wishes

TYPES = (Path(__file__).parents[2] / "clients" / "js" / "turnkeep.d.ts").read_text()


def fields(interface: str) -> set[str]:
    """The names that an interface of the TypeScript client has."""
    found = re.search(rf"export interface {interface}(?: extends \w+)? {{\n(.*?)\n}}", TYPES, re.S)
    assert found is not None, interface
    return set(re.findall(r"^  (\w+)\??:", found[1], re.M))


@pytest.mark.parametrize("name", ["Receipt", "HeldCall"])
def test_an_interface_has_the_fields_of_its_schema(name: str) -> None:
    assert fields(name) == SCHEMAS[name]["properties"].keys()


@pytest.mark.parametrize(("name", "those"), [("Transcript", {"items", "summary", "complete", "open"})])
def test_what_a_client_reads_is_there(name: str, those: set[str]) -> None:
    assert those <= fields(name)
    assert those <= SCHEMAS[name]["properties"].keys()


def test_a_message_may_ask_the_same_of_every_client() -> None:
    wishes = SCHEMAS["NewMessage"]["properties"].keys() - {"message", "content", "message_id"}
    assert fields("Wishes") == wishes
    assert {*Wishes.__annotations__, "instructions"} == wishes


def test_the_policies_are_those_of_the_server() -> None:
    [line] = re.findall(r"export type BusyPolicy = (.+);", TYPES)
    assert set(re.findall(r'"(\w+)"', line)) == {*BUSY_POLICIES}
