"""`turnkeep simulate`: the simulator in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from turnkeep.cli import output
from turnkeep.cli.arguments import Json
from turnkeep.errors import ConfigurationError
from turnkeep.pricing.prices import SIMULATOR

app = typer.Typer(add_completion=False)


@app.command()
def simulate(  # noqa: PLR0913 - the options of a verb
    *,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="Port to listen on; 0: any.")] = 8090,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="What a client has to show; else one is made and printed.")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Equal seeds give equal answers.")] = 0,
    first: Annotated[float, typer.Option(min=0, metavar="MS", help="Milliseconds before the first token.")] = 150.0,
    token: Annotated[float, typer.Option(min=0, metavar="MS", help="Milliseconds between tokens.")] = 20.0,
    quirk: Annotated[str, typer.Option(metavar="NAME", help="Whose ways it has.")] = "openai",
    ledger: Annotated[
        Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Append what was asked to this JSONL file.")
    ] = None,
    keep_all: Annotated[bool, typer.Option("--unbounded", help="Keep every exchange in memory.")] = False,
    split: Annotated[bool, typer.Option("--split", help="Cut streams at arbitrary bytes.")] = False,
    ping: Annotated[float | None, typer.Option(min=0, metavar="S", help="Seconds between comments.")] = None,
    as_json: Json = False,
) -> None:
    """Start an OpenAI-compatible server: Responses, Conversations and Chat
    Completions by rules. Ctrl-C ends it.
    """
    from turnkeep.simulator import QUIRKS, Options, StreamPace, run
    from turnkeep.simulator.listener import DEV_LEDGER, new_key

    if quirk not in QUIRKS:
        raise typer.BadParameter(f"{quirk!r} is none of {', '.join(sorted(QUIRKS))}", param_hint="--quirk")
    limit = None if keep_all else DEV_LEDGER
    client_key = key or new_key()
    options = Options(quirk=quirk, answers_as=SIMULATOR, ledger_file=ledger, ledger_limit=limit, split=split, ping=ping)

    def announce(url: str) -> None:
        if as_json:
            output.emit({"base_url": url, "key": client_key})
            return
        output.say(f"simulator listening on {url}")
        output.say(f"OPENAI_BASE_URL={url} OPENAI_API_KEY={client_key} turnkeep dev", style="dim")

    try:
        pace = StreamPace(first / 1000, token / 1000)
        run(host, port, seed=seed, pace=pace, options=options, key=client_key, announce=announce)
    except OSError as error:
        if ledger is not None and error.filename is not None:
            raise ConfigurationError(f"the ledger {ledger} cannot be written: {error.strerror}") from error
        raise ConfigurationError(
            f"cannot listen on {host}:{port}: {error.strerror or error}, choose another with --port"
        ) from error
