"""What runs share is loaded before the first of them, and stops nobody meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.patience import PATIENCE
from tests.runs.stage import Stage, says
from turnkeep.assistants import Assistants
from turnkeep.pricing import tokenizer
from turnkeep.pricing.catalog import Catalog
from turnkeep.pricing.prices import PriceBook
from turnkeep.runs.run_context import RunContext
from turnkeep.runs.worker import Worker, WorkerRules
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Policies
from turnkeep.tools.toolbox import Toolbox


class SlowPrices(PriceBook):
    """Whose tables are read until somebody lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = threading.Event()
        self.reads = 0

    def read_tables(self) -> None:
        assert self.may_end.wait(10.0)
        self.reads += 1


@pytest.fixture
def context() -> Callable[[PriceBook], RunContext]:
    def make(prices: PriceBook) -> RunContext:
        store = MemoryStore(Policies())
        catalog, assistants = Catalog.load(), Assistants(store, model="gpt-4o-mini")
        return RunContext(store, lambda _: pytest.fail("no model is asked"), assistants, Toolbox(), catalog, prices)

    return make


async def test_what_runs_need_is_loaded_beside_the_loop_and_once(context: Callable[[PriceBook], RunContext]) -> None:
    prices = SlowPrices()
    preparing = asyncio.create_task((runs := context(prices)).prepare())

    # the loop goes on: it is what lets the reading end
    await asyncio.sleep(0)
    prices.may_end.set()
    async with asyncio.timeout(30.0):
        await preparing
        await runs.prepare()

    assert prices.reads == 1


async def test_a_worker_has_all_of_it_loaded_before_its_first_run() -> None:
    stage = Stage(says("answer"))
    stage.house = replace(stage.house)  # that nobody has loaded
    assert not stage.house.is_prepared
    await stage.say("m1")

    await answered(stage)

    assert stage.house.is_prepared


async def answered(stage: Stage) -> None:
    """What was said, by a worker."""
    async with asyncio.TaskGroup() as group:
        worker = Worker(stage.house, rules=WorkerRules(rest=0.01))
        group.create_task(worker.run())
        async with asyncio.timeout(PATIENCE):
            while await stage.status("m1") != "answered":
                await asyncio.sleep(0.01)
        worker.stop()


@pytest.fixture
def builders(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[threading.Thread]]:
    """Who has built the engine for documents: of these tests, which have counted nothing yet."""
    threads: list[threading.Thread] = []

    def build(_: str) -> tokenizer.Engine:
        threads.append(threading.current_thread())
        return lambda text: [1] * len(text)

    monkeypatch.setattr(tokenizer, "_document_engine", build)
    monkeypatch.setattr(tokenizer, "_fast_engine", lambda _: None)
    monkeypatch.setattr(tokenizer, "_VOCABULARIES", {name: tokenizer.Vocabulary(name) for name in tokenizer.ENCODINGS})
    tokenizer.tokenizer_for.cache_clear()
    yield threads
    tokenizer.tokenizer_for.cache_clear()


@pytest.mark.parametrize(("text", "count"), [("hello", 0), ("你好", 1), ("a long text " * 1_000, 1)])
async def test_what_counts_a_message_is_built_beside_the_loop(
    text: str, count: int, builders: list[threading.Thread]
) -> None:
    stage = Stage(says("answer"))
    await stage.say("m1", text)

    await answered(stage)

    assert len(builders) == count
    assert threading.main_thread() not in builders
