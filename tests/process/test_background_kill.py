"""A real process killed while twenty answers are at twenty places: each is asked for once, and its text is whole."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.patience import PATIENCE, until
from tests.process.programs import QUICK_ENVIRONMENT, Server, until_answered
from turnkeep.messages import Address, AssistantItem
from turnkeep.simulator import Simulator, StreamPace, serve
from turnkeep.store import Store, open_store

ANSWERS = 20
TEXT = " ".join(f"word{number}" for number in range(100))


def channel(kill: int, number: int) -> str:
    return f"c{kill}-{number}"


async def send_all(server: Server, http: aiohttp.ClientSession, kill: int, pause: float) -> None:
    """One after the other, so that the answers are at different places."""
    for number in range(ANSWERS):
        name = channel(kill, number)
        body = {"message_id": name, "message": f"{name} [[say:{TEXT}]]", "flush": True}
        async with http.post(f"{server.url}/api/channels/{name}/messages", json=body) as told:
            assert told.status == 202, await told.text()
        await asyncio.sleep(pause)


async def shown(store: Store, names: set[str]) -> set[str]:
    """Which channels show a piece of an answer, or a whole one."""
    found: set[str] = set()
    for name in names:
        page = await store.read(Address("default", "assistant", name), after=0)
        if any(event.kind in ("delta", "completed") for event in page.events):
            found.add(name)
    return found


@pytest.mark.prove
@pytest.mark.timeout(300)
async def test_an_answer_is_paid_once_wherever_it_is_killed(
    tmp_path: Path, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    kills = size(1, 5)
    simulator = Simulator(pace=StreamPace(token=0.04))
    places: set[int] = set()
    async with serve(simulator) as model, aiohttp.ClientSession() as http:
        environment = {"OPENAI_BASE_URL": model, "OPENAI_API_KEY": "sk-simulator", "TURNKEEP_CONCURRENCY": "64"}
        server = Server(["dev"], tmp_path, {**QUICK_ENVIRONMENT, **environment})
        server.start()
        store = open_store(f"sqlite:{tmp_path}/.turnkeep/turnkeep.db")
        try:
            await server.answers(http)
            await store.open()
            async with http.get(f"{server.url}/api/assistants") as told:
                assistant = (await told.json())["default"]
            async with http.patch(f"{server.url}/api/assistants/{assistant}", json={"background": True}) as told:
                assert told.status == 200, await told.text()
            for kill in range(kills):
                await send_all(server, http, kill, pause=0.06)
                waiting = {channel(kill, number) for number in range(ANSWERS)}
                async with asyncio.timeout(PATIENCE):
                    while waiting := waiting - await shown(store, waiting):
                        await asyncio.sleep(0.02)
                cut = [exchange.sent for exchange in simulator.ledger if exchange.outcome == "open"]
                await asyncio.to_thread(server.kill9)
                places |= set(cut)
                server.start()
                await server.answers(http)
                await until_answered(server, http, ANSWERS * (kill + 1))
            await until(lambda: not simulator.ledger.open())
            texts = []
            for kill in range(kills):
                for number in range(ANSWERS):
                    history = await store.history(Address("default", "assistant", channel(kill, number)))
                    items = [entry.item for entry in history.entries if isinstance(entry.item, AssistantItem)]
                    texts.append("\n".join(item.text for item in items))
        finally:
            server.kill9()
            await store.close()
    asked = len(simulator.ledger)
    proof(
        "no second bill",
        f"kills {kills} | answers {kills * ANSWERS} | killed at {len(places)} different places | model asked {asked} "
        f"times | whole {texts.count(TEXT)}",
    )
    assert asked == kills * ANSWERS
    assert texts == [TEXT] * (kills * ANSWERS)
    assert len(places) >= size(1, ANSWERS // 2)  # a busy machine sends more slowly than its model answers
