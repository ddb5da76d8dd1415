"""Several processes that first meet an empty store with the same names all start."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from turnkeep import AssistantMessageQueue
from turnkeep.assistants import Assistant

PROCESSES = 6


@pytest.fixture(params=["sqlite", "redis"])
def store_url(request: pytest.FixtureRequest, memory_path: Path) -> str:
    if request.param == "redis":
        url: str = request.getfixturevalue("redis_server").url()
        return url
    return f"sqlite:{memory_path / 'turnkeep.db'}"


async def started_together(**names: Any) -> tuple[list[Assistant | None], list[Assistant]]:
    """The assistant of each, and all that there are then."""
    queues = [AssistantMessageQueue(**names) for _ in range(PROCESSES)]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*[stack.enter_async_context(queue) for queue in queues])
        return [queue.assistant for queue in queues], await queues[0].assistants.list("default")


async def test_all_that_name_the_same_assistant_start(store_url: str) -> None:
    theirs, found = await started_together(store=store_url, assistant_id="asst_ours")

    assert {one.assistant_id for one in theirs if one} == {"asst_ours"}
    assert [one.assistant_id for one in found] == ["asst_ours"]


async def test_all_that_name_none_share_one(store_url: str) -> None:
    theirs, found = await started_together(store=store_url)

    assert len(found) == 1
    assert {one.assistant_id for one in theirs if one} == {found[0].assistant_id}


async def test_all_that_bring_a_new_model_start(store_url: str) -> None:
    await started_together(store=store_url, assistant_id=None)

    theirs, found = await started_together(store=store_url, model="gpt-4.1-mini")

    assert [one.model for one in found] == ["gpt-4.1-mini"]
    assert {one.model for one in theirs if one} == {"gpt-4.1-mini"}
