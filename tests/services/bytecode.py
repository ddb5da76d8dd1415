"""Bytecode, made by all workers of pytest together where it is missing."""

from __future__ import annotations

import contextlib
import importlib.util
import py_compile
import sys
from pathlib import Path

import pytest
from _pytest.assertion.rewrite import (
    PYC_TAIL,
    _rewrite_test,
    _write_pyc,
    assertstate_key,
    get_cache_dir,
)

ROOT = Path(__file__).parents[2]


def write_share(config: pytest.Config, worker: int, workers: int) -> None:
    """Compile each so-manieth file that is newer than its bytecode, and rewrite the asserts of tests.

    All workers import all files in the same order. In a new clone each would compile every one of them, at the same
    moment as the others do, which takes as long as the whole collection. A file that another has not come to yet is
    compiled twice.
    """
    if sys.dont_write_bytecode:
        return
    files = [path for folder in ("src", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
    for path in files[worker::workers]:
        with contextlib.suppress(OSError, SyntaxError, py_compile.PyCompileError):  # its import says what is wrong
            compile_one(path, config)


def compile_one(path: Path, config: pytest.Config) -> None:
    is_test = path.name.startswith("test_") or path.name == "conftest.py"
    target = get_cache_dir(path) / (path.stem + PYC_TAIL) if is_test else Path(importlib.util.cache_from_source(path))
    if target.exists() and target.stat().st_mtime >= path.stat().st_mtime:
        return
    if not is_test:
        py_compile.compile(str(path), str(target), doraise=True)
        return
    target.parent.mkdir(exist_ok=True)
    source, code = _rewrite_test(path, config)
    _write_pyc(config.stash[assertstate_key], code, source, target)
