"""What a new clone lacks and every worker of pytest needs: made once, by all of them together.

All workers do the same at the same time. What none of them finds ready, each would make for itself, at the moment in
which the others do: in a new clone that took longer than collecting the tests.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import py_compile
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.assertion.rewrite import PYC_TAIL, _rewrite_test, _write_pyc, assertstate_key, get_cache_dir
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]


def warm_up(config: pytest.Config, worker: int, workers: int) -> None:
    """The share of this worker. What another has not come to when it is needed is made twice, and nothing is lost."""
    if worker == workers - 1:
        st.characters(codec="utf-8").validate()  # it tries each character there is, and keeps that in `.hypothesis`
    elif not sys.dont_write_bytecode:
        for path in [*modules(ROOT / "src"), *modules(ROOT / "tests")][worker :: workers - 1]:
            with contextlib.suppress(OSError, SyntaxError, py_compile.PyCompileError):  # its import says what is wrong
                compile_module(path, config)


def modules(folder: Path) -> Iterator[Path]:
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(set(folders) - {"node_modules", "__pycache__"})
        yield from (Path(where, name) for name in sorted(files) if name.endswith(".py"))


def compile_module(path: Path, config: pytest.Config) -> None:
    """As its import would; in tests the asserts are rewritten."""
    is_test = path.name.startswith("test_") or path.name == "conftest.py"
    target = get_cache_dir(path) / (path.stem + PYC_TAIL) if is_test else Path(importlib.util.cache_from_source(path))
    if target.exists() and target.stat().st_mtime >= path.stat().st_mtime:
        return
    if is_test:
        target.parent.mkdir(exist_ok=True)
        source, code = _rewrite_test(path, config)
        _write_pyc(config.stash[assertstate_key], code, source, target)
    else:
        py_compile.compile(str(path), str(target), doraise=True)
