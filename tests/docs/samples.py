"""The Python samples of the documentation, page by page."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from pydantic import AliasChoices

from turnkeep.settings import Settings

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^(?P<indent>[ ]*)```python\n(?P<code>.*?)^(?P=indent)```", re.S | re.M)


def pages() -> list[Path]:
    """README and every page, in order."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def python_of(page: Path) -> str:
    """All samples of a page as one module: later ones go on where earlier ones ended."""
    return "\n\n".join(textwrap.dedent(block["code"]) for block in BLOCK.finditer(page.read_text()))


def written_modules(folder: Path) -> list[Path]:
    """The samples of each page that has any, as a file named after it."""
    modules = []
    for page in pages():
        if code := python_of(page):
            name = "_".join(page.relative_to(ROOT).with_suffix("").parts).replace("-", "_")
            modules.append(folder / f"{name}.py")
            modules[-1].write_text(code)
    return modules


def known_variables() -> set[str]:
    found: set[str] = set()
    for field in Settings.model_fields.values():
        if isinstance(field.validation_alias, AliasChoices):
            found |= {str(choice) for choice in field.validation_alias.choices}
    return found
