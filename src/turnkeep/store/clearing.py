"""Forgetting a thread that may be at work."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from turnkeep.errors import ThreadBusy, ThreadNotFound
from turnkeep.messages import Address
from turnkeep.store.contract import Store

PATIENCE = 5.0
"""Seconds that a stopped run has to end; the run of a dead worker does not."""

LINGER = 0.2
"""Seconds that an end stays in the log for those who listen, before the log goes too."""

_STEP = 0.05


async def forget_at_work(store: Store, address: Address, *, once: str | None = None) -> bool:
    """Forget a thread whatever it does. What waits is withdrawn and the run is stopped first, so
    that who listens is told. False if there is none. Again with the same `once`: whatever began
    meanwhile is left alone.
    """
    # Without a name nothing can be repeated, so an idle thread may go in one act.
    if once is None:
        with suppress(ThreadBusy):
            return await store.forget(address)
    try:
        await store.cancel(address, drop_inbox=True, once=once)
        await _until_idle(store, address)
    except ThreadNotFound:
        return False
    return await store.forget(address, force=True, once=once)


async def _until_idle(store: Store, address: Address) -> None:
    # Asked again and again, not followed: the end may already be past when one begins to listen.
    for _ in range(round(PATIENCE / _STEP)):
        record = await store.thread(address)
        if record is None or record.state == "idle":
            break
        await asyncio.sleep(_STEP)
    await asyncio.sleep(LINGER)
