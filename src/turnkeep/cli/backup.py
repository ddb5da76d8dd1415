"""`turnkeep backup PATH`: a copy of the store, taken while it is used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption
from turnkeep.errors import ConfigurationError
from turnkeep.settings import Settings

app = typer.Typer(add_completion=False)


@app.command()
def backup(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File to write; it must not exist.")],
    *,
    as_json: JsonOption = False,
) -> None:
    """Copy the store to a file that is complete and checked, while servers go on using it."""
    from turnkeep.store.sqlite import backup as copy

    source = sqlite_file(context.settings(), "back it up")
    with output.progress("copying"):
        size = copy(source, path)
    if as_json:
        output.emit({"store": str(source), "backup": str(path.absolute()), "bytes": size})
    else:
        output.say(f"copied {source} to {path} ({output.size(size)})")


def sqlite_file(settings: Settings, doing: str) -> Path:
    """The file of the store. Raises `ConfigurationError` that says what to do for other engines."""
    path = context.sqlite_path(settings)
    if path is not None:
        return path
    if settings.store_url.startswith("memory:"):
        raise ConfigurationError(f"the store is memory: and cannot be kept: set TURNKEEP_STORE to a file to {doing}")
    raise ConfigurationError(
        f"the store is a Redis: to {doing}, use its own persistence"
        " (BGSAVE and copy the RDB file, or copy the append-only files while it is stopped)"
    )
