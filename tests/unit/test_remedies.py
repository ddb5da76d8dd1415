"""Every cause for which people wait has a remedy, and a remedy names only what there is."""

from __future__ import annotations

import re
from collections.abc import Iterator

from turnkeep.errors import EndpointBlocked, ModelError, TurnkeepError, Waiting
from turnkeep.hub import SILENT_RUN
from turnkeep.remedies import REMEDIES, remedy_of
from turnkeep.settings import Settings

REPAIRED_HERE = {"model_error", "unanswered_call", "response_lost", "waiting"}
"""Roots that nothing raises, and what a run mends by itself."""


def codes(kind: type[TurnkeepError]) -> Iterator[str]:
    yield kind.code
    for child in kind.__subclasses__():
        yield from codes(child)


def test_a_run_that_waits_or_fails_at_a_model_has_a_remedy() -> None:
    waits = {*codes(ModelError), *codes(EndpointBlocked), *codes(Waiting), SILENT_RUN.code}
    assert sorted(code for code in waits - REPAIRED_HERE if not remedy_of(code)) == []


def test_every_remedy_is_for_a_code_that_there_is() -> None:
    assert sorted(REMEDIES.keys() - {*codes(TurnkeepError), SILENT_RUN.code}) == []
    assert remedy_of("no_such_code") == ""


def test_a_remedy_names_settings_that_there_are() -> None:
    known = {str(field.validation_alias or "") for field in Settings.model_fields.values()}
    known |= {name.upper() for name in Settings.model_fields}
    known |= {choice for field in Settings.model_fields.values() for choice in _choices(field.validation_alias)}
    names = {name for text in REMEDIES.values() for name in re.findall(r"\b[A-Z]{3,}_[A-Z_]+\b", text)}
    assert sorted(name for name in names if name not in known) == []


def _choices(alias: object) -> list[str]:
    return [str(one) for one in getattr(alias, "choices", [])]
