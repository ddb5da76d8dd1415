"""`turnkeep doctor`: what is in the way, before it is in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import typer

from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption
from turnkeep.cli.checks import examine
from turnkeep.cli.findings import Finding, failure, ok
from turnkeep.errors import ConfigurationError

app = typer.Typer(add_completion=False)

MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failure": ("✗", "red")}


@app.command()
def doctor(
    *,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no model server.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if there are warnings.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check everything. Exit code 0: fine; 1: warnings, with --strict; 2: something fails."""
    findings = asyncio.run(_examine(offline=offline, as_json=as_json))
    states = {finding.state for finding in findings}
    if as_json:
        output.emit({"ok": "failure" not in states, "checks": [finding.to_json() for finding in findings]})
    raise typer.Exit(2 if "failure" in states else 1 if strict and "warning" in states else 0)


async def _examine(*, offline: bool, as_json: bool) -> list[Finding]:
    """All findings; told as they are found, unless machines want them."""
    findings = []
    async for finding in _findings(offline=offline):
        findings.append(finding)
        if not as_json:
            _tell(finding)
    return findings


async def _findings(*, offline: bool) -> AsyncIterator[Finding]:
    try:
        settings = context.settings()
    except ConfigurationError as error:
        # Everything else is looked at through the settings.
        yield failure("settings", str(error))
        return
    yield ok("settings", f"read, {len(settings.model_fields_set)} of them set")
    async for finding in examine(settings, offline=offline):
        yield finding


def _tell(finding: Finding) -> None:
    mark, style = MARKS[finding.state]
    output.say(f"{mark} {finding.name:<14}{finding.sentence}", style=style if finding.state != "ok" else "")
