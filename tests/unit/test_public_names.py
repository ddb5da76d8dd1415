"""The public names: few, imported when they are asked for, and cheap until then."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from types import UnionType
from typing import Any

import pytest

import turnkeep
from tests.rows import each_row

HEAVY = {"aio_pika", "apsw", "genai_prices", "openai", "opentelemetry", "prometheus_client", "redis", "tiktoken"}
"""Parts that cost time, or that not everybody has installed."""

ONLY_WHEN_USED = HEAVY - {"apsw"}


def told_by(program: str) -> Any:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def modules_after(statement: str) -> list[str]:
    program = f"import json, sys; before = set(sys.modules)\n{statement}\n"
    loaded: list[str] = told_by(f"{program}print(json.dumps(sorted(set(sys.modules) - before)))")
    return loaded


@each_row("name", turnkeep.__all__)
def test_a_public_name_is_there(name: str) -> None:
    one = getattr(turnkeep, name)
    assert isinstance(one, UnionType) or one.__name__ == name  # a union has no name of its own
    assert name in dir(turnkeep)


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(AttributeError, match="module 'turnkeep' has no attribute 'Everything'"):
        _ = turnkeep.Everything  # type: ignore[attr-defined]


def test_importing_turnkeep_loads_next_to_nothing() -> None:
    loaded = modules_after("import turnkeep")
    assert {name for name in loaded if name.startswith("turnkeep.")} == set()
    assert len(loaded) < len(modules_after("import pydantic"))


@pytest.mark.slow  # a program that imports everything
def test_a_public_name_loads_nothing_that_may_be_missing() -> None:
    names = {place: name for name, place in turnkeep._PLACES.items()}.values()
    loaded = modules_after("\n".join(f"from turnkeep import {name}" for name in names))
    assert {module.partition(".")[0] for module in loaded} & ONLY_WHEN_USED == set()


def test_messages_and_errors_load_no_store() -> None:
    loaded = modules_after("from turnkeep import Message, Event, TurnkeepError")
    assert not [module for module in loaded if module.startswith("turnkeep.store")]


@pytest.mark.prove
def test_importing_turnkeep_costs_no_more_than_importing_pydantic(
    size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    rounds = size(2, 20)
    ours, theirs = (min(_cpu(f"import {name}") for _ in range(rounds)) for name in ("turnkeep", "pydantic"))
    proof("import", f"turnkeep {ours * 1000:.1f} ms, pydantic {theirs * 1000:.1f} ms of CPU")
    assert ours < theirs


def _cpu(statement: str) -> float:
    """Seconds of CPU of one import."""
    program = f"import time, json; begun = time.process_time()\n{statement}\n"
    seconds: float = told_by(f"{program}print(json.dumps(time.process_time() - begun))")
    return seconds
