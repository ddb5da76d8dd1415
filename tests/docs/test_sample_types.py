"""Every Python sample of the documentation is what a type checker takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.docs.samples import ROOT, python_of, written_modules


def test_every_sample_type_checks(tmp_path: Path) -> None:
    modules = written_modules(tmp_path)
    assert len(modules) > 8
    # With the configuration of `dev.py check`, whose cache it shares: nothing of ours is read twice.
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *map(str, modules)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)

    assert done.stdout.replace(str(tmp_path), "") == ""
    assert done.returncode == 0, done.stderr


def test_a_sample_that_is_wrong_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx: int = 5\n```\n\n1. A list\n\n   ```python\n   y = x\n   ```\n")
    assert python_of(page) == "x: int = 5\n\n\ny = x\n"
