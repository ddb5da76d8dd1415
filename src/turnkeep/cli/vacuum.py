"""`turnkeep vacuum`: the store written anew, without what was deleted."""

from __future__ import annotations

import typer

from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption
from turnkeep.errors import ConfigurationError
from turnkeep.settings import Settings

app = typer.Typer(add_completion=False)


@app.command()
def vacuum(*, as_json: JsonOption = False) -> None:
    """Write the store anew, in use or not, so that nothing of what was deleted is left in its
    file or its log.
    """
    from turnkeep.store.sqlite import vacuum as write_anew

    settings = context.settings()
    path = context.sqlite_path(settings)
    if path is None:
        raise ConfigurationError(_elsewhere(settings))
    with output.progress("writing"):
        before, after = write_anew(path)
    if as_json:
        output.emit({"store": str(path), "bytes_before": before, "bytes": after})
    else:
        output.say(f"wrote {path} anew ({output.size(before)} before, {output.size(after)} now)")


def _elsewhere(settings: Settings) -> str:
    if settings.store_url.startswith("memory:"):
        return "the store is memory: and leaves nothing on a disk"
    return "the store is a Redis: `redis-cli BGREWRITEAOF` writes its append-only file anew, BGSAVE its snapshot"
