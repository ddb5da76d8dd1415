"""`turnkeep restore PATH`: a backup in the place of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from turnkeep.cli import house, output
from turnkeep.cli.arguments import Json, Yes
from turnkeep.cli.backup import embedded

app = typer.Typer(add_completion=False)


@app.command()
def restore(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A file that `turnkeep backup` wrote.")],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Put a backup in the place of the store, which nobody may use meanwhile; the old file is kept beside it."""
    from turnkeep.store.sqlite import place_aside
    from turnkeep.store.sqlite import restore as put_back

    store = embedded(house.settings(), "put a backup in its place")
    replaced = place_aside(store) if store.exists() else None
    if replaced:
        output.confirm(f"replace {store} by {path}? (the old one is kept as {replaced.name})", yes=yes)
    put_back(path, store)
    if as_json:
        output.emit(
            {"store": str(store), "restored": str(path.absolute()), "kept": str(replaced) if replaced else None}
        )
        return
    output.say(f"restored {store} from {path}" + (f", the old one is {replaced.name}" if replaced else ""))
