"""What becomes of a run that is halted: what works for it elsewhere stops, and every
call gets an output.
"""

from __future__ import annotations

import asyncio

from turnkeep.errors import ModelError
from turnkeep.messages import CallItem, Item, OutputItem
from turnkeep.models.model import BackgroundModel, Model
from turnkeep.runs.journal import OpenResponse
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
