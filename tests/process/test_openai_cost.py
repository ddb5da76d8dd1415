"""What a token costs the gateway at OpenAI's doors, beside the seeds' dialect, in one run."""

from __future__ import annotations

import asyncio
import os
import statistics
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.process.fleet import fleet
from turnkeep.simulator import Simulator, serve

WORDS, ANSWERS, ROUNDS = 1_500, 16, 5
TEXT = f"[[words:{WORDS}]] [[pace:1]]"
TICK = os.sysconf("SC_CLK_TCK")


def cpu_of(pid: int) -> float:
    """Seconds of user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


class Doors:
    def __init__(self, http: aiohttp.ClientSession, url: str, model: str) -> None:
        self._http, self._url, self._model = http, url, model

    async def seed(self, name: str) -> None:
        channel = f"{self._url}/api/channels/{name}"
        async with self._http.get(f"{channel}/events") as told:
            async with self._http.post(f"{channel}/messages", json={"message": TEXT, "message_id": "m"}) as receipt:
                assert receipt.status == 202
            async for line in told.content:
                if b'"final_message": true' in line or b'"final_message":true' in line:
                    return

    async def chat(self, name: str) -> None:
        messages = [{"role": "user", "content": TEXT}]
        await self._drain("chat/completions", {"messages": messages, "metadata": {"channel": name}})

    async def respond(self, name: str) -> None:
        await self._drain("responses", {"input": TEXT, "conversation": name})

    async def run(self, name: str) -> None:
        thread = {"messages": [{"role": "user", "content": TEXT}]}
        await self._drain("threads/runs", {"assistant_id": self._model, "thread": thread})

    async def _drain(self, path: str, body: dict[str, object]) -> None:
        body = {"model": self._model, "stream": True, **body} if path != "threads/runs" else {"stream": True, **body}
        async with self._http.post(f"{self._url}/v1/{path}", json=body) as told:
            assert told.status == 200
            async for _ in told.content.iter_any():
                pass


@pytest.mark.prove
@pytest.mark.only_in_prove  # a figure of the machine: nothing else is to run beside it
@pytest.mark.timeout(900)
async def test_a_token_costs_no_more_than_a_third_above_the_seeds_dialect(
    tmp_path: Path, proof: Callable[[str, str], None]
) -> None:
    options = aiohttp.ClientTimeout(300)
    async with (
        serve(Simulator()) as model,
        fleet(tmp_path, f"sqlite:{tmp_path / 'turnkeep.db'}", model) as many,
        aiohttp.ClientSession(timeout=options, read_bufsize=1 << 22) as http,
    ):
        gateway = many.gateways[0]
        assert gateway.process is not None
        async with http.get(f"{gateway.url}/v1/models") as told:
            assistant_id = (await told.json())["data"][0]["id"]
        doors = Doors(http, gateway.url, assistant_id)
        kinds: dict[str, Callable[[str], Awaitable[None]]] = {
            "seeds": doors.seed, "chat": doors.chat, "responses": doors.respond, "runs": doors.run,
        }  # fmt: skip
        costs: dict[str, list[float]] = {kind: [] for kind in kinds}
        for round_number in range(ROUNDS):
            for kind, stream in kinds.items():
                before = cpu_of(gateway.process.pid)
                await asyncio.gather(*(stream(f"{kind}-{round_number}-{place}") for place in range(ANSWERS)))
                costs[kind].append((cpu_of(gateway.process.pid) - before) * 1e6 / (ANSWERS * WORDS))
    medians = {kind: statistics.median(values) for kind, values in costs.items()}
    ratios = {kind: value / medians["seeds"] for kind, value in medians.items() if kind != "seeds"}
    figures = " | ".join(f"{kind} {medians[kind]:.1f} us, {ratio:.2f}x" for kind, ratio in ratios.items())
    proof("CPU of the gateway per token", f"seeds {medians['seeds']:.1f} us | {figures}")
    assert max(ratios.values()) <= 1.3
