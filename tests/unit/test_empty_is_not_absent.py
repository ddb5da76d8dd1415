"""An empty collection that somebody hands over is not the same as none: `given or Default()` would replace it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "src/turnkeep"
Sources = Mapping[str, str]


def sources_with(pattern: str, sources: Sources) -> Iterator[tuple[str, ast.Module]]:
    """Files in whose text something is found, parsed: to parse all takes a hundred times as long as to read them."""
    found = re.compile(pattern)
    yield from ((name, ast.parse(text)) for name, text in sources.items() if found.search(text))


def classes_that_may_be_empty(sources: Sources) -> set[str]:
    """Every class that says how long it is, or whether it is true."""
    return {
        node.name
        for _, tree in sources_with(r"__len__|__bool__", sources)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(isinstance(part, ast.FunctionDef) and part.name in ("__len__", "__bool__") for part in node.body)
    }


def replaced_when_empty(names: set[str], sources: Sources) -> Iterator[str]:
    for name, tree in sources_with(rf"\b(?:{'|'.join(names)})\s*\(", sources):
        for node in ast.walk(tree):
            if not isinstance(node, ast.BoolOp) or not isinstance(node.op, ast.Or):
                continue
            for value in node.values[1:]:
                if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in names:
                    yield f"{name}:{node.lineno} {value.func.id}"


def test_no_default_takes_the_place_of_an_empty_thing() -> None:
    sources = {str(path.relative_to(ROOT)): path.read_text() for path in sorted(ROOT.rglob("*.py"))}
    names = classes_that_may_be_empty(sources)
    assert "Toolbox" in names
    assert list(replaced_when_empty(names, sources)) == []


@pytest.mark.parametrize("default", ["given or Box()", "(\n    given\n    or (Box ( ))\n)", "a and (b or c or Box(1))"])
def test_such_a_default_is_seen(default: str) -> None:
    sources = {"box.py": "class Box:\n    def __len__(self): ...", "user.py": f"x = {default}"}
    assert len(list(replaced_when_empty(classes_that_may_be_empty(sources), sources))) == 1


@pytest.mark.parametrize("default", ["given if given is not None else Box()", "Box() or given", "'' or f(Box())"])
def test_what_keeps_an_empty_one_passes(default: str) -> None:
    sources = {"box.py": "class Box:\n    def __len__(self): ...", "user.py": f"x = {default}"}
    assert list(replaced_when_empty(classes_that_may_be_empty(sources), sources)) == []
