"""P1, P3, P4, P8 with a real process and SIGKILL: what was accepted is answered once, in order; a restart goes on."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.patience import until
from tests.process.programs import QUICK_ENVIRONMENT, Server, until_answered
from turnkeep.messages import Address, UserItem, content_text
from turnkeep.simulator import Simulator, StreamPace, serve
from turnkeep.store import open_store


class Producer:
    """Sends numbered messages, each until it has its receipt."""

    def __init__(self, server: Server, http: aiohttp.ClientSession) -> None:
        self._server = server
        self._http = http
        self.receipts = 0
        self.repeats = 0

    async def send_all(self, channel: str, count: int, source: random.Random, spread: float) -> None:
        for number in range(count):
            await asyncio.sleep(source.uniform(0, spread))
            await self._send(channel, number)

    async def _send(self, channel: str, number: int) -> None:
        body = {"message_id": f"{channel}-{number}", "message": text_of(channel, number)}
        while True:
            try:
                async with self._http.post(
                    f"{self._server.url}/api/channels/{channel}/messages", json=body, timeout=aiohttp.ClientTimeout(5)
                ) as told:
                    if told.status in (200, 202):
                        self.receipts += 1
                        return
                    assert told.status in (429, 503), (told.status, await told.text())
            except (aiohttp.ClientError, TimeoutError):
                self.repeats += 1
            await asyncio.sleep(0.05)


def text_of(channel: str, number: int) -> str:
    return f"{channel} says {number} [[words:25]]"


@pytest.mark.prove
@pytest.mark.timeout(600)
async def test_what_was_accepted_is_answered_once_in_order_whatever_is_killed(
    tmp_path: Path, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    kills, channels, each = size(3, 20), size(10, 50), size(4, 10)
    source = random.Random(3)
    simulator = Simulator(pace=StreamPace(first=0.05, token=0.02))
    slowest, cut = 0.0, 0
    async with serve(simulator) as model, aiohttp.ClientSession() as http:
        server = Server(
            ["dev"],
            tmp_path,
            {
                **QUICK_ENVIRONMENT,
                "OPENAI_BASE_URL": model,
                "OPENAI_API_KEY": "sk-test",
                "TURNKEEP_MODEL_API": "responses",
            },
        )
        server.start()
        try:
            await server.answers(http)
            producer = Producer(server, http)
            async with asyncio.TaskGroup() as group:
                for number in range(channels):
                    group.create_task(producer.send_all(f"c{number}", each, source, size(3, 8) / each))
                for _ in range(kills):
                    await asyncio.sleep(source.uniform(0.2, size(2, 1)))
                    interrupted = await killed_in_mid_answer(server, simulator)
                    server.start()
                    await server.answers(http)
                    slowest = max(slowest, await moved(simulator, interrupted))
                    cut += len(interrupted)
            await until_answered(server, http, channels * each)
        finally:
            server.kill9()

    store = open_store(f"sqlite:{tmp_path}/.turnkeep/turnkeep.db")
    await store.open()
    counts = await store.counts()
    once, twice, out_of_order = Counter[str](), 0, 0
    for number in range(channels):
        history = await store.history(Address("default", "assistant", f"c{number}"))
        said = [content_text(e.item.content) for e in history.entries if isinstance(e.item, UserItem)]
        once.update(said)
        out_of_order += said != [text_of(f"c{number}", n) for n in range(each)]
    await store.close()
    lost = sum(once[text_of(f"c{c}", n)] == 0 for c in range(channels) for n in range(each))
    twice = sum(count > 1 for count in once.values())
    model_twice = len(simulator.ledger.twice_within_a_request())
    proof(
        "kill -9",
        f"kills {kills} | sent {channels * each} | once {sum(c == 1 for c in once.values())} | lost {lost} "
        f"| twice {twice} | out of order {out_of_order} | model saw twice {model_twice} | dead {counts.dead_letters} | "
        f"repeated sends {producer.repeats} | answers cut {cut} | slowest to move {slowest:.2f} s",
    )
    assert slowest <= size(60, 2)
    assert (lost, twice, out_of_order, model_twice, counts.dead_letters) == (0, 0, 0, 0, 0)
    assert counts.completed == channels * each


async def killed_in_mid_answer(server: Server, simulator: Simulator) -> set[str]:
    """Kill it, and tell the runs whose answer was cut off."""
    asked = {exchange.n for exchange in simulator.ledger if exchange.outcome == "open"}
    await asyncio.to_thread(server.kill9)
    await until(lambda: not any(exchange.outcome == "open" for exchange in simulator.ledger))
    return {e.run for e in simulator.ledger if e.n in asked and e.outcome == "closed_by_client" and e.run}


async def moved(simulator: Simulator, interrupted: set[str]) -> float:
    """Seconds from readiness until the model was asked again for every run that was cut off."""
    loop = asyncio.get_running_loop()
    begun, waiting = loop.time(), set(interrupted)
    while waiting and loop.time() - begun < 90:
        waiting -= {e.run for e in simulator.ledger if e.outcome in ("open", "completed") and e.run}
        await asyncio.sleep(0.01)
    return loop.time() - begun


async def test_a_receipt_is_never_given_for_what_is_not_kept(tmp_path: Path) -> None:
    async with aiohttp.ClientSession() as http:
        server = Server(["dev"], tmp_path, {**QUICK_ENVIRONMENT, "TURNKEEP_WINDOW": "60", "TURNKEEP_MAX_WAIT": "60"})
        server.start()
        try:
            await server.answers(http)
            for number in range(20):
                body = {"message_id": f"m{number}", "message": f"text {number}"}
                async with http.post(f"{server.url}/api/channels/kept/messages", json=body) as told:
                    assert told.status == 202
            server.kill9()
            server.start()
            await server.answers(http)
            async with http.get(f"{server.url}/api/channels/kept/messages") as told:
                found = json.loads(await told.text())
        finally:
            server.kill9()
    assert [message["message_id"] for message in found["open"]] == [f"m{number}" for number in range(20)]
