"""The tab key: what may follow a word is what the commands take, and no verb is imported but the one typed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from turnkeep.cli import FLAGS, VERBS
from turnkeep.cli.completion import SCRIPTS, complete


@pytest.mark.parametrize(
    ("line", "candidates"),
    [
        ([""], [*VERBS, *FLAGS, "--env-file", "--help", "--version"]),
        (["s"], ["serve", "send", "sinks", "simulate"]),
        (["queue", ""], ["status", "pause", "resume", "dead", "circuits"]),
        (["queue", "dead", "re"], ["redrive"]),
        (["queue", "status", "--"], ["--watch", "--tenant", "--json", "--help", "--env-file"]),
        (["--env-file", "mine.env", "queue", "st"], ["status"]),
        (["queue", "status", "--tenant", ""], []),
        (["--env-file", ""], []),
        (["no-such-verb", ""], []),
    ],
)
def test_what_may_follow(line: list[str], candidates: list[str]) -> None:
    assert complete(line) == candidates


def test_bash_offers_it(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "turnkeep"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m turnkeep "$@"\n')
    program.chmod(0o755)
    script = SCRIPTS["bash"] + 'COMP_WORDS=(turnkeep queue dead re) COMP_CWORD=3; _turnkeep; echo "${COMPREPLY[*]}"'

    done = subprocess.run(
        ["bash", "-c", script], env={"PATH": f"{folder}:/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )

    assert (done.stdout, done.stderr) == ("redrive\n", "")


@pytest.mark.parametrize("shell", SCRIPTS)
def test_each_script_asks_with_the_words_that_were_typed(shell: str) -> None:
    assert "turnkeep completion words -- " in SCRIPTS[shell]
