"""The events protocol of the Redis engine: one log per channel, its followers, and the outbox of the sinks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from turnkeep.errors import LeaseLost, NotFound, ThreadQuarantined
from turnkeep.events import Event
from turnkeep.messages import Address
from turnkeep.store.base import Claim, Delivery, Follower, Page
from turnkeep.store.redis.base import RedisPart, together, word
from turnkeep.store.redis.codec import epoch_of, event_row, exact, number, read_event, read_frames, words
from turnkeep.store.redis.follow import RedisFeed
from turnkeep.store.redis.keys import PartitionKeys, address_of, to_bytes, to_text
from turnkeep.telemetry import get_log

log = get_log(__name__)


class RedisEvents(RedisPart):
    """One append-only log per channel, and the outbox of the sinks."""

    _feeds: set[RedisFeed]

    async def publish(self, claim: Claim, n: int, events: Sequence[Event]) -> int:
        keys = self._keys.thread(claim.address)
        rows = [value for event in events for value in event_row(event)]
        token = claim.token.encode()
        reply = await self._run("publish", keys, self._now(), token, n, *rows)
        if word(reply) == "long":
            reply = await self._run(
                "publish_long", keys, self._now(), self._policy(claim.address.queue), token, n, *rows
            )
        if word(reply) == "lost":
            raise LeaseLost(f"attempt {claim.attempt} of run {claim.run_id} does not own its thread any more")
        if word(reply) == "gap":
            raise ValueError(f"event {n} of the run comes after {reply[1]} events, publish them in order")
        top: int = reply[1]
        return top

    async def read(self, address: Address, *, after: int = 0, limit: int = 1000) -> Page:
        keys = await self._resolve(address)
        expiry = exact(self._policies.of(address.queue).expiry)
        want = b"" if keys.address == address else to_bytes(address.channel)
        reply = await self._run("read", keys, self._now(), expiry, want, after, limit)
        if word(reply) == "gone":
            self._channels.pop(address, None)
            keys = self._keys.thread(address)
            reply = await self._run("read", keys, self._now(), expiry, b"", after, limit)
        if word(reply) != "page":
            return Page("", 0, 0, None, ())
        async with self._reading(keys):
            return _page(reply, limit)

    def follow(self) -> AbstractAsyncContextManager[Follower]:
        return self._following()

    @asynccontextmanager
    async def _following(self) -> AsyncIterator[Follower]:
        feed = RedisFeed(self._hub, self._resolve, self._incarnation)
        self._feeds.add(feed)
        try:
            yield feed
        finally:
            self._feeds.discard(feed)
            feed.close()

    # ---------------------------------------------------------------- sinks

    async def open_sink(self, sink: str, *, once: str | None = None) -> Sequence[int]:
        await self._on_all("sink_open", self._operation(once, "open_sink", sink), to_bytes(sink))
        return tuple(partition.index for partition in self._keys.partitions)

    async def close_sink(self, sink: str, *, once: str | None = None) -> None:
        await self._on_all("sink_close", self._operation(once, "close_sink", sink), to_bytes(sink))

    async def _on_all(self, name: str, *arguments: bytes) -> None:
        await together([self._run_on(name, partition, self._now(), *arguments) for partition in self._keys.partitions])

    async def lease_sink(self, sink: str, partition: int, *, owner: str, lease: float) -> str | None:
        where = self._partition(sink, partition)
        reply = await self._run_on("sink_lease", where, self._now(), to_bytes(sink), to_bytes(owner), exact(lease))
        if word(reply) == "absent":
            raise _not_open(sink, partition)
        return words(reply[1]) if word(reply) == "held" else None

    async def deliveries(self, sink: str, partition: int, *, after: str, limit: int) -> list[Delivery]:
        where = self._partition(sink, partition)
        reply = await self._run_on("sink_read", where, to_bytes(sink), after, limit)
        if word(reply) == "absent":
            raise _not_open(sink, partition)
        found = [self._delivery(partition, position, fields) for position, fields in reply[1:]]
        return [delivery for delivery in found if delivery is not None]

    def _delivery(self, partition: int, position: bytes, fields: Sequence[bytes]) -> Delivery | None:
        """One entry of the outbox; a damaged one is told of and left out, so that the others go on."""
        values = dict(zip(fields[::2], fields[1::2], strict=True))
        try:
            [event] = read_frames(values[b"frame"], epoch_of(values[b"epoch"], self._incarnation(partition)))
            address = address_of(values[b"space"], values[b"channel"])
            return Delivery(words(position), address, to_text(values[b"thread"]), event)
        except (KeyError, ValueError, ThreadQuarantined) as damage:
            log.error("delivery_damaged", partition=partition, position=words(position), reason=str(damage))
            return None

    async def delivered(self, sink: str, partition: int, *, owner: str, position: str) -> None:
        where = self._partition(sink, partition)
        reply = await self._run_on("sink_delivered", where, to_bytes(sink), to_bytes(owner), position)
        if reply == b"absent":
            raise _not_open(sink, partition)
        if reply == b"lost":
            raise LeaseLost(f"{owner!r} does not deliver to sink {sink!r} any more")

    def _partition(self, sink: str, partition: int) -> PartitionKeys:
        if not 0 <= partition < len(self._keys.partitions):
            raise _not_open(sink, partition)
        return self._keys.partitions[partition]


def _not_open(sink: str, partition: int) -> NotFound:
    return NotFound(f"sink {sink!r} with partition {partition} is not open, open it first")


def _page(reply: Sequence[Any], limit: int) -> Page:
    _, epoch, incarnation, top, floor, live_from, finals, *entries = reply
    current = epoch_of(epoch, int(incarnation))
    found = read_frames(finals, current)
    found += [
        read_event((int(offset), current), kind, at, members, text) for offset, kind, at, members, text in entries
    ]
    events = sorted(found, key=lambda event: event.offset)[:limit]
    started = number(live_from) if isinstance(live_from, bytes) else live_from
    return Page(current, top, floor, None if started is None else int(started), tuple(events))
