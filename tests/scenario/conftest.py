"""Which store a promise is tried on."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(
    params=[
        pytest.param("memory", marks=pytest.mark.only_in_prove),  # daily in the contract, and under all of tests/runs
        "sqlite",
        pytest.param("redis", marks=pytest.mark.redis),
    ]
)
def store(request: pytest.FixtureRequest, memory_path: Path) -> str:
    """The URL of an empty store."""
    match request.param:
        case "memory":
            return "memory:"
        case "sqlite":
            return f"sqlite:{memory_path / 'turnkeep.db'}"
    return str(request.getfixturevalue("redis_server").url())
