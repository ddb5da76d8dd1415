"""The pages for who comes from elsewhere: every sample runs, every command is one that is tested."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from tests.docs.samples import ROOT, python_of

PAGES = sorted((ROOT / "docs" / "coming-from").glob("*.md"))
SAID = {
    "message-bull": ["Hello, assistant!", "'failedCount': 0", '"degrees": 21'],
    "message-bullmq": ["Say hello."],
    "streaming-service-channels": ["What is the capital of France?"],
    "streaming-service-assistants": ["Manila Harbour"],
    "assistants-api": ["user\nuser\n", "output", "assistant"],
    "openai-service": ["Content:", "Cost: ", "custom_tool", "Processed: x", "'content': 'Hello!'"],
}


async def test_the_first_code_of_readme_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = compile(python_of(ROOT / "README.md"), "README", "exec")
    await asyncio.to_thread(exec, code, {"__name__": "sample"})
    assert "Hello, assistant!" in capsys.readouterr().out


async def test_the_tutorial_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = compile(python_of(ROOT / "docs" / "tutorial.md"), "tutorial", "exec")
    await asyncio.to_thread(exec, code, {"__name__": "sample"})

    out = capsys.readouterr().out
    said = [
        "Hello, assistant!",
        "accepted 1 1.5\naccepted 2 1.5\naccepted 3 1.5\n",
        "3 messages, one answer",
        "9 to 17",
    ]
    assert [words for words in said if words not in out] == []


@pytest.mark.parametrize("page", SAID)
async def test_its_samples_run_as_they_stand(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = compile(python_of(ROOT / "docs" / "coming-from" / f"{page}.md"), page, "exec")
    # in a thread: the samples have an event loop of their own
    await asyncio.to_thread(exec, code, {"__name__": "sample"})

    out = capsys.readouterr().out
    assert [words for words in SAID[page] if words not in out] == []


def test_every_text_has_its_page() -> None:
    assert {page.stem for page in PAGES} == {*SAID, "index"}


def test_every_command_of_the_pages_is_one_that_is_tested() -> None:
    table = (ROOT / "docs" / "reference" / "seed-commands.md").read_text()
    commands = {line for page in PAGES for line in re.findall(r"^\$ (python main\.py.*)$", page.read_text(), re.M)}
    assert len(commands) > 6
    for command in commands:
        words = command.split()
        assert f"`{' '.join(words[:3])}" in table, command
