"""What becomes of a run that is halted: what works for it elsewhere stops, what was shown stays, and every call
gets an output.
"""

from __future__ import annotations

import asyncio

from turnkeep.errors import ModelError
from turnkeep.events import Answer
from turnkeep.messages import Address, CallItem, Item, OutputItem
from turnkeep.models.model import BackgroundModel, Model
from turnkeep.runs.journal import OpenResponse, retry_until_answered
from turnkeep.store.contract import Store
from turnkeep.store.values import Page
from turnkeep.telemetry import get_log
from turnkeep.usage import Usage

log = get_log(__name__)

STOPPING = 10.0
"""Seconds that stopping a response at its provider may take."""

UNKNOWN_USAGE = Usage(requests=1, estimated=1)


async def stop_response(response: OpenResponse, model: Model, *, seconds: float) -> Usage:
    """Stop what a provider works out in the background, and give what it has
    cost until then, unpriced.

    Never raises a ModelError: what could not be stopped, or does not tell what it has cost, is one
    estimated request.
    """
    if not isinstance(model, BackgroundModel):
        return UNKNOWN_USAGE
    try:
        # never beyond the lease: the commit has to come in time
        async with asyncio.timeout(min(STOPPING, seconds)):
            return await model.cancel(response.response_id) or UNKNOWN_USAGE
    except (ModelError, TimeoutError) as error:
        log.warning("response_not_stopped", response=response.response_id, error=str(error)[:500])
        return UNKNOWN_USAGE


async def shown_before(store: Store, address: Address) -> str:
    """The text that an earlier attempt has shown, from the log."""

    async def page_after(offset: int, limit: int = 1_000) -> Page:
        return await retry_until_answered(lambda: store.read(address, after=offset, limit=limit))

    page = await page_after(0, limit=1)
    if page.live_from is None:
        return ""
    answer, after = Answer(), page.live_from - 1
    while after < page.top:
        page = await page_after(after)
        if not page.events:
            break
        for event in page.events:
            answer.take(event)
        after = page.events[-1].offset
    return answer.text


def close_call(call: CallItem, started_ids: set[str], text: str) -> OutputItem:
    """The output of a call that a run was halted at; `text` for one that had begun."""
    if call.call_id in started_ids:
        return OutputItem(call.call_id, text, "unknown")
    return OutputItem(call.call_id, "cancelled before it began", "cancelled")


def without_text(items: list[Item], started_ids: set[str]) -> list[Item]:
    """User messages, and the calls whose effects had begun."""
    return [
        item
        for item in items
        if item.kind == "user" or (isinstance(item, CallItem | OutputItem) and item.call_id in started_ids)
    ]
