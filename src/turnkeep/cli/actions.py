"""`turnkeep actions`: tool calls that wait for somebody."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from turnkeep.auth.audit_trail import channel_digest
from turnkeep.cli import context, output
from turnkeep.cli.arguments import Channel, JsonOption, Tenant
from turnkeep.cli.audit import report
from turnkeep.errors import NotFound
from turnkeep.messages import Address
from turnkeep.settings import Settings
from turnkeep.store.values import Decision, HeldCall, ThreadRecord

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Tool calls that wait for somebody.")

CallId = Annotated[str, typer.Argument(metavar="CALL", help="Id of the call.")]
DecisionReason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Told to the model.")]
By = Annotated[str, typer.Option("--by", metavar="NAME", help="Who decides.")]


@app.command("list")
def list_calls(*, tenant: Tenant = "default", as_json: JsonOption = False) -> None:
    """List the calls that wait, with their arguments."""
    settings = context.settings()
    calls = asyncio.run(_list(settings, tenant))
    if as_json:
        for record, call in calls:
            output.emit({"channel": record.address.channel, "thread_id": record.thread_id, **call.to_json()})
        return
    rows = [(r.address.channel, c.call_id, c.kind, f"{c.name}({c.arguments})", _deadline(r)) for r, c in calls]
    output.table(("CHANNEL", "CALL", "NEEDS", "WHAT", "UNTIL"), rows, empty="nothing waits for a decision")


async def _list(settings: Settings, tenant: str) -> list[tuple[ThreadRecord, HeldCall]]:
    async with context.attach_store(settings) as store:
        return [
            (record, call)
            async for record in store.scan(tenant=tenant, queue=settings.queue)
            for call in record.calls
            if call.decision is None
        ]


def _deadline(record: ThreadRecord) -> str:
    return output.moment(record.due)


@app.command()
def approve(
    name: Channel, call: CallId, *, by: By = "", tenant: Tenant = "default", as_json: JsonOption = False
) -> None:
    """Let a call run as it is."""
    _decide(name, call, Decision("approved", by=by), tenant=tenant, as_json=as_json)


@app.command()
def deny(
    name: Channel,
    call: CallId,
    *,
    reason: DecisionReason = "",
    by: By = "",
    tenant: Tenant = "default",
    as_json: JsonOption = False,
) -> None:
    """Refuse a call; the model goes on without it."""
    _decide(name, call, Decision("denied", reason, by), tenant=tenant, as_json=as_json)


@app.command()
def submit(
    name: Channel,
    call: CallId,
    result: Annotated[str, typer.Argument(metavar="OUTPUT", help="What the call gave; - reads it from stdin.")],
    *,
    by: By = "",
    tenant: Tenant = "default",
    as_json: JsonOption = False,
) -> None:
    """Give the output of a call that was run elsewhere."""
    # outputs are long and may be secret: a command line is in everybody's process list
    text = sys.stdin.read() if result == "-" else result
    _decide(name, call, Decision("output", text, by), tenant=tenant, as_json=as_json)


def _decide(channel: str, call_id: str, decision: Decision, *, tenant: str, as_json: bool) -> None:
    settings = context.settings()
    outcome = asyncio.run(
        _store_decision(settings, Address(tenant, settings.queue, channel), call_id, decision=decision)
    )
    if as_json:
        output.emit(outcome.to_json())
    else:
        output.say(f"{outcome.name}({outcome.arguments}): {outcome.decision}")


async def _store_decision(settings: Settings, address: Address, call_id: str, *, decision: Decision) -> HeldCall:
    async with context.attach_store(settings) as store:
        record = await context.existing(store, address)
        call = next((call for call in record.calls if call.call_id == call_id), None)
        if call is None:
            raise NotFound(f"no call {call_id!r} waits on {address.channel!r}, list them with `turnkeep actions list`")
        outcome = await store.decide(address, call_id, call.digest, decision)
        about = {"channel": channel_digest(address.channel), "call": call_id, "digest": call.digest}
        await report(store, "call_decided", tenant=address.tenant, decision=decision.verdict, **about)
        return outcome
