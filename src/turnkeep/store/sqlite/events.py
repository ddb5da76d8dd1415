"""Events of the SQLite engine: publishing, reading, following, and the outbox of the sinks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from turnkeep.errors import LeaseLost, NotFound
from turnkeep.events import Event
from turnkeep.messages import Address
from turnkeep.store import turns
from turnkeep.store.base import Claim, Delivery, Follower, Page
from turnkeep.store.sqlite import log
from turnkeep.store.sqlite.engine import Engine
from turnkeep.store.sqlite.once import Once
from turnkeep.store.sqlite.query import every
from turnkeep.store.sqlite.transaction import Transaction
from turnkeep.store.sqlite.view import View


class SqliteEvents(Engine):
    """The events protocol. There is one partition, 0."""

    async def publish(self, claim: Claim, n: int, events: Sequence[Event]) -> int:
        def act(tx: Transaction) -> int:
            kept = tx.owned(claim)
            top = turns.publish(kept.thread, claim, n, events, tx.now)
            tx.publish(kept)
            return top

        return await self.write(act, "soft")

    async def read(self, address: Address, *, after: int = 0, limit: int = 1000) -> Page:
        def look(view: View) -> Page:
            kept = view.find(address)
            return Page("", 0, 0, None, ()) if kept is None else log.page(view.connection, kept, after, limit)

        return await self.read_from(look)

    def follow(self) -> AbstractAsyncContextManager[Follower]:
        return self.use().hub.following(self.resolved, self.catch_up)

    # ---------------------------------------------------------------- sinks

    async def open_sink(self, sink: str, *, once: str | None = None) -> Sequence[int]:
        def act(tx: Transaction) -> Sequence[int]:
            tx.mark()
            tx.connection.execute(
                "INSERT INTO sink (name, opened, position, owner, until) VALUES"
                " (?, (SELECT ifnull(max(position), 0) FROM event), '', '', 0.0) ON CONFLICT DO NOTHING",
                (sink,),
            )
            tx.sinks_changed()
            return (0,)

        return await self.write(act, once=Once.of(once, "open_sink", sink))

    async def close_sink(self, sink: str, *, once: str | None = None) -> None:
        def act(tx: Transaction) -> None:
            tx.mark()
            tx.connection.execute("DELETE FROM sink WHERE name = ?", (sink,))
            tx.sinks_changed()
            _forget_delivered(tx)

        await self.write(act, "ending", Once.of(once, "close_sink", sink))

    async def lease_sink(self, sink: str, partition: int, *, owner: str, lease: float) -> str | None:
        def act(tx: Transaction) -> str | None:
            _, position, other, until = _sink(tx, sink, partition)
            if other not in ("", owner) and until > tx.now and not tx.owners.is_gone(other):
                return None
            tx.owners.hold(owner)
            tx.mark()
            tx.connection.execute("UPDATE sink SET owner = ?, until = ? WHERE name = ?", (owner, tx.now + lease, sink))
            return position

        return await self.write(act, "ending")

    async def deliveries(self, sink: str, partition: int, *, after: str, limit: int) -> list[Delivery]:
        def look(view: View) -> list[Delivery]:
            opened, *_ = _sink(view, sink, partition)
            found = every(
                view.connection,
                "SELECT position, thread_id, tenant, queue, channel, offset, at, kind, body, epoch FROM outbox"
                " WHERE position > ? ORDER BY position LIMIT ?",
                (max(_number(after), opened), limit),
            )
            return [
                Delivery(_position(position), Address(tenant, queue, channel), thread_id, log.event_of(*said))
                for position, thread_id, tenant, queue, channel, *said in found
            ]

        return await self.read_from(look)

    async def delivered(self, sink: str, partition: int, *, owner: str, position: str) -> None:
        def act(tx: Transaction) -> None:
            _, _, holder, _ = _sink(tx, sink, partition)
            if holder != owner:
                raise LeaseLost(f"{owner!r} does not deliver to sink {sink!r} any more")
            tx.mark()
            tx.connection.execute(
                "UPDATE sink SET position = max(position, ?) WHERE name = ?", (_position(_number(position)), sink)
            )
            _forget_delivered(tx)

        await self.write(act, "ending")


def _sink(view: View, sink: str, partition: int) -> tuple[int, str, str, float]:
    """From where on it delivers, its position, who has it, and until when."""
    found: tuple[int, str, str, float] | None = view.connection.execute(
        "SELECT opened, position, owner, until FROM sink WHERE name = ?", (sink,)
    ).get
    if found is None or partition != 0:
        raise NotFound(f"sink {sink!r} with partition {partition} is not open, open it first")
    return found


def _forget_delivered(tx: Transaction) -> None:
    """What every sink has delivered, or would not deliver, leaves the outbox."""
    done = tx.connection.execute("SELECT min(max(opened, CAST(position AS INTEGER))) FROM sink").get
    tx.connection.execute("DELETE FROM outbox WHERE ?1 IS NULL OR position <= ?1", (done,))


def _position(number: int) -> str:
    return f"{number:020d}"


def _number(position: str) -> int:
    return int(position or 0)
