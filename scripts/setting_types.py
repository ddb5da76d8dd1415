"""Write src/turnkeep/setting_types.py from the settings themselves: `python scripts/setting_types.py`."""

from __future__ import annotations

import re
from pathlib import Path

from turnkeep.settings import Settings

FILE = Path(__file__).parent.parent / "src" / "turnkeep" / "setting_types.py"
OWN = {
    "QueueSettings": (
        *("redis_url", "openai_api_key", "store", "window", "max_wait", "adaptive"),
        *("on_busy", "max_attempts", "concurrency"),
    ),
    "ServiceSettings": ("store", "workspace"),
}
"""The settings that a constructor has a parameter of its own for."""
HEAD = '''"""Every setting as a typed keyword, for the constructors that take them beside their own.

None is as if it was not given. Made by `scripts/setting_types.py` from the settings; a test compares it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

from pydantic import SecretStr

from turnkeep.messages import BusyPolicy
'''
FORMS = (
    (r"typing\.", ""),
    (r"pathlib\.Path", "str | Path"),
    (r"SecretStr", "str | SecretStr"),
    (r"tuple\[(.+), \.\.\.\]", r"Sequence[\1]"),
    (r"dict\[", "Mapping["),
    (r"Optional\[(Literal\[.+\])\]", r"\1 | None"),
)


def module() -> str:
    """The whole module."""
    shared = [name for name in Settings.model_fields if not any(name in own for own in OWN.values())]
    parts = [HEAD, _class("SharedSettings", "TypedDict, total=False", "What every constructor takes.", shared)]
    for title, own in OWN.items():
        more = [name for name in Settings.model_fields if name not in own and name not in shared]
        parts.append(_class(title, "SharedSettings, total=False", "And what has no parameter of its own there.", more))
    return "\n\n".join(parts)


def _class(title: str, bases: str, doc: str, names: list[str]) -> str:
    lines = [f"class {title}({bases}):", f'    """{doc}"""', ""]
    return "\n".join([*lines, *(f"    {name}: {_form(name)}" for name in names)]) + "\n"


def _form(name: str) -> str:
    """The annotation of a field, as wide as its validator takes it."""
    annotation = Settings.model_fields[name].annotation
    text = (
        annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )
    text = "str | Path" if text == "Path" else text
    text = re.sub(r"(?:\w+\.)+(?=[A-Z])", lambda match: "pathlib." if match[0] == "pathlib." else "", text)
    for pattern, form in FORMS:
        text = re.sub(pattern, form, text)
    if name == "on_busy":
        text = "BusyPolicy"
    return (text if text.endswith("| None") else f"{text} | None").replace("'", '"')


if __name__ == "__main__":
    FILE.write_text(module())
