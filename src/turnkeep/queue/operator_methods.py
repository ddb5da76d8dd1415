"""What an operator looks at and mends: how much waits, and what no run could answer."""

from __future__ import annotations

from turnkeep.application import Application
from turnkeep.errors import NotFound
from turnkeep.fleet import ProcessRecord, list_processes
from turnkeep.lean_dataclass import dataclass
from turnkeep.runs.activity import DayOfUse, read_days
from turnkeep.store.sinks import SinkRecord
from turnkeep.store.values import DeadLetter, Receipt


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """Threads being answered, due, and due later; messages answered and dead, ever."""

    active_count: int
    waiting_count: int
    delayed_count: int
    completed_count: int
    failed_count: int

    def to_json(self) -> dict[str, int]:
        """As the HTTP door tells it."""
        return {
            "activeCount": self.active_count,
            "waitingCount": self.waiting_count,
            "delayedCount": self.delayed_count,
            "completedCount": self.completed_count,
            "failedCount": self.failed_count,
        }


class OperatorMethods(Application):
    """What is done to a queue as a whole."""

    async def get_queue_status(self) -> QueueStatus:
        """How much is where, now, over all threads of this queue."""
        await self.open()
        counts = await self.store.counts(queue=self.name)
        return QueueStatus(counts.active, counts.waiting, counts.delayed, counts.completed, counts.failed)

    async def list_dead_letters(
        self, *, after: str = "", limit: int = 100, tenant: str = "default"
    ) -> list[DeadLetter]:
        """Messages that no run could answer, oldest first; `after` is the id of the last one seen."""
        await self.open()
        return await self.store.dead(tenant=tenant, queue=self.name, after=after, limit=limit)

    async def get_dead_letter(self, dead_id: str, *, tenant: str = "default") -> DeadLetter:
        """Raises `NotFound`: there is none, or it was redriven or discarded."""
        await self.open()
        letter = await self.store.dead_letter(dead_id)
        if letter is None or (letter.address.tenant, letter.address.queue) != (tenant, self.name):
            raise NotFound(f"there is no dead letter {dead_id!r}")
        return letter

    async def redrive(self, dead_id: str, *, tenant: str = "default") -> Receipt:
        """Take a dead letter in again, at the end of its inbox, with all its attempts.

        Raises `NotFound`, `MessageConflict` while a message of its id is open.
        """
        letter = await self.get_dead_letter(dead_id, tenant=tenant)
        return await self.store.redrive(letter.dead_id)

    async def discard(self, dead_id: str, *, tenant: str = "default", once: str | None = None) -> None:
        """Drop a dead letter. Raises `NotFound`."""
        letter = await self.get_dead_letter(dead_id, tenant=tenant)
        await self.store.discard(letter.dead_id, once=once)

    async def list_workers(self) -> list[ProcessRecord]:
        """The processes that run with this store: where, which version, how much they do."""
        await self.open()
        return await list_processes(self.store)

    async def get_daily_usage(self, days: int = 30, *, tenant: str = "default") -> list[DayOfUse]:
        """What was used on each of the last days (at most 31), by model and assistant, oldest first."""
        await self.open()
        return await read_days(self.store, tenant, days=days, now=await self.store.now())

    async def list_sinks(self) -> list[SinkRecord]:
        """What waits for receivers outside: relay, webhook, reply exchange."""
        await self.open()
        return await self.store.sinks()
