"""Modules that are loaded when a test first needs something of them."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any


class LateModule:
    """Stands for a module until something of it is asked for. What any object may be asked (`__test__`, `__bases__`) is
    not of the module: pytest asks it of each name in a test file, which loads what `importlib.util.LazyLoader` makes.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)


def late_import(name: str) -> Any:
    """The module, loaded with its first attribute. For what is large and of few tests: each worker imports what stands
    at the head of any test file, whichever tests it is given.
    """
    if importlib.util.find_spec(name) is None:
        raise ModuleNotFoundError(f"there is no module {name!r}", name=name)
    return LateModule(name)
