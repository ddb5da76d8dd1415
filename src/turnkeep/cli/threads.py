"""`turnkeep threads`: the conversations of the store."""

from __future__ import annotations

import asyncio
import heapq
import uuid
from typing import Annotated, Any

import typer

from turnkeep.cli import context, output
from turnkeep.cli.arguments import ANY_AGE, Channel, JsonOption, OlderThan, Tenant, channel
from turnkeep.cli.thread_clearing import clear, forget
from turnkeep.cli.thread_export import export
from turnkeep.cli.thread_stats import stats
from turnkeep.clock import SystemClock
from turnkeep.messages import Address, content_text
from turnkeep.settings import Settings
from turnkeep.store.values import MessageRecord, ThreadRecord

app = typer.Typer(add_completion=False, no_args_is_help=True, help="The conversations of the store.")


@app.command()
def new(
    name: Annotated[str | None, typer.Argument(metavar="[CHANNEL]", help="Its channel; a fresh UUID without.")] = None,
    *,
    by_id: Annotated[bool, typer.Option("--by-id", help="Print the thread id alone, to be used as channel.")] = False,
    tenant: Tenant = "default",
    as_json: JsonOption = False,
) -> None:
    """Make a thread, on a channel that is a new UUID, and print both."""
    settings = context.settings()
    record = asyncio.run(_new(settings, Address(tenant, settings.queue, channel(name or str(uuid.uuid4())))))
    if as_json:
        output.emit({"channel": record.address.channel, "thread_id": record.thread_id})
    elif by_id:
        # The lines of the first service, which scripts look for.
        output.say(f"=== TEST THREAD ID ===\n{record.thread_id}\n=====================")
    else:
        output.say(record.address.channel)
        output.note(f"thread: {record.thread_id}")


async def _new(settings: Settings, address: Address) -> ThreadRecord:
    async with context.attach_store(settings, create=True) as store:
        record = await store.thread(address, create=True)
    if record is None:
        raise AssertionError("a thread that is created is there")
    return record


@app.command("list")
def list_threads(
    *,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="The most recently active so many.")] = 100,
    older_than: OlderThan = ANY_AGE,
    tenant: Tenant = "default",
    as_json: JsonOption = False,
) -> None:
    """List threads, the most recently active first."""
    settings = context.settings()
    records, total = asyncio.run(_list(settings, tenant, older_than, limit=limit))
    if as_json:
        from turnkeep.doors.http.endpoint import thread_json

        for record in records:
            output.emit(thread_json(record, in_full=True))
        return
    now = SystemClock().now()
    rows = [_row(record, now) for record in records]
    output.table(("CHANNEL", "THREAD", "STATE", "MESSAGES", "OPEN", "ACTIVE", "ASSISTANT"), rows, empty="no threads")
    if total > len(records):
        output.note(f"{len(records)} of {total}; --limit shows more")


async def _list(settings: Settings, tenant: str, older_than: float, *, limit: int) -> tuple[list[ThreadRecord], int]:
    total = 0

    async with context.attach_store(settings) as store:
        newest: list[tuple[float, str, ThreadRecord]] = []
        async for record in store.scan(tenant=tenant, queue=settings.queue, idle_for=older_than):
            total += 1
            # A heap of so many: a store may hold millions. The id decides where times are
            # equal, for records do not compare.
            entry = (record.active_at, record.thread_id, record)
            if len(newest) < limit:
                heapq.heappush(newest, entry)
            else:
                heapq.heappushpop(newest, entry)
    return [record for _, _, record in sorted(newest, key=lambda one: one[:2], reverse=True)], total


def _row(record: ThreadRecord, now: float) -> tuple[object, ...]:
    state = f"{record.state}, paused" if record.paused else record.state
    return (
        record.address.channel,
        record.thread_id,
        state,
        record.messages,
        record.open_messages or "",
        f"{output.span(now - record.active_at)} ago",
        record.assistant or "",
    )


@app.command()
def show(
    name: Channel,
    *,
    items: Annotated[
        int, typer.Option("--items", metavar="N", min=0, help="Newest entries of the transcript to show.")
    ] = 20,
    tenant: Tenant = "default",
    as_json: JsonOption = False,
) -> None:
    """Show a thread: its record, the end of its transcript, and what waits."""
    settings = context.settings()
    record, transcript, waiting = asyncio.run(_show(settings, Address(tenant, settings.queue, name), items))
    if as_json:
        from turnkeep.doors.http.endpoint import message_json, thread_json

        output.emit(
            thread_json(record, in_full=True) | {"items": transcript, "open": [message_json(one) for one in waiting]}
        )
        return
    output.facts(_facts(record))
    for entry in transcript:
        output.say(_line(entry))
    for one in waiting:
        text = content_text(one.message.content) if one.message else ""
        output.say(f"[{one.status}] {one.message_id}: {text}", style="yellow")


async def _show(
    settings: Settings, address: Address, items: int
) -> tuple[ThreadRecord, list[dict[str, Any]], list[MessageRecord]]:
    async with context.attach_store(settings) as store:
        record = await context.existing(store, address)
        return record, await context.transcript(store, record, items), await store.open_messages(address)


def _facts(record: ThreadRecord) -> list[tuple[str, object]]:
    now = SystemClock().now()
    due = None if record.due is None else f"{record.due - now:+.1f} s"
    return [
        ("channel", record.address.channel),
        ("thread", record.thread_id),
        ("state", f"{record.state}{', paused' if record.paused else ''}"),
        ("due", due),
        ("assistant", record.assistant),
        ("messages", f"{record.messages}, {record.open_messages} open"),
        ("turns", record.turns),
        ("transcript", f"{output.count(record.items, 'item')}, {output.size(record.bytes)}"),
        ("tokens", record.usage.total_tokens or None),
        ("cost", output.dollars(record.usage.cost, record.usage.requests)),
        ("created", output.moment(record.created_at)),
        ("active", output.moment(record.active_at)),
        ("expires", output.moment(record.expires_at)),
        ("metadata", ", ".join(f"{key}={value}" for key, value in record.metadata.items()) or None),
    ]


def _line(entry: dict[str, Any]) -> str:
    match entry["kind"]:
        case "user":
            text = "\n".join(part.get("text", f"({part['type']})") for part in entry["content"])
        case "call":
            text = f"{entry['name']}({entry['arguments']})"
        case "output":
            text = entry["output"]
        case _:
            text = entry.get("text", "")
    who = entry.get("author") or entry["kind"]
    return f"{who}: {text}" + (" (interrupted)" if entry.get("interrupted") else "")


app.command("stats")(stats)
app.command("export")(export)
app.command("forget")(forget)
app.command("clear")(clear)
