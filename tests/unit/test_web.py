"""The pages as files: what is of others is what they published, ours takes no text for markup, and none is heavy."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from tests.rows import each_row

WEB = Path(str(resources.files("turnkeep") / "web"))
STATIC = WEB / "static"
VENDOR = STATIC / "vendor"
SOURCES = json.loads((VENDOR / "sources.json").read_text())
HEAVIEST = 250_000
"""Bytes of a page with all that it loads, compressed."""
OURS = sorted(path for path in STATIC.rglob("*.js") if VENDOR not in path.parents)
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|setAttribute\(\"on"
)


@pytest.mark.parametrize("source", SOURCES, ids=lambda one: one["name"])
def test_a_library_of_others_is_unchanged_and_has_its_licence(source: dict[str, object]) -> None:
    hashes = source["sha256"]
    assert isinstance(hashes, dict)
    for name, digest in hashes.items():
        assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest
    assert (VENDOR / str(source["license_file"])).read_text().strip()


def test_every_file_of_others_has_a_source() -> None:
    known = {name for source in SOURCES for name in source["sha256"]} | {one["license_file"] for one in SOURCES}
    assert {path.name for path in VENDOR.iterdir()} == known | {"sources.json"}


@each_row("path", OURS, ids=lambda path: str(path.relative_to(STATIC)))
def test_no_script_of_ours_takes_text_for_markup(path: Path) -> None:
    assert FORBIDDEN.search(path.read_text()) is None


@pytest.mark.parametrize("page", ["index.html", "dashboard.html"])
def test_a_page_has_nothing_inline_and_is_light(page: str) -> None:
    text = (WEB / page).read_text()
    assert re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|<style|javascript:", text) is None
    files = {WEB / page, *(path for name in _named(text) for path in _with_imports(WEB / name))}
    size = sum(len(gzip.compress(path.read_bytes())) for path in files)
    assert size <= HEAVIEST, f"{page} weighs {size} bytes"


def _named(text: str) -> list[str]:
    return re.findall(r'(?:src|href)="(static/[^"]+)"', text)


def _with_imports(path: Path) -> Iterator[Path]:
    """A file and all that it imports, what is loaded later too."""
    seen, waiting = set[Path](), [path]
    while waiting:
        one = waiting.pop().resolve()
        if one in seen:
            continue
        seen.add(one)
        yield one
        if one.suffix == ".js" and VENDOR.resolve() not in one.parents:
            waiting += [one.parent / name for name in re.findall(r'(?:from|import\()\s*"(\.[^"]+)"', one.read_text())]
