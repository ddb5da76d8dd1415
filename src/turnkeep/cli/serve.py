"""`turnkeep serve`, and `turnkeep` alone: the service."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from turnkeep.cli import context, output
from turnkeep.cli.arguments import Concurrency, FarStore, Host, Json, Port, SimulatedOption, Tools
from turnkeep.cli.serving import run, say_plainly

app = typer.Typer(add_completion=False)

Role = Literal["all", "gateway", "worker"]


@app.command()
def serve(
    *,
    role: Annotated[
        Role,
        typer.Option(
            "--role", metavar="ROLE", help="gateway: doors only; worker: answers only; all: both in one process."
        ),
    ] = "all",
    host: Host = None,
    port: Port = None,
    tools: Tools = None,
    concurrency: Concurrency = None,
    simulator: SimulatedOption = False,
    allow_network_filesystem: FarStore = False,
    as_json: Json = False,
) -> None:
    """Start the service. Without a key or base URL the simulator
    answers, and it says so. SIGTERM drains it.
    """
    settings = context.settings(
        host=host,
        port=port,
        tools_file=tools,
        concurrency=concurrency,
        # None leaves the word to the environment. False would overrule it, although nobody said no.
        simulator=simulator or None,
        allow_network_filesystem=allow_network_filesystem or None,
    )
    run(settings, role, lambda service: output.emit(service.to_json()) if as_json else say_plainly(role, service))
