"""The page about HTTP says what the routes are, and the page about going public says what the limits are."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from turnkeep.settings import Settings

ROOT = Path(__file__).parent.parent.parent
PUBLIC = (ROOT / "docs" / "how-to" / "go-public.md").read_text()
ENVIRONMENT = {
    str(choice): field
    for field in Settings.model_fields.values()
    for choice in getattr(field.validation_alias, "choices", ())
}


def test_every_route_stands_on_its_page() -> None:
    spec = importlib.util.spec_from_file_location("http_reference", ROOT / "scripts" / "http_reference.py")
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)

    told = (ROOT / "docs" / "reference" / "http.md").read_text()

    assert told == reference.page(), "run: python scripts/http_reference.py"


def test_every_setting_on_the_way_to_the_internet_exists() -> None:
    named = set(re.findall(r"TURNKEEP_\w+", PUBLIC)) | set(
        re.findall(r"TURNKEEP_\w+", (ROOT / "SECURITY.md").read_text())
    )
    assert named <= set(ENVIRONMENT)


LIMITS = re.findall(r"^\| [^|]+ \| `(TURNKEEP_\w+)` \| ([\d,/]+)", PUBLIC, re.MULTILINE)


@pytest.mark.parametrize(("name", "default"), LIMITS)
def test_a_limit_has_the_default_that_is_told(name: str, default: str) -> None:
    told, is_set = default.replace(",", ""), ENVIRONMENT[name].default
    assert (told == is_set) if isinstance(is_set, str) else (float(told) == float(is_set))


def test_every_limit_is_told() -> None:
    assert len(LIMITS) == 17
