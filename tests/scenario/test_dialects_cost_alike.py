"""What a token costs in each dialect, beside the dialect of the seeds: CPU of the door alone, in one run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

import pytest

from tests.scenario.house import TestHouse, opened
from turnkeep.doors.app import app
from turnkeep.doors.http.agui import word_of
from turnkeep.events import delta
from turnkeep.store.values import Claim

PACE = 0.01
"""Seconds between two tokens of a stream: a quick model."""
PATHS = {
    "seed": "/api/channels/{channel}/events",
    "vercel": "/api/chat/{channel}/stream",
    "agui": "/api/agui?runId={run}.{word}",
}


class Reader:
    """A client without a network: the application is called as a server would."""

    def __init__(self, asgi_app: Any, path: str) -> None:
        self._app = asgi_app
        self._path, _, self._query = path.partition("?")
        self.size = 0
        self._has_body = False
        self.first = asyncio.Event()

    async def read(self) -> None:
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": self._path, "raw_path": self._path.encode(), "query_string": self._query.encode(), "root_path": "",
            "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1), "server": ("localhost", 80), "state": {},
        }  # fmt: skip
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if self._has_body:
            await asyncio.Event().wait()
        self._has_body = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _send(self, message: dict[str, Any]) -> None:
        self.size += len(message.get("body", b""))
        if message["type"] == "http.response.body":
            self.first.set()


async def talk(house: TestHouse, claims: list[Claim], tokens: int, round_number: int) -> float:
    """CPU seconds while every stream says so many tokens."""
    begun = time.process_time()
    for number in range(tokens):
        at = asyncio.get_running_loop().time() + PACE
        for claim in claims:
            n = round_number * tokens + number
            await house.queue.store.publish(claim, n, [delta("token ", claim.run_id, claim.attempt)])
        await asyncio.sleep(max(0.0, at - asyncio.get_running_loop().time()))
    await asyncio.sleep(0.1)
    return time.process_time() - begun


@pytest.mark.prove
@pytest.mark.timeout(300)
async def test_a_token_costs_at_most_a_third_more_than_in_the_dialect_of_the_seeds(
    size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    streams, tokens, rounds = size(20, 60), size(20, 60), size(1, 5)
    async with opened(worker=False, window=0.0, max_wait=0.0) as house:
        asgi_app = app(house.queue, own_application=False)
        for number in range(streams):
            await house.send(f"c{number}", "hi")
        claims = await house.queue.store.claim(owner="w", limit=streams, lease=600.0)
        assert len(claims) == streams
        costs: dict[str, list[float]] = {name: [] for name in ("nobody", *PATHS)}
        round_number = 0
        for _ in range(rounds):
            for name, seconds in costs.items():
                async with AsyncExitStack() as stack:
                    readers = [] if name == "nobody" else [_reader(asgi_app, PATHS[name], claim) for claim in claims]
                    tasks = [asyncio.ensure_future(reader.read()) for reader in readers]
                    for task in tasks:
                        stack.callback(task.cancel)
                    await asyncio.gather(*(reader.first.wait() for reader in readers))
                    await asyncio.sleep(0.1)
                    before = sum(reader.size for reader in readers)
                    seconds.append(await talk(house, claims, tokens, round_number))
                    assert not readers or sum(reader.size for reader in readers) > before
                    round_number += 1
        alone = median(costs["nobody"])
        per_token = {name: (median(costs[name]) - alone) / (streams * tokens) * 1e6 for name in PATHS}
        proof(
            "cost of a token in its door",
            " | ".join(f"{name} {cost:.1f} µs" for name, cost in per_token.items())
            + "".join(f" | {name}/seed {per_token[name] / per_token['seed']:.2f}" for name in ("vercel", "agui")),
        )
        if size(0, 1):
            assert max(per_token["vercel"], per_token["agui"]) <= 1.3 * per_token["seed"]


def _reader(asgi_app: Any, path: str, claim: Claim) -> Reader:
    channel = claim.address.channel
    return Reader(asgi_app, path.format(channel=channel, run=claim.run_id, word=word_of(channel)))
