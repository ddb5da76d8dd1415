"""What only a run needs is loaded by the first run, and what only some installations need by them alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ONLY_FOR_RUNS = {"aiohttp", "genai_prices", "tiktoken"}
ONLY_FOR_SOME = {"jwt", "mcp", "prometheus_client", "redis", "sqlalchemy", "structlog"}

OPEN = """
import asyncio, json, sys
from turnkeep import AssistantMessageQueue
from turnkeep.application import Application
from turnkeep.doors.server import listening
from turnkeep.pricing import tokenizer_for
from turnkeep.settings import Settings

def loaded():
    found = {name.partition(".")[0] for name in sys.modules}
    return sorted(found) + (["a vocabulary"] if tokenizer_for("gpt-4o").is_loaded else [])
"""
A_SERVICE = """
async def main():
    async with listening(Application(Settings(port=0)), ROLE):
        print(json.dumps(loaded()))

asyncio.run(main())
"""
A_RUN = """

async def main():
    async with AssistantMessageQueue(message_delay=0.3) as queue:
        queue.start_worker()
        before = loaded()
        answer = await queue.ask("c1", "Hello")
        print(json.dumps([before, loaded(), bool(answer)]))

asyncio.run(main())
"""


def told_by(program: str, folder: Path) -> Any:
    """The JSON that a fresh interpreter prints."""
    command = [sys.executable, "-c", OPEN + program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("role", ["all", "gateway"])
def test_a_service_that_listens_has_loaded_nothing_that_only_a_run_needs(tmp_path: Path, role: str) -> None:
    found = set(told_by(A_SERVICE.replace("ROLE", repr(role)), tmp_path))
    assert found & (ONLY_FOR_RUNS | ONLY_FOR_SOME | {"a vocabulary"}) == set()


def test_the_first_run_loads_what_runs_need(tmp_path: Path) -> None:
    before, after, is_answered = told_by(A_RUN, tmp_path)
    assert set(before) & (ONLY_FOR_RUNS | {"a vocabulary"}) == set()
    assert set(after) >= ONLY_FOR_RUNS | {"a vocabulary"}
    assert is_answered
