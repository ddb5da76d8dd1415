"""The settings page says what the settings are."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from turnkeep.settings import Settings

ROOT = Path(__file__).parent.parent.parent


def test_every_setting_stands_on_its_page() -> None:
    spec = importlib.util.spec_from_file_location("settings_reference", ROOT / "scripts" / "settings_reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)

    told = (ROOT / "docs" / "reference" / "settings.md").read_text()

    assert told == reference.page(), "run: python scripts/settings_reference.py"
    assert sum(len(names) for _, names in reference.sections()) == len(Settings.model_fields)
