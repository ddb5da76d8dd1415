"""Every Python sample of the documentation is what a type checker takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.samples import ROOT, python_of, written_modules
from tests.services.programs import packages, program

PACKAGES = ROOT / "tests" / "clients" / "library"


@pytest.mark.only_in_prove  # reason: `dev.py check` shows the kind, with mypy
def test_every_sample_type_checks_with_pyright_as_well(tmp_path: Path) -> None:
    packages(PACKAGES)
    modules = written_modules(tmp_path)
    assert len(modules) > 8
    command = [program("node"), str(PACKAGES / "node_modules" / "pyright" / "index.js"), "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, "--outputjson", *map(str, modules)], cwd=tmp_path, capture_output=True, text=True, timeout=280,
        check=False,
    )  # fmt: skip

    told = json.loads(done.stdout)["generalDiagnostics"]
    errors = [f"{Path(one['file']).name}: {one['message']}" for one in told if one["severity"] == "error"]
    assert errors == []
    assert done.returncode == 0, done.stderr


def test_a_sample_that_is_wrong_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n```python\nx: int = 5\n```\n\n1. A list\n\n   ```python\n   y = x\n   ```\n")
    assert python_of(page) == "x: int = 5\n\n\ny = x\n"
