"""Write docs/reference/settings.md from the settings themselves: `python scripts/settings_reference.py`."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic.fields import FieldInfo

from turnkeep.settings import Settings

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "settings.md"
SECTION = re.compile(r"# Section (.+)$")
HEAD = """# Settings

Read from the environment and from `.env` in the working directory; values given in code go before both. Nothing has
to be set. All wrong values are reported at once.

A `.env` that nobody named may have come with somebody else's project. It lets no model and no program act here
(`TURNKEEP_TOOLS`, `TURNKEEP_TENANT_TOOL_FILES`, `TURNKEEP_WORKSPACE`, `TURNKEEP_ALLOW_BASH`, `TURNKEEP_SANDBOX`), and
its addresses get no key that was set elsewhere. `turnkeep --env-file FILE` names a file that is yours.

This page is made by `scripts/settings_reference.py`; a test compares it.
"""


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for title, names in sections():
        lines += [f"\n## {title.capitalize()}\n", "| variable | default | meaning |", "|---|---|---|"]
        lines += [row(Settings.model_fields[name]) for name in names]
    return "\n".join(lines) + "\n"


def sections() -> list[tuple[str, list[str]]]:
    """The fields in the order of the source, by its section comments."""
    found: list[tuple[str, list[str]]] = []
    source = Path(__file__).parent.parent / "src" / "turnkeep"
    files = (source / "core_settings.py", source / "settings.py")
    for line in "\n".join(file.read_text() for file in files).splitlines():
        if heading := SECTION.search(line):
            found.append((heading[1], []))
        elif (name := line.strip().split(":")[0]) in Settings.model_fields and line.startswith("    ") and found:
            found[-1][1].append(name)
    return [(title, names) for title, names in found if names]


def row(field: FieldInfo) -> str:
    choices = getattr(field.validation_alias, "choices", [field.validation_alias])
    names = ", ".join(f"`{choice}`" for choice in choices)
    default = "" if field.default in (None, {}, ()) else f"`{field.default}`"
    return f"| {names} | {default} | {(field.description or '').replace('|', chr(92) + '|')} |"


if __name__ == "__main__":
    PAGE.write_text(page())
