"""`turnkeep dev`: everything in one process, and what one needs to try it."""

from __future__ import annotations

import secrets
import shlex
import webbrowser
from typing import Annotated

import typer

from turnkeep.cli import context, output, version
from turnkeep.cli.arguments import Concurrency, Host, JsonOption, Port, Tools
from turnkeep.cli.running_service import RunningService, warn
from turnkeep.cli.serving import run

app = typer.Typer(add_completion=False)


@app.command()
def dev(
    *,
    host: Host = None,
    port: Port = None,
    tools: Tools = None,
    concurrency: Concurrency = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start again when the tools file or .env has changed.")
    ] = False,
    token: Annotated[
        bool, typer.Option("--token", help="Ask everybody for a token, made for this start and shown once.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start everything in one process: page, socket, API and worker. Ctrl-C drains and ends it."""
    # With --reload the child is given the flag and makes its own.
    secret = secrets.token_urlsafe(32) if token and not reload else None
    settings = context.settings(
        host=host, port=port, tools_file=tools, concurrency=concurrency, simulator=True, start_token=secret
    )
    if reload:
        from turnkeep.cli import reloading

        options = {"host": host, "port": port, "tools": tools, "concurrency": concurrency}
        flags = [name for name, on in (("open", open_page), ("token", token), ("json", as_json)) if on]
        raise typer.Exit(reloading.run(settings, reloading.words(options, flags)))

    def tell(service: RunningService) -> None:
        output.emit(service.to_json() | ({"token": secret} if secret else {})) if as_json else welcome(service, secret)
        if open_page and service.url:
            webbrowser.open(service.url)

    run(settings, "all", tell, demonstrates=True)


def welcome(service: RunningService, token: str | None = None) -> None:
    """Where the page and the socket are, a line to paste, where the data is, and who answers."""
    output.say(f"turnkeep {version()}", style="bold")
    output.say()
    lines = [
        ("page", f"{service.url}/"),
        ("token", token),
        ("socket", service.socket),
        ("send", curl(f"{service.url}", token)),
        ("watch", f"curl -N {service.url}/api/channels/hello/events{_header_option(token)}"),
        ("answers", service.answers),
        ("tools", ", ".join(service.tools) or None),
        ("data", service.data),
    ]
    output.facts(lines)
    output.say()
    warn(service)
    output.say("Ctrl-C ends it; `turnkeep --help` shows the other commands", style="dim")


def _header_option(token: str | None) -> str:
    """How a line of curl shows the token."""
    return "" if token is None else " -H " + shlex.quote(f"authorization: Bearer {token}")


def curl(url: str, token: str | None = None) -> str:
    """A line to paste into a shell."""
    body = '{"message": "Hello, assistant!"}'
    line = ["curl", f"{url}/api/channels/hello/messages", "-H", "content-type: application/json", "-d", body]
    return shlex.join(line) + _header_option(token)
