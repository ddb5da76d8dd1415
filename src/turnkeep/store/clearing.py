"""Forgetting a thread that may be at work."""

from __future__ import annotations

import asyncio

from turnkeep.errors import ThreadBusy, ThreadNotFound
from turnkeep.messages import Address
from turnkeep.store.base import Store

PATIENCE = 5.0
"""Seconds that a stopped run has to end; the run of a dead worker does not."""

LINGER = 0.2
"""Seconds that an end stays in the log for those who listen, before the log goes too."""

_STEP = 0.05


async def forget_at_work(store: Store, address: Address) -> bool:
    """Forget a thread whatever it does. What waits is withdrawn and the run is stopped first, so that who listens is
    told. False if there is none.
    """
    try:
        return await store.forget(address)
    except ThreadBusy:
        pass
    try:
        await store.cancel(address, drop_inbox=True)
        await _until_idle(store, address)
    except ThreadNotFound:
        return False
    return await store.forget(address, force=True)


async def _until_idle(store: Store, address: Address) -> None:
    for _ in range(round(PATIENCE / _STEP)):
        record = await store.thread(address)
        if record is None or record.state == "idle":
            break
        await asyncio.sleep(_STEP)
    await asyncio.sleep(LINGER)
