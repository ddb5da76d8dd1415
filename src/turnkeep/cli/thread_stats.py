"""`turnkeep threads stats`: how many, how old, how much."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from turnkeep.cli import context, output
from turnkeep.cli.arguments import JsonOption
from turnkeep.clock import SystemClock
from turnkeep.settings import Settings
from turnkeep.store.values import Stats

_AGES = {
    "1h": "within 1 hour",
    "1d": "within 1 day",
    "7d": "within 7 days",
    "30d": "within 30 days",
    "older": "longer ago",
}


def stats(
    *,
    tenant: Annotated[str | None, typer.Option("--tenant", metavar="NAME", help="Whose; all without.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Totals, ages, activity, oldest and newest, and the storage used."""
    settings = context.settings()
    totals = asyncio.run(_stats(settings, tenant))
    if as_json:
        output.emit(_stats_json(totals))
        return
    now = SystemClock().now()
    output.say("Threads", style="bold")
    per_thread = totals.messages / totals.threads if totals.threads else 0.0
    output.facts(
        [
            ("threads", f"{totals.threads:,}"),
            ("messages", f"{totals.messages:,} ({per_thread:.1f} per thread)"),
            ("turns", f"{totals.turns:,}"),
            ("tokens", f"{totals.usage.total_tokens:,}"),
            ("cost", output.dollars(totals.usage.cost, totals.usage.requests)),
            ("oldest", _age(totals.oldest, now)),
            ("newest", _age(totals.newest, now)),
            ("storage", output.size(totals.storage)),
            ("store", context.store_location(settings)),
        ]
    )
    output.say()
    rows = [(_AGES[age], number, _bar(number, totals.threads)) for age, number in totals.ages.items()]
    output.table(("LAST ACTIVE", "THREADS", ""), rows, empty="")


async def _stats(settings: Settings, tenant: str | None) -> Stats:
    async with context.attach_store(settings) as store:
        return await store.stats(tenant=tenant, queue=settings.queue)


def _stats_json(totals: Stats) -> dict[str, Any]:
    usage = {**totals.usage.to_json(), "cost": totals.usage.cost}
    names = ("threads", "messages", "turns", "oldest", "newest", "storage")
    return {name: getattr(totals, name) for name in names} | {"ages": dict(totals.ages), "usage": usage}


def _age(at: float | None, now: float) -> str | None:
    return None if at is None else f"last active {output.moment(at)} ({output.span(now - at)} ago)"


def _bar(number: int, total: int) -> str:
    return "█" * round(30 * number / total) if total else ""
