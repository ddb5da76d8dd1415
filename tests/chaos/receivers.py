"""A receiver of webhooks in a storm: it fails on some events, now and then on all, and notes what it took."""

from __future__ import annotations

import base64
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import orjson
from aiohttp import web

from tests.chaos.programs import HOST
from tests.services import free_port

SECRET = "whsec_" + base64.b64encode(b"a storm is no secret").decode()
POISONED = "poisoned"
"""A channel of which it never takes anything: others must not wait for it."""
BAD = 0.3
"""How many events it fails on at first, in the calm after the storm too: most answers come then."""
MOST_FAILURES = 5
STATUSES = (400, 404, 500, 503)


@dataclass(slots=True)
class Hook:
    """`taken`: by channel what it confirmed, in order, each event once: offset and message ids."""

    source: random.Random
    port: int = field(default_factory=free_port)
    is_away: bool = False
    refusals: int = 0
    taken: dict[str, list[tuple[int, tuple[str, ...]]]] = field(default_factory=lambda: defaultdict(list))
    _failures: dict[str, int] = field(default_factory=dict)
    _confirmed: set[str] = field(default_factory=set)

    @property
    def settings(self) -> Mapping[str, str]:
        """What leads a gateway here."""
        return {
            "TURNKEEP_WEBHOOK_URL": f"http://{HOST}:{self.port}/",
            "TURNKEEP_WEBHOOK_SECRET": SECRET,
            "TURNKEEP_WEBHOOK_ALLOW_PRIVATE": "1",
        }

    @property
    def message_ids(self) -> set[str]:
        return {one for events in self.taken.values() for _, ids in events for one in ids}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        application = web.Application()
        application.router.add_post("/", self._take)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, HOST, self.port).start()
        try:
            yield
        finally:
            await runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        event_id, data = request.headers["webhook-id"], orjson.loads(await request.read())["data"]
        if self.is_away or data["channel"] == POISONED or self._fails_on(event_id):
            self.refusals += 1
            return web.Response(status=self.source.choice(STATUSES))
        if event_id not in self._confirmed:
            self._confirmed.add(event_id)
            self.taken[data["channel"]].append((data["offset"], tuple(data["message_ids"])))
        return web.Response(status=204)

    def _fails_on(self, event_id: str) -> bool:
        if event_id not in self._failures:
            is_bad = self.source.random() < BAD
            self._failures[event_id] = self.source.randint(1, MOST_FAILURES) if is_bad else 0
        self._failures[event_id] -= 1
        return self._failures[event_id] >= 0
