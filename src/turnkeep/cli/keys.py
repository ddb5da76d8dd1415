"""`turnkeep keys`: who may come in."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from turnkeep.auth.api_keys import ApiKeys, Key, read_scopes
from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption, Tenant, Yes, duration
from turnkeep.cli.audit import report
from turnkeep.clock import SystemClock
from turnkeep.settings import Settings

app = typer.Typer(add_completion=False, no_args_is_help=True, help="API keys: who may come in.")


def _scopes(text: str) -> str:
    words = [word.strip() for word in text.split(",")]
    if extra := sorted(set(words) - set(read_scopes(words))):
        raise typer.BadParameter(f"{', '.join(extra)!r} is no scope, take some of read, send, approve, manage, admin")
    return ",".join(words)


KeyId = Annotated[str, typer.Argument(metavar="ID", help="Id of the key: the part between tk_ and the next _.")]
KeyName = Annotated[str, typer.Option("--name", metavar="TEXT", help="What it is for.")]
Scopes = Annotated[
    str,
    typer.Option(
        "--scopes", metavar="LIST", parser=_scopes, help="Of read, send, approve, manage, admin, with commas."
    ),
]
KeyChannels = Annotated[
    list[str] | None, typer.Option("--channel", metavar="NAME", help="A channel it reaches, or prefix*; all without.")
]
Expires = Annotated[
    float | None, typer.Option("--expires-in", metavar="TIME", parser=duration, help="Ends after so long; else never.")
]


@app.command()
def create(
    *,
    name: KeyName = "",
    scopes: Scopes = "send,read",
    channel: KeyChannels = None,
    expires_in: Expires = None,
    tenant: Tenant = "default",
    as_json: JsonOption = False,
) -> None:
    """Make a key and print it: this once, for only its digest is kept."""
    fields: dict[str, Any] = {
        "name": name,
        "tenant": tenant,
        "scopes": read_scopes(scopes.split(",")),
        "channels": channel or None,
        "expires_at": None if expires_in is None else SystemClock().now() + expires_in,
    }
    value, key = asyncio.run(_create(context.settings(), fields))
    if as_json:
        output.emit({**key.to_json(), "key": value})
        return
    # Alone on stdout, so that a script can put it where it belongs.
    output.say(value)
    output.note(f"keep it now, it is not shown again; take it back with: turnkeep keys revoke {key.key_id}")


async def _create(settings: Settings, fields: dict[str, Any]) -> tuple[str, Key]:
    # The first key may be made before a server was ever started.
    async with context.attach_store(settings, create=True) as store:
        value, key = await ApiKeys(store).create(**fields)
        await report(store, "key_created", tenant=key.tenant, key=key.key_id, scopes=",".join(key.scopes))
        return value, key


@app.command("list")
def list_keys(*, as_json: JsonOption = False) -> None:
    """List keys, without their secrets."""
    keys = asyncio.run(_list(context.settings()))
    if as_json:
        for key in keys:
            output.emit(key.to_json())
        return
    rows = [(k.key_id, k.name, k.tenant, " ".join(k.scopes), _reach(k), _state(k)) for k in keys]
    output.table(("ID", "NAME", "TENANT", "SCOPES", "CHANNELS", "STATE"), rows, empty="no keys yet")


async def _list(settings: Settings) -> list[Key]:
    async with context.attach_store(settings) as store:
        return await ApiKeys(store).list()


@app.command()
def revoke(key: KeyId, *, yes: Yes = False, as_json: JsonOption = False) -> None:
    """Take a key back: it is refused everywhere within a second, open sockets are closed."""
    settings = context.settings()
    output.confirm(f"revoke the key {key} in {context.store_location(settings)}?", yes=yes)
    record = asyncio.run(_revoke(settings, key))
    if as_json:
        output.emit(record.to_json())
    else:
        output.say(f"Key revoked: {record.key_id}")


async def _revoke(settings: Settings, key_id: str) -> Key:
    async with context.attach_store(settings) as store:
        key = await ApiKeys(store).revoke(key_id)
        await report(store, "key_revoked", tenant=key.tenant, key=key.key_id)
        return key


def _reach(key: Key) -> str:
    return "all" if key.channels is None else " ".join(key.channels)


def _state(key: Key) -> str:
    if key.revoked_at is not None:
        return f"revoked {output.moment(key.revoked_at)}"
    if key.expires_at is not None:
        return f"until {output.moment(key.expires_at)}"
    return "valid"
