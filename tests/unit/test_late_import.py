"""What a test file imports late is loaded by a test that needs it, not by who looks at the file."""

from __future__ import annotations

import inspect
import sys

import pytest

from tests.late_import import late_import

NAME = "wsgiref.validate"
"""A module that nobody loads."""


@pytest.fixture(autouse=True)
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (NAME, NAME.partition(".")[0]):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_pytest_looks_at_it_and_loads_nothing(request: pytest.FixtureRequest) -> None:
    module, file = late_import(NAME), request.node.getparent(pytest.Module)
    for name in ("validate", "test_validate", "TestValidate"):
        made = request.config.hook.pytest_pycollect_makeitem(collector=file, name=name, obj=module)
        assert made in (None, [])
    kinds = (inspect.isclass, inspect.isfunction, inspect.ismethod, inspect.isbuiltin)
    assert not any(is_kind(module) for is_kind in kinds)
    assert NAME not in sys.modules


def test_the_first_attribute_loads_it() -> None:
    module = late_import(NAME)
    assert module.validator.__module__ == NAME
    assert module.validator is sys.modules[NAME].validator


def test_a_module_that_is_not_there_is_named_at_once() -> None:
    with pytest.raises(ModuleNotFoundError, match="there is no module 'nobody'"):
        late_import("nobody")
