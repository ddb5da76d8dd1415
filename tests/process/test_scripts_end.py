"""A script of the library ends without a word of ours, whether it closes what it opened or not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SETUP = """
import asyncio
from turnkeep import AssistantMessageQueue, ConversationManager, OpenAIService

queue = AssistantMessageQueue(message_delay=0.1, store="STORE")
"""
ENDS = {
    "asked and left": "queue.start_worker(); print(await queue.ask('c', 'hello [[say:fine]]'))",
    "asked and closed": "queue.start_worker(); print(await queue.ask('c', 'hello [[say:fine]]')); await queue.close()",
    "sent and left": "await queue.add_message_to_thread('c', 'hello'); print('fine')",
    "left in the middle of an answer": """
        queue.start_worker()
        await queue.add_message_to_thread('c', 'hello [[words:500]] [[pace:50]]', flush=True)
        async for event in queue.events('c', after=0, epoch=''):
            if event.kind == 'delta':
                break
        print('fine')""",
    "a stream of the service, left": """
        async for chunk in OpenAIService().stream_completion([{'role': 'user', 'content': 'hello [[words:500]]'}]):
            break
        print('fine')""",
    "a memory, left": """
        memory = ConversationManager(store='STORE')
        await memory.add_message('s', {'role': 'user', 'content': 'hello'})
        print('fine')""",
}


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], subprocess.CompletedProcess[str]]:
    def run(source: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", source]
        environment = {"PYTHONWARNINGS": "error", "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
        )

    return run


def words_of_ours(told: str) -> list[str]:
    """What is on stderr beside the note that a simulator answers."""
    return [line for line in told.splitlines() if not line.startswith("simulator_answers ")]


@pytest.mark.parametrize("store", ["memory:", pytest.param("sqlite:here.db", marks=pytest.mark.only_in_prove)])
@pytest.mark.parametrize(
    "end",
    [end if number % 2 == 0 else pytest.param(end, marks=pytest.mark.only_in_prove) for number, end in enumerate(ENDS)],
)  # reason: each starts an interpreter
def test_it_ends_cleanly(end: str, store: str, program: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    body = "\n".join(f"    {line.removeprefix('        ')}" for line in ENDS[end].strip("\n").splitlines())
    done = program(f"{SETUP}\nasync def main() -> None:\n{body}\n\nasyncio.run(main())".replace("STORE", store))

    assert (done.returncode, done.stdout, words_of_ours(done.stderr)) == (0, "fine\n", [])


def test_its_own_error_is_all_that_it_tells(program: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    body = "queue.start_worker(); await queue.ask('c', 'hello'); raise ValueError('of my own')"
    done = program(f"{SETUP}\nasync def main():\n    {body}\n\nasyncio.run(main())".replace("STORE", "memory:"))

    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1
    assert done.stderr.rstrip().endswith("ValueError: of my own")
