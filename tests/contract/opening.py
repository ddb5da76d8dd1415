"""A store for as long as a block, whatever becomes of the block."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from turnkeep.store.contract import Store

S = TypeVar("S", bound=Store)


@asynccontextmanager
async def opened(store: S) -> AsyncIterator[S]:
    """Open; closed in the end, also where the block raises."""
    await store.open()
    try:
        yield store
    finally:
        await store.close()
