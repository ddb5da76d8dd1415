"""What can be done with one channel over HTTP: its messages, its turns, its record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.responses import Response

from turnkeep.auth import acts
from turnkeep.auth.audit_trail import channel_digest
from turnkeep.doors.error_answers import JsonResponse
from turnkeep.doors.http.endpoint import HttpCall, audit, dead_json, message_json, run_json, thread_json
from turnkeep.errors import InvalidMessage, NotFound, ThreadNotFound
from turnkeep.events import Event, picture_of
from turnkeep.inputs import MAX_MODEL, MAX_NAME, drops_inbox, optional_text, read_content, read_metadata
from turnkeep.messages import Address, CallItem, HostedItem, Item, OutputItem, ReasoningItem, content_text, item_to_json
from turnkeep.remedies import remedy_of
from turnkeep.store.clearing import forget_at_work
from turnkeep.store.values import DeadLetter, RunRecord, ThreadRecord, TranscriptEntry
from turnkeep.thread_options import thread_options
from turnkeep.wire import call_form

LETTERS_SHOWN = 200
EVENTS_LOOKED_AT = 50
MOST_TURNS = 2**53
"""Beyond it the numbers of a browser are not exact."""

NOT_SHOWN = frozenset(
    (
        "instructions",
        "user_instructions",
        "assistant_instructions",
        "model",
        "parameters",
        "assistant",
        "client_tools",
        "metadata",
        "provider_data",
        "site",
        "raw",
    )
)


async def send(call: HttpCall) -> Response:
    address = call.address
    body = await call.body()
    key = call.request.headers.get("idempotency-key")
    if key is not None and "message_id" not in body:
        # Its id is what makes a repeat of a message safe; a second key beside it could contradict
        # it.
        body["message_id"] = key
    message = call.limits.message_of(body, address, call.principal)
    receipt = await call.limits.accept(call.application, call.principal, message)
    return JsonResponse(receipt.to_json(), status_code=200 if receipt.repeated else 202)


async def list_messages(call: HttpCall) -> Response:
    """The transcript, and all that a page shows beside it: what waits and why, what has died."""
    address, store = call.address, call.application.store
    record = await existing(call, address)
    before = call.number("before", 0, MOST_TURNS)
    limit = call.number("limit", 200, 2_000)
    history = await store.history(address, items=limit, before_turn=before or None)
    where = record.address
    letters = await store.dead(tenant=where.tenant, queue=where.queue, channel=where.channel, limit=LETTERS_SHOWN)
    return JsonResponse(
        {
            "items": _entries_json(history.entries, in_full="manage" in call.principal.rights),
            "summary": history.summary,
            "complete": history.complete,
            "open": [message_json(record) for record in await store.open_messages(address)],
            "dead": [dead_json(letter) for letter in letters],
            "thread": thread_json(record, in_full=call.principal.sees_calls),
            "waiting": await _cause_of(call, record),
        }
    )


async def _cause_of(call: HttpCall, record: ThreadRecord) -> dict[str, Any] | None:
    """Why a run of this thread does not go on now, as it was told last; None while nothing is in its way."""
    if record.state != "retry":
        return None
    page = await call.application.store.read(record.address, after=max(0, record.top - EVENTS_LOOKED_AT))
    causes = [event for event in page.events if event.kind in ("waiting", "retrying") and event.error is not None]
    if not causes or (fault := causes[-1].error) is None:
        return None
    return {
        "phase": causes[-1].kind,
        "reason": fault.code,
        "message": fault.message,
        "error_details": fault.details,
        "remedy": remedy_of(fault.code),
        "since": causes[-1].at,
        "attempt": record.attempt,
        "due": record.due,
    }


async def answer(call: HttpCall) -> Response:
    """Let a person answer what waits in the assistant's place, or say something where nothing does."""
    address, body = call.address, await call.body()
    await existing(call, address)
    if strangers := set(body) - {"message", "author"}:
        raise InvalidMessage(f"an answer has message and author, not {', '.join(sorted(strangers))[:200]}")
    text = content_text(read_content({"message": body.get("message")}, limit=call.limits.message_bytes))
    author = optional_text(body, "author", MAX_NAME) or call.principal.subject
    await call.application.say(address, text, author=author, once=call.once)
    await audit(call, "person_answered", channel=channel_digest(address.channel))
    return JsonResponse({"message": text, "author": author}, status_code=201)


async def redrive_dead(call: HttpCall) -> Response:
    """Send a dead letter of this channel again: its sender may, and whoever manages the channel."""
    address, dead_id = call.address, call.path("dead_id")
    letter = await _own_letter(call, address, dead_id)
    receipt = await call.application.store.redrive(dead_id)
    if letter is None and await call.application.store.message(address, receipt.message_id) is None:
        raise NotFound("no such dead letter")
    return JsonResponse(receipt.to_json(), status_code=202)


async def discard_dead(call: HttpCall) -> Response:
    letter = await _own_letter(call, call.address, call.path("dead_id"))
    if letter is None:
        raise NotFound("no such dead letter")
    await call.application.store.discard(letter.dead_id, once=call.once)
    return Response(status_code=204)


async def _own_letter(call: HttpCall, address: Address, dead_id: str) -> DeadLetter | None:
    """A letter of this channel; None when it is gone. Raises `NotFound`, `NotAllowed`."""
    letter = await call.application.store.dead_letter(dead_id)
    if letter is None:
        return None
    names = (letter.address.channel, letter.thread_id)
    if (letter.address.tenant, letter.address.queue) != (address.tenant, address.queue) or address.channel not in names:
        raise NotFound("no such dead letter")
    acts.own_letter(call.principal, letter)
    return letter


def _entries_json(entries: Sequence[TranscriptEntry], *, in_full: bool) -> list[dict[str, Any]]:
    """In full for who manages the channel; others see of calls and thoughts what tools and assistant
    let people see: what is kept from them is empty and `withheld`.
    """
    calls = {entry.item.call_id: entry.item for entry in entries if isinstance(entry.item, CallItem)}
    return [_entry_json(entry) | ({} if in_full else _withheld_fields(entry.item, calls)) for entry in entries]


def _withheld_fields(item: Item, calls: Mapping[str, CallItem]) -> dict[str, Any]:
    match item:
        case CallItem(show="name"):
            return {"arguments": "", "withheld": True}
        case OutputItem() if (call := calls.get(item.call_id)) is None or call.show != "all":
            return {"output": "", "withheld": True}
        case ReasoningItem(is_public=False):
            return {"text": "", "withheld": True}
        case HostedItem():
            return {"text": "", "withheld": True}
    return {}


def _entry_json(entry: TranscriptEntry) -> dict[str, Any]:
    """What was said and thought, without what came with it for us or is the provider's
    own form of it.
    """
    item = entry.item
    reasoning = {"text": item.text} if isinstance(item, ReasoningItem) else {}
    picture = picture_of(item) if isinstance(item, HostedItem) else None
    file = {"file": picture.to_json()} if picture is not None else {}
    fields = {"turn": entry.turn, "at": entry.at, **item_to_json(item), **reasoning, **file}
    return {name: value for name, value in fields.items() if name not in NOT_SHOWN}


async def show_message(call: HttpCall) -> Response:
    record = await call.application.store.message(call.address, call.path("message_id"))
    if record is None:
        raise NotFound("no such message, or it was forgotten")
    return JsonResponse(message_json(record))


async def edit_message(call: HttpCall) -> Response:
    address, message_id = call.address, call.path("message_id")
    content = call.limits.content_of(await call.body(), call.principal)
    await acts.own_message(call.application, call.principal, address, message_id)
    return JsonResponse(message_json(await call.application.store.edit(address, message_id, content, once=call.once)))


async def withdraw_message(call: HttpCall) -> Response:
    address, message_id = call.address, call.path("message_id")
    await acts.own_message(call.application, call.principal, address, message_id)
    return JsonResponse(message_json(await call.application.store.withdraw(address, message_id, once=call.once)))


async def cancel(call: HttpCall) -> Response:
    address = call.address
    body = await call.body(empty=True)
    drop_inbox = drops_inbox(body)
    is_stopped = await acts.stop(call.application, call.principal, address, drop_inbox=drop_inbox, once=call.once)
    return JsonResponse({"cancelled": is_stopped})


async def flush(call: HttpCall) -> Response:
    return JsonResponse({"flushed": await call.application.store.flush(call.address, once=call.once)})


async def pause(call: HttpCall) -> Response:
    address = call.address
    await existing(call, address)
    await call.application.store.pause(address, once=call.once)
    return JsonResponse({"paused": True})


async def resume(call: HttpCall) -> Response:
    address = call.address
    await existing(call, address)
    await call.application.store.resume(address, once=call.once)
    return JsonResponse({"paused": False})


async def regenerate(call: HttpCall) -> Response:
    address = call.address
    await existing(call, address)
    call.limits.check_rate(call.principal, address)
    receipts = await call.application.store.regenerate(address, once=call.once)
    return JsonResponse({"receipts": [receipt.to_json() for receipt in receipts]}, status_code=202)


async def act(call: HttpCall) -> Response:
    address = call.address
    body = await call.body() | {"call_id": call.path("call_id")}
    return JsonResponse(await acts.decide(call.application, call.principal, address, body, once=call.once))


async def list_runs(call: HttpCall) -> Response:
    address = call.address
    await existing(call, address)
    return JsonResponse(
        {
            "runs": [
                run_json(run, in_full=call.principal.sees_calls) for run in await call.application.store.runs(address)
            ]
        }
    )


async def show_run_life(call: HttpCall) -> Response:
    """A run with what its log still holds of it, token by token aside."""
    address, run_id = call.address, call.path("run_id")
    record = await existing(call, address)
    run = next((run for run in await call.application.store.runs(address) if run.run_id == run_id), None)
    if run is None:
        raise NotFound("no such run, or it is one of those that are not kept any more")
    events = [event async for event in _log_of(call, record) if _belongs(event, run)]
    return JsonResponse(
        {
            "channel": record.address.channel,
            "run": run_json(run, in_full=call.principal.sees_calls),
            "events": _life_json(events, in_full=call.principal.sees_calls),
        }
    )


async def _log_of(call: HttpCall, record: ThreadRecord) -> AsyncIterator[Event]:
    after = 0
    while (page := await call.application.store.read(record.address, after=after)).events:
        for event in page.events:
            yield event
        after = page.events[-1].offset


def _belongs(event: Event, run: RunRecord) -> bool:
    if event.run_id == run.run_id:
        return True
    return event.kind == "accepted" and not set(event.message_ids).isdisjoint(run.message_ids)


def _life_json(events: Sequence[Event], *, in_full: bool) -> list[dict[str, Any]]:
    """Each with its moment; of a text only its length, and of tokens in a row the first and how many they were."""
    life: list[dict[str, Any]] = []
    for event in events:
        data = event.to_json() | {"at": event.at, "characters": len(event.text)}
        if event.calls:
            data["calls"] = [call_form(one, in_full=in_full) for one in event.calls]
        for name in ("text", "offset", "epoch", "run_id", "thread_id"):
            data.pop(name, None)
        if event.kind in ("delta", "reasoning") and life and life[-1]["kind"] == event.kind:
            life[-1]["characters"] += len(event.text)
            life[-1]["until"] = event.at
        else:
            life.append(data)
    return life


async def existing(call: HttpCall, address: Address) -> ThreadRecord:
    record = await call.application.store.thread(address)
    if record is None:
        raise ThreadNotFound("there is no such thread")
    return record


async def show_channel(call: HttpCall) -> Response:
    return JsonResponse(thread_json(await existing(call, call.address), in_full=call.principal.sees_calls))


async def change_channel(call: HttpCall) -> Response:
    address = call.address
    body = await call.body()
    if strangers := set(body) - {"metadata", "assistant", "options"}:
        raise InvalidMessage(
            f"only metadata, assistant and options can be changed, not {', '.join(sorted(strangers))[:200]}"
        )
    if {"assistant", "options"} & set(body):
        call.allow("manage")
    changes: dict[str, Any] = {}
    if "assistant" in body:
        assistant_id = optional_text(body, "assistant", MAX_MODEL)
        if assistant_id is not None:
            await call.application.assistants.get(call.principal.tenant, assistant_id)
        changes["assistant"] = assistant_id
    if "metadata" in body:
        changes["metadata"] = read_metadata(body["metadata"])
    if "options" in body:
        changes["options"] = thread_options(body["options"])
    await existing(call, address)
    record = await call.application.store.update(address, changes, once=call.once)
    if kinds := changes.keys() - {"metadata"}:
        await audit(call, "channel_changed", channel=channel_digest(address.channel), fields=kinds)
    # Who may change a thread is not shown by that what he may not read.
    return (
        JsonResponse(thread_json(record, in_full=call.principal.sees_calls))
        if "read" in call.principal.rights
        else Response(status_code=204)
    )


async def forget_channel(call: HttpCall) -> Response:
    address = call.address
    force = call.word("force", "true", "false") == "true"
    store, once = call.application.store, call.once
    deletion = forget_at_work(store, address, once=once) if force else store.forget(address, once=once)
    if not await deletion:
        raise ThreadNotFound("there is no such thread")
    await audit(call, "channel_forgotten", channel=channel_digest(address.channel), force=force)
    return Response(status_code=204)
