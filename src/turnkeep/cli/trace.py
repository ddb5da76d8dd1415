"""`turnkeep trace MESSAGE_ID`: the life of one message, from its acceptance to its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption, Tenant, channel
from turnkeep.errors import NotFound
from turnkeep.events import CallDetail, Detail, Event, FileDetail, ResultDetail, StepDetail
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address, Citation
from turnkeep.settings import Settings
from turnkeep.store.contract import Store
from turnkeep.store.values import DeadLetter, MessageRecord, RunRecord, ThreadRecord

app = typer.Typer(add_completion=False)

PAGE = 1000


@dataclass(frozen=True, slots=True)
class MessageHistory:
    """What the store still knows of a message."""

    thread: ThreadRecord
    message: MessageRecord
    events: tuple[Event, ...]
    runs: tuple[RunRecord, ...]
    letters: tuple[DeadLetter, ...]


@dataclass(frozen=True, slots=True)
class TraceMoment:
    """Something that happened to it."""

    at: float
    what: str
    detail: str = ""


@app.command()
def trace(
    message_id: Annotated[str, typer.Argument(metavar="MESSAGE_ID", help="Id of the message.")],
    *,
    name: Annotated[
        str | None, typer.Option("--channel", metavar="CHANNEL", parser=channel, help="Look there only.")
    ] = None,
    tenant: Tenant = "default",
    as_json: JsonOption = False,
) -> None:
    """Show the life of one message: accepted, batched, every attempt, and how it ended."""
    settings = context.settings()
    histories = asyncio.run(_trace(settings, tenant, name, message_id=message_id))
    if not histories:
        where = f" on channel {name!r}" if name else ""
        raise NotFound(f"no message {message_id!r} is known{where}: it was never accepted, or is forgotten by now")
    for life in histories:
        output.emit(_json(life)) if as_json else _show(life)


async def _trace(settings: Settings, tenant: str, name: str | None, *, message_id: str) -> list[MessageHistory]:
    async with context.attach_store(settings) as store:
        if name is not None:
            address = (await context.existing(store, Address(tenant, settings.queue, name))).address
            life = await _life(store, address, message_id)
            return [life] if life else []
        histories = []
        with output.progress("looking through the threads") as step:
            # An id is unique within its channel only: several lives may be found.
            async for record in store.scan(tenant=tenant, queue=settings.queue):
                step()
                if life := await _life(store, record.address, message_id):
                    histories.append(life)
        return histories


async def _life(store: Store, address: Address, message_id: str) -> MessageHistory | None:
    message = await store.message(address, message_id)
    thread = await store.thread(address) if message else None
    if message is None or thread is None:
        return None
    runs = [run for run in await store.runs(address) if message_id in run.message_ids]
    # The deltas of a run name no messages, only the run.
    of_runs = {message.run_id, *(run.run_id for run in runs)} - {None}
    events = await _events(store, address, message_id, runs=of_runs)
    return MessageHistory(
        thread, message, tuple(events), tuple(runs), tuple(await _letters(store, address, message_id))
    )


async def _events(store: Store, address: Address, message_id: str, *, runs: set[str | None]) -> list[Event]:
    """What the log holds of the message, or of a run that answers it."""
    events: list[Event] = []
    page = await store.read(address, after=0, limit=PAGE)
    while page.events:
        events += [e for e in page.events if message_id in e.message_ids or e.run_id in runs]
        page = await store.read(address, after=page.events[-1].offset, limit=PAGE)
    return events


async def _letters(store: Store, address: Address, message_id: str) -> list[DeadLetter]:
    letters, after = [], ""
    while page := await store.dead(tenant=address.tenant, queue=address.queue, after=after, limit=PAGE):
        letters += [one for one in page if one.address == address and one.message.message_id == message_id]
        after = page[-1].dead_id
    return letters


def _show(life: MessageHistory) -> None:
    message = life.message
    output.facts(
        [
            ("message", message.message_id),
            ("channel", life.thread.address.channel),
            ("thread", life.thread.thread_id),
            ("status", message.status),
            ("run", message.run_id),
            ("answered with", ", ".join(one for one in message.covers if one != message.message_id) or None),
            ("dead letter", ", ".join(letter.dead_id for letter in life.letters) or None),
        ]
    )
    output.say()
    moments = timeline(life)
    for moment in moments:
        after = moment.at - moments[0].at
        output.say(f"{output.moment(moment.at)}  {after:+9.3f} s  {moment.what:<12}{moment.detail}".rstrip())


def timeline(life: MessageHistory) -> list[TraceMoment]:
    """What happened, in order; from the runs where the log is trimmed already."""
    moments = [moment for event in _without_deltas(life.events) if (moment := _moment(event))]
    kinds = {event.kind for event in life.events}
    if "accepted" not in kinds and life.message.message is not None and life.message.message.arrival:
        moments.append(TraceMoment(life.message.message.arrival, "accepted"))
    for run in life.runs:
        if "started" not in kinds:
            moments.append(TraceMoment(run.started_at, "started", _batch(run.run_id, run.message_ids, run.attempt)))
        if run.finished_at is not None and not kinds & {"completed", "dead"}:
            moments.append(TraceMoment(run.finished_at, run.status, _cost(run)))
    if life.message.settled_at is not None and not any(run.finished_at for run in life.runs) and "dead" not in kinds:
        moments.append(TraceMoment(life.message.settled_at, life.message.status))
    return sorted(moments, key=lambda moment: moment.at)


def _without_deltas(events: Sequence[Event]) -> list[Event]:
    # One for each token, or for some words of a thought: they would hide the life between them.
    return [event for event in events if event.kind not in ("delta", "snapshot", "reasoning")]


def _moment(event: Event) -> TraceMoment:
    fault = f"{event.error.code}: {event.error.details or event.error.message}" if event.error else ""
    if event.detail is not None:
        return TraceMoment(event.at, event.kind.replace("_", " "), _part(event.detail))
    match event.kind:
        case "started":
            return TraceMoment(event.at, "started", _batch(event.run_id, event.message_ids, event.attempt))
        case "processing":
            return TraceMoment(event.at, "tools", ", ".join(event.tools))
        case "held" | "decided":
            calls = ", ".join(f"{call['name']} {call.get('decision') or 'open'}" for call in event.calls)
            return TraceMoment(event.at, event.kind, calls)
        case "completed":
            tokens = f", {event.usage.total_tokens:,} tokens" if event.usage else ""
            outcome = event.outcome or "completed"
            return TraceMoment(event.at, "committed", f"{outcome}, {len(event.text):,} characters{tokens}")
        case "responding":
            return TraceMoment(event.at, "responding", "first token")
        case "accepted" | "edited":
            wish = event.policy if event.policy != "collect" else None
            return TraceMoment(event.at, event.kind, f"asks to {wish}" if wish else "")
    return TraceMoment(event.at, event.kind, fault or (event.outcome or ""))


def _part(detail: Detail) -> str:
    """What was shown beside the text."""
    match detail:
        case CallDetail(call_id, name):
            return f"{name} {call_id}"
        case ResultDetail(call_id, name, status):
            return f"{name} {call_id}, {status}"
        case StepDetail(number, ending):
            return f"{number}, {ending or 'made anew'}"
        case FileDetail(media_type=kind):
            return kind
        case Citation(url=url, file_id=file_id):
            return url or file_id


def _batch(run_id: str | None, message_ids: Sequence[str], attempt: int) -> str:
    again = f", attempt {attempt}" if attempt > 1 else ""
    return f"{run_id} takes {output.count(len(message_ids), 'message')}{again}"


def _cost(run: RunRecord) -> str:
    parts = [run.model, f"{run.usage.total_tokens:,} tokens", output.dollars(run.usage.cost, run.usage.requests)]
    reason = f"{run.fault.code}: {run.fault.details}" if run.fault else None
    return ", ".join(part for part in (*parts, reason) if part)


def _json(life: MessageHistory) -> dict[str, Any]:
    from turnkeep.doors.http.endpoint import dead_json, message_json, run_json

    return {
        "channel": life.thread.address.channel,
        "thread_id": life.thread.thread_id,
        "message": message_json(life.message),
        "timeline": [{"at": m.at, "what": m.what, "detail": m.detail} for m in timeline(life)],
        "runs": [run_json(run, in_full=True) for run in life.runs],
        "dead": [dead_json(letter) for letter in life.letters],
        "events": [event.to_json() for event in _without_deltas(life.events)],
    }
