"""The toolbox knows tools by name and tells the model of those an assistant enables."""

from typing import Any

import pytest

from turnkeep.errors import ConfigurationError
from turnkeep.tools import Spec, Toolbox, tool


@tool(effect="pure")
def first(city: str) -> str:
    """The first."""
    return city


def second(city: str) -> str:
    """The second."""
    return city


THIRD = {
    "type": "function",
    "function": {"name": "third", "description": "The third.", "parameters": {"type": "object", "properties": {}}},
    "handler": lambda arguments: "3",
}


def test_tools_functions_and_dicts_can_be_registered() -> None:
    box = Toolbox([first, second, THIRD])

    assert box.names == ("first", "second", "third")
    assert [one.effect for one in box] == ["pure", "effect", "effect"]
    assert len(box) == 3
    assert "second" in box


def test_the_model_is_told_of_enabled_tools_only() -> None:
    box = Toolbox([first, second, THIRD])

    assert [one.name for one in box.specs()] == ["first", "second", "third"]
    assert [one.name for one in box.specs(["third", "unknown", "first"])] == ["first", "third"]
    assert box.specs([]) == []
    assert box.missing(["third", "unknown"]) == ["unknown"]
    assert box.specs(["third"]) == [Spec("third", "The third.", {"type": "object", "properties": {}}, False)]


def test_a_box_is_empty_for_as_long_as_nobody_can_find_a_tool_in_it() -> None:
    box = Toolbox()
    assert box.is_empty

    box.register(first)
    assert not box.is_empty
    box.remove("first")
    assert box.is_empty
    box.own("shop").register(second)
    assert not box.is_empty
    assert box.of("shop").names == ("second",)
    box.remove("first")
    assert not box.is_empty


def test_a_name_is_taken_once_unless_it_is_replaced() -> None:
    box = Toolbox([first])

    with pytest.raises(ConfigurationError, match="'first' is registered already"):
        box.register(first)
    other = tool(name="first")(second)
    assert box.register(other, replace=True) is other
    assert box.get("first") is other


def test_a_removed_tool_is_gone() -> None:
    box = Toolbox([first])

    assert box.remove("first")
    assert not box.remove("first")
    assert box.get("first") is None


def test_the_catch_all_can_be_set_and_cleared() -> None:
    async def handler(*_: Any) -> list[dict[str, Any]]:
        return []

    box = Toolbox(handle_requires_action=handler)
    assert box.catches_all is handler

    box.catch_all(None)
    assert box.catches_all is None
