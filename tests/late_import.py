"""Modules that are loaded when a test first needs something of them."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any


def late_import(name: str) -> Any:
    """The module, loaded with its first attribute. For what is large and of few tests: each worker imports what stands
    at the head of any test file, whichever tests it is given.
    """
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"there is no module {name!r}", name=name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
