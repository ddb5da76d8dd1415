"""`turnkeep simulate`: the simulator in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from turnkeep.cli import output
from turnkeep.cli.arguments import JsonOption
from turnkeep.errors import ConfigurationError
from turnkeep.pricing.prices import SIMULATOR

app = typer.Typer(add_completion=False)


ListenAddress = Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")]
AnyPort = Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="Port to listen on; 0: any.")]
ClientKey = Annotated[
    str | None, typer.Option(metavar="KEY", help="What a client has to show; else one is made and printed.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="Equal seeds give equal answers.")]
FirstToken = Annotated[float, typer.Option(min=0, metavar="MS", help="Milliseconds before the first token.")]
Token = Annotated[float, typer.Option(min=0, metavar="MS", help="Milliseconds between tokens.")]
Ways = Annotated[str, typer.Option(metavar="NAME", help="Whose ways it has.")]
LedgerFile = Annotated[
    Path | None, typer.Option(metavar="FILE", dir_okay=False, help="Append what was asked to this JSONL file.")
]
KeepAll = Annotated[bool, typer.Option("--unbounded", help="Keep every exchange in memory.")]
Split = Annotated[bool, typer.Option("--split", help="Cut streams at arbitrary bytes.")]
Ping = Annotated[float | None, typer.Option(min=0, metavar="S", help="Seconds between comments.")]


@app.command()
def simulate(  # noqa: PLR0913 - the options of a verb
    *,
    host: ListenAddress = "127.0.0.1",
    port: AnyPort = 8090,
    key: ClientKey = None,
    seed: Seed = 0,
    first: FirstToken = 150.0,
    token: Token = 20.0,
    quirk: Ways = "openai",
    ledger: LedgerFile = None,
    keep_all: KeepAll = False,
    split: Split = False,
    ping: Ping = None,
    as_json: JsonOption = False,
) -> None:
    """Start an OpenAI-compatible server: Responses, Conversations and Chat Completions by
    rules. Ctrl-C ends it.
    """
    from turnkeep.simulator import QUIRKS, Options, StreamPace, run
    from turnkeep.simulator.listener import DEV_LEDGER, new_key

    if quirk not in QUIRKS:
        raise typer.BadParameter(f"{quirk!r} is none of {', '.join(sorted(QUIRKS))}", param_hint="--quirk")
    limit = None if keep_all else DEV_LEDGER
    # Under its own name, whatever was asked: its answers cost nothing, those of the model that
    # was named would.
    options = Options(quirk=quirk, answers_as=SIMULATOR, ledger_file=ledger, ledger_limit=limit, split=split, ping=ping)
    client_key = key or new_key()
    pace = StreamPace(first / 1000, token / 1000)

    def announce(url: str) -> None:
        _announce(url, client_key, as_json=as_json)

    try:
        run(host, port, seed=seed, pace=pace, options=options, key=client_key, announce=announce)
    except OSError as error:
        raise _mistake(error, ledger, f"{host}:{port}") from error


def _announce(url: str, key: str, *, as_json: bool) -> None:
    if as_json:
        output.emit({"base_url": url, "key": key})
        return
    output.say(f"simulator listening on {url}")
    output.say(f"OPENAI_BASE_URL={url} OPENAI_API_KEY={key} turnkeep dev", style="dim")


def _mistake(error: OSError, ledger: Path | None, address: str) -> ConfigurationError:
    # Of the two that can fail here only a file gives its name.
    if ledger is not None and error.filename is not None:
        return ConfigurationError(f"the ledger {ledger} cannot be written: {error.strerror}")
    return ConfigurationError(f"cannot listen on {address}: {error.strerror or error}, choose another with --port")
