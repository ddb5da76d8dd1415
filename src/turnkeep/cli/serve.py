"""`turnkeep serve`, and `turnkeep` alone: the service."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from turnkeep.cli import context, output
from turnkeep.cli.arguments import (
    Concurrency,
    FarStore,
    Host,
    JsonOption,
    NoAuth,
    Port,
    SimulatedOption,
    Tools,
    UnsafeRedis,
)
from turnkeep.cli.running_service import RunningService, say_plainly
from turnkeep.core_settings import Role

app = typer.Typer(add_completion=False)

MOST_PROCESSES = 256

ROLE = typer.Option(
    "--role", metavar="ROLE", help="gateway: doors only; worker: answers only; all: both in one process."
)
PROCESSES = typer.Option(
    "--processes",
    metavar="N",
    min=1,
    max=MOST_PROCESSES,
    help="So many processes on one port; SIGHUP exchanges them one by one.",
)
INHERIT = typer.Option("--inherit", hidden=True)


@app.command()
def serve(
    *,
    role: Annotated[Role, ROLE] = "all",
    host: Host = None,
    port: Port = None,
    tools: Tools = None,
    concurrency: Concurrency = None,
    processes: Annotated[int | None, PROCESSES] = None,
    inherit: Annotated[str, INHERIT] = "",
    simulator: SimulatedOption = False,
    allow_network_filesystem: FarStore = False,
    allow_unsafe_redis: UnsafeRedis = False,
    insecure_no_auth: NoAuth = False,
    as_json: JsonOption = False,
) -> None:
    """Start the service. Without a key or base URL the simulator answers, and it says so.
    SIGTERM drains it.
    """
    options: dict[str, Any] = {"host": host, "tools": tools, "concurrency": concurrency}
    flags = {
        "simulator": simulator,
        "allow_network_filesystem": allow_network_filesystem,
        "allow_unsafe_redis": allow_unsafe_redis,
        "insecure_no_auth": insecure_no_auth,
    }
    # A flag that is not given leaves the word to the environment. False would overrule it, although nobody said no.
    given_flags = {name: True for name, is_on in flags.items() if is_on}
    settings = context.settings(
        host=host, port=port, tools_file=tools, concurrency=concurrency, processes=processes, **given_flags
    )
    tell = partial(_tell, role, as_json)
    # imported where it runs: a parent of processes answers nobody and stays small
    if settings.processes > 1 and not inherit:
        from turnkeep.cli import reloading, supervisor

        words = reloading.words({"role": role, **options}, list(given_flags))
        raise typer.Exit(supervisor.run(settings, role, words, tell))
    from turnkeep.cli.inheritance import Inheritance
    from turnkeep.cli.serving import run

    run(settings, role, tell, inheritance=Inheritance.adopt(inherit) if inherit else None)


def _tell(role: Role, as_json: bool, service: RunningService) -> None:
    output.emit(service.to_json()) if as_json else say_plainly(role, service)
