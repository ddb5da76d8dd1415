"""`turnkeep worker`: answers what waits in the store, without doors."""

from __future__ import annotations

from typing import Annotated

import typer

from turnkeep.cli import context, output
from turnkeep.cli.arguments import Concurrency, FarStore, Host, JsonOption, SimulatedOption, Tools, UnsafeRedis
from turnkeep.cli.running_service import say_plainly
from turnkeep.cli.serving import run

app = typer.Typer(add_completion=False)


@app.command()
def worker(  # noqa: PLR0913 - the options of a verb
    *,
    queues: Annotated[
        str, typer.Option("--queues", metavar="NAME,…", help="Queues to answer (that of TURNKEEP_QUEUE).")
    ] = "",
    tools: Tools = None,
    concurrency: Concurrency = None,
    host: Host = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", metavar="PORT", min=0, max=65535, help="Show /metrics, /healthz and /readyz there; 0: any."
        ),
    ] = None,
    simulator: SimulatedOption = False,
    allow_network_filesystem: FarStore = False,
    allow_unsafe_redis: UnsafeRedis = False,
    as_json: JsonOption = False,
) -> None:
    """Start a worker alone. SIGTERM drains it: runs end or are given back, no attempt is used up."""
    settings = context.settings(
        tools_file=tools,
        concurrency=concurrency,
        host=host,
        worker_port=port,
        # None leaves the word to the environment. False would overrule it, although nobody said no.
        simulator=simulator or None,
        allow_network_filesystem=allow_network_filesystem or None,
        allow_unsafe_redis=allow_unsafe_redis or None,
    )
    names = [name.strip() for name in queues.split(",") if name.strip()]
    run(
        settings,
        "worker",
        lambda service: output.emit(service.to_json()) if as_json else say_plainly("worker", service),
        queues=names,
    )
