"""Operands and options that several verbs take."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from turnkeep.errors import InvalidMessage

_UNITS = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def duration(text: str | float) -> float:
    """Seconds of ``90s``, ``15m``, ``12h``, ``30d`` or ``2w``."""
    if isinstance(text, int | float):
        return float(text)
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None:
        raise typer.BadParameter(f"{text!r} is no duration, write one like 90s, 15m, 12h, 30d or 2w")
    return float(match[1]) * _UNITS[match[2]]


def channel(text: str) -> str:
    """A channel as every door takes it."""
    from turnkeep.inputs import checked_channel

    try:
        return checked_channel(text)
    except InvalidMessage as error:
        raise typer.BadParameter(str(error)) from None


JsonOption = Annotated[bool, typer.Option("--json", help="Write JSON, for machines.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Tenant = Annotated[str, typer.Option("--tenant", metavar="NAME", help="Whose.")]
Channel = Annotated[str, typer.Argument(metavar="CHANNEL", parser=channel, help="Channel, or thread_… id.")]
Host = Annotated[str | None, typer.Option("--host", metavar="ADDRESS", help="Address to listen on (127.0.0.1).")]
Port = Annotated[
    int | None, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port to listen on (8080); 0: any.")
]
Tools = Annotated[
    str | None,
    typer.Option("--tools", metavar="FILE", help="Tools: a .toml that declares them, or a .py with @tool functions."),
]
Concurrency = Annotated[int | None, typer.Option("--concurrency", metavar="N", min=1, help="Runs at once (256).")]
SimulatedOption = Annotated[
    bool,
    typer.Option("--simulator", help="Let the simulator answer without a model, though credentials are asked for."),
]
FarStore = Annotated[
    bool,
    typer.Option(
        "--allow-network-filesystem", help="Open a SQLite store on a network file system, from one machine alone."
    ),
]
UnsafeRedis = Annotated[
    bool,
    typer.Option("--allow-unsafe-redis", help="Start on a Redis that could lose or evict what was accepted."),
]
NoAuth = Annotated[
    bool,
    typer.Option("--insecure-no-auth", help="Listen beyond this machine, and let everybody do everything."),
]
OlderThan = Annotated[
    float, typer.Option("--older-than", metavar="TIME", parser=duration, help="Only without activity for so long.")
]
ANY_AGE: Any = "0s"
"""A default is parsed like what is given."""
