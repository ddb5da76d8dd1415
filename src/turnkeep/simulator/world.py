"""What all parts of one simulator share: time, chance, ways, faults, persona and ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any, Protocol

from turnkeep.clock import Clock, SystemClock
from turnkeep.simulator.exchanges import ExchangeLedger
from turnkeep.simulator.faults import Faults
from turnkeep.simulator.options import Options, StreamPace
from turnkeep.simulator.persona import AnswerScript, Persona
from turnkeep.simulator.problems import Problem
from turnkeep.simulator.prompt_cache import PromptCache
from turnkeep.simulator.seeded_ids import SeededIds


class Door(Protocol):
    """The listening socket, where it can be shut for a while."""

    async def refuse(self, seconds: float) -> None: ...


class World:
    """One simulator's state. `group` holds what runs beside the requests while the
    application is up.
    """

    def __init__(
        self,
        *,
        seed: int,
        script: AnswerScript | None,
        pace: StreamPace | None,
        options: Options | None,
        clock: Clock | None,
    ) -> None:
        self.seed = seed
        self.clock: Clock = clock or SystemClock()
        self.options = options or Options()
        self.pace = pace or StreamPace()
        self.ids = SeededIds(seed)
        # A source for each purpose: a fault more or a cut more must change no id of a later
        # response.
        self.dice = SeededIds(seed + 1)
        self.faults = Faults(SeededIds(seed + 2))
        self.persona = Persona(seed, script or AnswerScript())
        self.prompt_cache = PromptCache(self.clock)
        self.ledger = ExchangeLedger(self.clock, limit=self.options.ledger_limit, file=self.options.ledger_file)
        self.door: Door | None = None
        self.group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._minute: tuple[int, int] = (0, 0)

    @property
    def script(self) -> AnswerScript:
        return self.persona.script

    @script.setter
    def script(self, script: AnswerScript) -> None:
        self.persona.script = script

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside the requests until it ends or the simulator does."""
        if self.group is None:
            # Python warns of a coroutine that nobody awaits or closes.
            work.close()
            raise Problem(503, "The simulator is not up: serve it with its lifespan.", type="server_error")
        task = self.group.create_task(work)
        # A task group cannot be told to cancel what is in it.
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def stop_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()

    def message_headers(self, request_id: str) -> dict[str, str]:
        """What Anthropic's platform sends with every reply."""
        now = self.clock.now()
        headers = {"request-id": request_id, "anthropic-organization-id": "org_simulator"}
        for what, limit, wait in (
            ("requests", self.options.requests_per_minute or 10_000, 60),
            ("tokens", 2_000_000, 1),
        ):
            remaining = max(0, limit - self._minute[1]) if what == "requests" else limit - 1_000
            moment = datetime.fromtimestamp(int(now + wait), UTC).isoformat().replace("+00:00", "Z")
            head = f"anthropic-ratelimit-{what}"
            headers |= {f"{head}-limit": str(limit), f"{head}-remaining": str(remaining), f"{head}-reset": moment}
        return headers

    def headers(self, request_id: str) -> dict[str, str]:
        """What the platform sends with every reply."""
        limit = self.options.requests_per_minute or 10_000
        _, used = self._minute
        return {
            "x-request-id": request_id,
            "openai-processing-ms": "1",
            "openai-version": "2020-10-01",
            "x-ratelimit-limit-requests": str(limit),
            "x-ratelimit-remaining-requests": str(max(0, limit - used)),
            "x-ratelimit-reset-requests": "60ms",
            "x-ratelimit-limit-tokens": "2000000",
            "x-ratelimit-remaining-tokens": "1999000",
            "x-ratelimit-reset-tokens": "30ms",
        }

    def count_request(self) -> None:
        """Count a request of this minute; refuses with 429 beyond `requests_per_minute`."""
        now = self.clock.now()
        minute = int(now // 60)
        used = self._minute[1] + 1 if self._minute[0] == minute else 1
        self._minute = (minute, used)
        limit = self.options.requests_per_minute
        if limit is not None and used > limit:
            wait = max(1, round((minute + 1) * 60 - now))
            headers = {"retry-after": str(wait), "x-ratelimit-reset-requests": f"{wait}s"}
            message = f"Rate limit reached for requests per min (RPM): Limit {limit}. Please try again in {wait}s."
            raise Problem(429, message, type="requests", code="rate_limit_exceeded", headers=headers)
