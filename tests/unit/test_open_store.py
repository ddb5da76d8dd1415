"""A URL names the engine."""

from __future__ import annotations

import sys

import pytest

from turnkeep.errors import ConfigurationError
from turnkeep.store import Policies, Policy, open_store
from turnkeep.testing import FakeClock


async def test_memory_is_an_engine_with_its_options() -> None:
    clock = FakeClock()

    store = open_store("memory:", Policies(Policy(window=5.0)), clock=clock)

    assert store.engine == "memory"
    assert await store.now() == clock.now()


@pytest.mark.parametrize("url", ["", "postgres://localhost/x", "http://localhost", "c:/data/turnkeep.db"])
def test_an_unknown_engine_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="sqlite:PATH"):
        open_store(url)


def test_a_url_is_told_without_its_password() -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_store("mysql://user:secret@host/db")

    assert "secret" not in str(refused.value)
    assert "host" in str(refused.value)


@pytest.mark.parametrize("url", ["redis://127.0.0.1", "rediss://127.0.0.1", "unix:///tmp/x.sock"])
def test_a_missing_extra_names_the_command(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("redis", "turnkeep.store.redis"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)

    with pytest.raises(ConfigurationError, match=r"pip install 'turnkeep\[redis\]'"):
        open_store(url)
