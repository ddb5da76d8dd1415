"""The errors page says what the errors are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_every_error_stands_on_its_page() -> None:
    spec = importlib.util.spec_from_file_location("errors_reference", ROOT / "scripts" / "errors_reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)

    told = (ROOT / "docs" / "reference" / "errors.md").read_text()

    assert told == reference.page(), "run: python scripts/errors_reference.py"
