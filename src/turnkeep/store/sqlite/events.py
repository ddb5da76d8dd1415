"""Events of the SQLite engine: publishing, reading, following, and the outbox of the sinks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from turnkeep.errors import LeaseLost, TurnkeepError
from turnkeep.events import Event
from turnkeep.messages import Address
from turnkeep.store import rules_claim
from turnkeep.store.contract import EventGap, Follower
from turnkeep.store.sinks import EVERYTHING, Delivery, ParkedEvent, Selection, SinkRecord
from turnkeep.store.sqlite import event_log, outbox
from turnkeep.store.sqlite.engine import Engine
from turnkeep.store.sqlite.once import Once
from turnkeep.store.sqlite.transaction import Transaction
from turnkeep.store.sqlite.view import View
from turnkeep.store.values import Claim, Page, Publication, top_of


class SqliteEvents(Engine):
    """The events protocol. There is one partition, 0."""

    async def publish(self, claim: Claim, n: int, events: Sequence[Event]) -> int:
        return top_of(await self.publish_many([Publication(claim, n, events)]))

    async def publish_many(self, publications: Sequence[Publication]) -> list[int | Exception]:
        def act(tx: Transaction) -> list[int | Exception]:
            return [_publish_or_refuse(tx, *one) for one in publications]

        return await self.write(act, "soft")

    def lane_of(self, address: Address) -> int:
        return 0

    async def read(self, address: Address, *, after: int = 0, limit: int = 1000) -> Page:
        def look(view: View) -> Page:
            thread_row = view.find(address)
            return (
                Page("", 0, 0, None, ())
                if thread_row is None
                else event_log.page(view.connection, thread_row, after, limit)
            )

        return await self.read_from(look)

    def follow(self) -> AbstractAsyncContextManager[Follower]:
        return self.use().wakeups.following(self.resolve, self.catch_up)

    async def open_sink(
        self, sink: str, selection: Selection = EVERYTHING, *, once: str | None = None
    ) -> Sequence[int]:
        def act(tx: Transaction) -> Sequence[int]:
            tx.mark()
            outbox.open_sink(tx.connection, sink, selection)
            tx.sinks_changed()
            return (0,)

        return await self.write(act, once=Once.of(once, "open_sink", sink, selection))

    async def close_sink(self, sink: str, *, once: str | None = None) -> None:
        def act(tx: Transaction) -> None:
            tx.mark()
            outbox.close_sink(tx.connection, sink)
            tx.sinks_changed()

        await self.write(act, "ending", Once.of(once, "close_sink", sink))

    async def lease_sink(self, sink: str, partition: int, *, owner: str, lease: float) -> str | None:
        def act(tx: Transaction) -> str | None:
            state = outbox.holding(tx.connection, sink, partition)
            if state.owner not in ("", owner) and state.until > tx.now and not tx.owners.is_gone(state.owner):
                return None
            tx.owners.hold(owner)
            tx.mark()
            tx.connection.execute("UPDATE sink SET owner = ?, until = ? WHERE name = ?", (owner, tx.now + lease, sink))
            return outbox.position_of(state.position)

        return await self.write(act, "ending")

    async def deliveries(self, sink: str, partition: int, *, after: str, limit: int) -> list[Delivery]:
        def look(view: View) -> list[Delivery]:
            outbox.holding(view.connection, sink, partition)
            return outbox.deliveries(view.connection, sink, outbox.number_of(after), limit)

        return await self.read_from(look)

    async def mark_delivered(
        self, sink: str, partition: int, *, owner: str, position: str, to_park: Sequence[tuple[str, str]] = ()
    ) -> None:
        def act(tx: Transaction) -> None:
            if outbox.holding(tx.connection, sink, partition).owner != owner:
                raise LeaseLost(f"{owner!r} does not deliver to sink {sink!r} any more")
            tx.mark()
            for event_position, reason in to_park:
                outbox.park(tx.connection, sink, outbox.number_of(event_position), reason=reason, now=tx.now)
            if to_park:
                outbox.bound_parked(tx.connection, sink, tx.now)
            outbox.move(tx.connection, sink, outbox.number_of(position))

        await self.write(act, "ending")

    async def list_parked(self, sink: str, partition: int, *, after: str = "", limit: int = 1000) -> list[ParkedEvent]:
        def look(view: View) -> list[ParkedEvent]:
            outbox.holding(view.connection, sink, partition)
            return outbox.list_parked(view.connection, sink, outbox.number_of(after), limit)

        return await self.read_from(look)

    async def parked_deliveries(self, sink: str, partition: int, positions: Sequence[str]) -> list[Delivery]:
        def look(view: View) -> list[Delivery]:
            outbox.holding(view.connection, sink, partition)
            return outbox.parked_deliveries(view.connection, sink, _numbers(positions))

        return await self.read_from(look)

    async def note_failure(
        self, sink: str, partition: int, position: str, *, reason: str, give_up: bool, once: str | None = None
    ) -> None:
        def act(tx: Transaction) -> None:
            outbox.holding(tx.connection, sink, partition)
            tx.mark()
            number = outbox.number_of(position)
            outbox.note_failure(tx.connection, sink, number, reason, give_up=give_up, now=tx.now)

        operation = Once.of(once, "note_failure", sink, partition, position, reason, give_up)
        await self.write(act, "ending", operation)

    async def redrive_parked(
        self, sink: str, partition: int, positions: Sequence[str], *, once: str | None = None
    ) -> int:
        def act(tx: Transaction) -> int:
            outbox.holding(tx.connection, sink, partition)
            tx.mark()
            return outbox.redrive(tx.connection, sink, _numbers(positions))

        return await self.write(act, once=Once.of(once, "redrive_parked", sink, partition, *positions))

    async def unpark(self, sink: str, partition: int, positions: Sequence[str], *, once: str | None = None) -> int:
        def act(tx: Transaction) -> int:
            outbox.holding(tx.connection, sink, partition)
            tx.mark()
            return outbox.unpark(tx.connection, sink, _numbers(positions))

        return await self.write(act, "ending", Once.of(once, "unpark", sink, partition, *positions))

    async def sinks(self) -> list[SinkRecord]:
        return await self.read_from(lambda view: outbox.records(view.connection))


def _publish(tx: Transaction, claim: Claim, n: int, events: Sequence[Event]) -> int:
    thread_row = tx.claimed_thread(claim)
    top = rules_claim.publish(thread_row.thread, claim, n, events, tx.now)
    tx.publish(thread_row)
    return top


def _publish_or_refuse(tx: Transaction, claim: Claim, n: int, events: Sequence[Event]) -> int | Exception:
    """Its refusal, of which nothing was written, leaves the others alone."""
    try:
        return _publish(tx, claim, n, events)
    except (TurnkeepError, EventGap) as refusal:
        return refusal


def _numbers(positions: Sequence[str]) -> list[int]:
    return [outbox.number_of(position) for position in positions]
