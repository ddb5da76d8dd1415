"""An empty collection that somebody hands over is not the same as none: `given or Default()` would replace it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

SOURCES = sorted((Path(__file__).parents[2] / "src/turnkeep").rglob("*.py"))


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """Every file of ours; parsed when it is asked for, as each worker of pytest imports every test."""
    return {path: ast.parse(path.read_text()) for path in SOURCES}


def classes_that_may_be_empty() -> set[str]:
    """Every class of ours that says how long it is, or whether it is true."""
    return {
        node.name
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(isinstance(part, ast.FunctionDef) and part.name in ("__len__", "__bool__") for part in node.body)
    }


def replaced_when_empty(names: set[str]) -> Iterator[str]:
    for path, tree in trees().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.BoolOp) or not isinstance(node.op, ast.Or):
                continue
            for value in node.values[1:]:
                if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in names:
                    yield f"{path.name}:{node.lineno} {value.func.id}"


def test_no_default_takes_the_place_of_an_empty_thing() -> None:
    names = classes_that_may_be_empty()
    assert "Toolbox" in names
    assert list(replaced_when_empty(names)) == []
