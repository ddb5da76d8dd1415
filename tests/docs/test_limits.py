"""The page of limits says what the settings are, and the tests that it names exist."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

from pydantic import AliasChoices

from tests.rows import each_row
from turnkeep.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reference/limits.md").read_text()
LIMITS = re.findall(
    r"^\| [^|]+ \| `(TURNKEEP_\w+)` \| `([^`]+)` \| [^|]+ \| `(tests/[\w/]+\.py)::(\w+)` \|$", PAGE, re.M
)
FIXED = re.findall(r"^\| [^|]+ \| `([\d.]+)` \| `([\w.]+):(\w+)` \|$", PAGE, re.MULTILINE)
PROMISED = {
    "max_message_bytes", "max_frame_bytes", "channel_rate", "user_rate", "tenant_rate", "channels_per_socket",
    "sockets_per_user", "max_inbox", "run_deadline", "max_steps", "tenant_budget", "thread_budget",
}  # fmt: skip


def named() -> dict[str, str]:
    """Settings by their names in the environment."""
    found: dict[str, str] = {}
    for name, field in Settings.model_fields.items():
        assert isinstance(field.validation_alias, AliasChoices)
        found |= {str(alias): name for alias in field.validation_alias.choices}
    return found


def test_no_row_of_the_tables_is_overlooked_and_no_limit_is_missing() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| limit ")]
    assert len(LIMITS) + len(FIXED) == len(rows)
    assert {named()[variable] for variable, *_ in LIMITS} >= PROMISED


@each_row(("variable", "default", "file", "test"), LIMITS)
def test_a_limit_has_its_default_and_its_test(variable: str, default: str, file: str, test: str) -> None:
    assert str(Settings.model_fields[named()[variable]].default) == default
    functions = {
        node.name for node in ast.walk(ast.parse((ROOT / file).read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }  # fmt: skip
    assert test in functions
    assert named()[variable] in (ROOT / file).read_text()


@each_row(("value", "module", "name"), FIXED)
def test_a_fixed_limit_is_what_the_page_says(value: str, module: str, name: str) -> None:
    assert str(getattr(importlib.import_module(module), name)) == value
