"""The settings page says what the settings are."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from turnkeep.settings import Settings

ROOT = Path(__file__).parent.parent.parent


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_setting_is_a_keyword_of_its_type() -> None:
    types = (ROOT / "src" / "turnkeep" / "setting_types.py").read_text()
    assert types == script("setting_types").module(), "run: python scripts/setting_types.py"


def test_every_setting_stands_on_its_page() -> None:
    reference = script("settings_reference")
    told = (ROOT / "docs" / "reference" / "settings.md").read_text()

    assert told == reference.page(), "run: python scripts/settings_reference.py"
    assert sum(len(names) for _, names in reference.sections()) == len(Settings.model_fields)
