"""`turnkeep restore PATH`: a backup in the place of the store."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from turnkeep.auth.api_keys import ApiKeys, Key
from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption, Yes
from turnkeep.cli.backup import sqlite_file
from turnkeep.clock import SystemClock
from turnkeep.settings import Settings

app = typer.Typer(add_completion=False)


@app.command()
def restore(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file that `turnkeep backup` wrote.")],
    yes: Yes = False,
    as_json: JsonOption = False,
) -> None:
    """Put a backup in the place of the store, which nobody may use meanwhile; the old file
    is kept beside it.
    """
    from turnkeep.store.sqlite import place_aside
    from turnkeep.store.sqlite import restore as put_back

    settings = context.settings()
    store = sqlite_file(settings, "put a backup in its place")
    old_store = place_aside(store) if store.exists() else None
    if old_store:
        # Nothing has been moved yet: only the name is chosen, so that the question can say it.
        output.confirm(f"replace {store} by {path}? (the old one is kept as {old_store.name})", yes=yes)
    put_back(path, store)
    keys = asyncio.run(_valid_keys(settings))
    if as_json:
        old_path = str(old_store) if old_store else None
        valid_keys = [key.to_json() for key in keys]
        output.emit({"store": str(store), "restored": str(path.absolute()), "kept": old_path, "valid_keys": valid_keys})
        return
    output.say(f"restored {store} from {path}" + (f", the old one is {old_store.name}" if old_store else ""))
    for key in keys:
        output.note(f"valid again: key {key.key_id} {key.name} ({key.tenant}, {', '.join(key.scopes)})")


async def _valid_keys(settings: Settings) -> list[Key]:
    """Whoever holds one of these comes in: the backup knew nothing of what happened to them
    elsewhere.
    """
    now = SystemClock().now()
    async with context.attach_store(settings) as store:
        return [key for key in await ApiKeys(store).list() if key.is_valid(now)]
