"""What a dashboard shows of a tenant: how much waits and why, who works, what it did and what it cost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, cast, get_args

from starlette.responses import Response

from turnkeep.doors.error_answers import JsonResponse
from turnkeep.doors.http.cursors import MAX_SEARCH, cursor_behind, read_cursor
from turnkeep.doors.http.endpoint import HttpCall, run_json
from turnkeep.doors.http.event_stream import closed_event
from turnkeep.doors.http.recent_runs import RunSearch, newest_runs
from turnkeep.doors.http.sent_events import COMMENT, SentEvents, response_resources
from turnkeep.errors import StoreError
from turnkeep.fleet import list_processes
from turnkeep.messages import DEFAULT_TENANT
from turnkeep.remedies import remedy_of
from turnkeep.runs.activity import BOUNDS, Span, read_days, read_series
from turnkeep.runs.backlog_series import read_backlog
from turnkeep.runs.budget import read_balances
from turnkeep.store.shared_ledger import Circuit
from turnkeep.store.thread_search import ThreadSearch
from turnkeep.wire import dumps

EVERY = 2.0
"""Seconds between two looks of a stream."""
STILL_HERE = 15.0
"""Seconds after which something is written to a peer for whom nothing has changed."""


async def show_queue(call: HttpCall) -> Response:
    return JsonResponse(await queue_json(call))


async def queue_json(call: HttpCall) -> dict[str, Any]:
    store = call.application.store
    counts = await store.counts(tenant=call.principal.tenant, queue=call.application.name)
    details = ("held", "paused", "open_messages", "dead_letters", "threads", "oldest_wait")
    circuits = [_circuit_json(call, circuit) for circuit in await store.circuits()]
    return {
        "activeCount": counts.active,
        "waitingCount": counts.waiting,
        "delayedCount": counts.delayed,
        "completedCount": counts.completed,
        "failedCount": counts.failed,
        "details": {name: getattr(counts, name) for name in details} | {"circuits": circuits},
    }


def _circuit_json(call: HttpCall, circuit: Circuit) -> dict[str, Any]:
    """Why nobody answers. Where, and in which words, is the operator's to see."""
    fault = circuit.fault
    data: dict[str, Any] = {"code": fault.code, "message": fault.message, "since": circuit.opened_at}
    if "admin" not in call.principal.rights:
        return data
    about = {"endpoint": circuit.endpoint, "details": fault.details, "remedy": remedy_of(fault.code)}
    return data | about | {"probe_at": circuit.probe_at}


async def list_workers(call: HttpCall) -> Response:
    return JsonResponse({"processes": await processes_json(call)})


async def processes_json(call: HttpCall) -> list[dict[str, Any]]:
    store = call.application.store
    now = await store.now()
    records = await list_processes(store)
    return [record.to_json() | {"silent": record.is_silent(now), "age": now - record.renewed_at} for record in records]


async def show_activity(call: HttpCall) -> Response:
    span = cast(Span, call.word("span", *get_args(Span)) or "hour")
    return JsonResponse(await series_json(call, span))


async def series_json(call: HttpCall, span: Span) -> dict[str, Any]:
    now = await call.application.store.now()
    store, tenant = call.application.store, call.principal.tenant
    series = {one.at: one.cell for one in await read_series(store, tenant, span=span, now=now)}
    backlog = await read_backlog(store, tenant, span=span, now=now)
    cells = [
        {"at": at, **series.get(at, {}), **({"backlog": backlog[at]} if at in backlog else {})}
        for at in sorted({*series, *backlog})
    ]
    return {"span": span, "now": now, "bounds": list(BOUNDS), "series": cells}


async def show_usage(call: HttpCall) -> Response:
    store, tenant = call.application.store, call.principal.tenant
    now = await store.now()
    days = await read_days(store, tenant, days=call.number("days", 30, 31), now=now)
    balances = await read_balances(store, call.application.settings, tenant, now=now)
    return JsonResponse(
        {
            "tenant": tenant,
            "days": [
                {"day": one.day, "total": one.total, "models": one.models, "assistants": one.assistants} for one in days
            ],
            "budgets": [balance.to_json() for balance in balances],
        }
    )


async def list_recent_runs(call: HttpCall) -> Response:
    """Of all threads, newest first; `next` is what to give as `after` for those behind."""
    limit = call.number("limit", 100, 500)
    threads = ThreadSearch(
        tenant=call.principal.tenant,
        queue=call.application.name,
        text=call.request.query_params.get("q", "")[:MAX_SEARCH],
    )
    statuses = frozenset(one for one in call.request.query_params.get("status", "")[:MAX_SEARCH].split(",") if one)
    # one more than is shown says whether there are more
    search = RunSearch(threads, statuses, read_cursor(call), limit=limit + 1)
    runs = await newest_runs(call.application.store, search)
    page = runs[:limit]
    last = page[-1] if page and len(runs) > limit else None
    after = cursor_behind(last.run.started_at, last.run.run_id) if last else None
    in_full = call.principal.sees_calls
    rows = [{"channel": one.address.channel, **run_json(one.run, in_full=in_full)} for one in page]
    return JsonResponse({"runs": rows, "next": after})


async def list_sinks(call: HttpCall) -> Response:
    """What waits for receivers outside. Sinks are the operator's: other tenants are told of none."""
    records = await call.application.store.sinks() if call.principal.tenant == DEFAULT_TENANT else []
    return JsonResponse({"sinks": [record.to_json() for record in records]})


async def stream_overview(call: HttpCall) -> Response:
    """Counts, circuits, processes and the last hour whenever they have changed; it ends with the credential."""
    async with response_resources() as resources:
        resources.enter_context(call.limits.streaming(call.holder))
        return SentEvents(_overviews(call), resources.aclose)


async def _overviews(call: HttpCall) -> AsyncIterator[bytes]:
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    last, written_at = "", loop.time()
    yield b"retry: 1000\n\n"
    with call.watch_credential(over.set) as credential:
        while credential.end is None:
            try:
                text = dumps(await _overview_json(call))
            # told as nothing new: the page says by itself how old its figures are
            except StoreError:
                text = last
            if text != last:
                last, written_at = text, loop.time()
                yield f"data: {text}\n\n".encode()
            elif loop.time() - written_at >= STILL_HERE:
                written_at = loop.time()
                yield COMMENT
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY):
                    await over.wait()
        yield closed_event(credential.end)


async def _overview_json(call: HttpCall) -> dict[str, Any]:
    series = await series_json(call, "hour")
    del series["now"]
    processes = await processes_json(call)
    # ages change with every look: from `renewed_at` a page tells them by its own clock
    for process in processes:
        del process["age"]
    return {"queue": await queue_json(call), "processes": processes, "activity": series}
