"""Tools that note what they do in a file: the ledger of effects, which no store and no worker can revise.

Each act is one line, written in one write before anything is answered, so a killed process leaves what it has done.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path

import orjson

from tests.chaos.judge import Deed
from turnkeep.tools.tool import Tool, ToolContext, tool

PAUSE = 0.1
"""Seconds before and after the act: time to die in."""


def tools_noting(file: Path) -> tuple[Tool, Tool]:
    """``stamp``, which has an effect, and ``look``, which is idempotent by its key."""

    async def act(kind: str, message: str, context: ToolContext) -> str:
        await asyncio.sleep(PAUSE)
        note(file, Deed(kind, message, context.call_id, context.idempotency_key))
        await asyncio.sleep(PAUSE)
        return "done"

    @tool
    async def stamp(message: str, context: ToolContext) -> str:
        """Put a stamp on a message."""
        return await act("stamp", message, context)

    @tool(effect="idempotent")
    async def look(message: str, context: ToolContext) -> str:
        """Look a message up."""
        return await act("look", message, context)

    return stamp, look


def note(file: Path, deed: Deed) -> None:
    ledger = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(ledger, orjson.dumps(asdict(deed)) + b"\n")
    finally:
        os.close(ledger)


def read_deeds(file: Path) -> list[Deed]:
    """Everything that was done, in order."""
    if not file.exists():
        return []
    return [Deed(**orjson.loads(line)) for line in file.read_bytes().splitlines()]


def write_tools_file(file: Path, ledger: Path) -> Path:
    """A tools file for workers, with the place of the ledger in it."""
    lines = [
        "from pathlib import Path",
        "from tests.chaos.effects import tools_noting",
        f"stamp, look = tools_noting(Path({str(ledger)!r}))",
    ]
    file.write_text("\n".join(lines) + "\n")
    return file
