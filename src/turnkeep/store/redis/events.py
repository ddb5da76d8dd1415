"""The events protocol of the Redis engine: a log per channel, followers, the sinks' outbox."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from turnkeep.errors import LeaseLost, NotFound, StoreError, ThreadQuarantined
from turnkeep.events import Event
from turnkeep.messages import Address
from turnkeep.store.contract import EventGap, Follower
from turnkeep.store.redis.client.pipe import Argument, Reply
from turnkeep.store.redis.codec import epoch_of, event_frame, event_row, exact, number, read_event, read_frames, words
from turnkeep.store.redis.hints import RedisFeed
from turnkeep.store.redis.key_names import PartitionKeys, address_of, plain, to_bytes, to_text
from turnkeep.store.redis.part import RedisPart, gather, status_word
from turnkeep.store.sinks import EVERYTHING, MOST_PARKED, WAITING_COUNTED, Delivery, ParkedEvent, Selection, SinkRecord
from turnkeep.store.values import Claim, Page, Publication, top_of
from turnkeep.telemetry import get_log

log = get_log(__name__)


AT_ONCE = 64
"""Publications of one script."""

_ENTRY = (b"space", b"channel", b"thread", b"epoch", b"incarnation", b"frame")
"""The members of a parked entry that an outbox entry has too, in the order of `sink_parked`."""


class RedisEvents(RedisPart):
    """One append-only log per channel, and the outbox of the sinks."""

    _feeds: set[RedisFeed]

    async def publish(self, claim: Claim, n: int, events: Sequence[Event]) -> int:
        return top_of(await self.publish_many([Publication(claim, n, events)]))

    async def publish_many(self, publications: Sequence[Publication]) -> list[int | Exception]:
        shelves: dict[int, list[int]] = {}
        for place, one in enumerate(publications):
            shelves.setdefault(self.lane_of(one.claim.address), []).append(place)
        # Not all in one script: it holds up whoever else asks that server.
        shares = [
            shelf[first : first + AT_ONCE] for shelf in shelves.values() for first in range(0, len(shelf), AT_ONCE)
        ]
        answers = await gather([self._publish_share([publications[place] for place in share]) for share in shares])
        outcomes: list[int | Exception] = [0] * len(publications)
        for share, tops in zip(shares, answers, strict=True):
            for place, top in zip(share, tops, strict=True):
                outcomes[place] = top
        return outcomes

    def lane_of(self, address: Address) -> int:
        return self._shelf(self._keys.partition(address))

    async def _publish_share(self, publications: Sequence[Publication]) -> list[int | Exception]:
        threads = [self._keys.thread(one.claim.address) for one in publications]
        queues = {one.claim.address.queue for one in publications}
        arguments: list[Argument] = [min(self._policies.of(queue).log_events for queue in queues)]
        try:
            now = self._now()
            for claim, n, events in publications:
                arguments += (claim.token, n, len(events), *[event_frame(event, now) for event in events])
            replies = await self._run_grouped("publish", threads, arguments, now=now)
        except StoreError as error:
            return [error] * len(publications)
        # Nearly all are offsets: for them no coroutine each. The others side by side, since runs that began
        # together come to their 64th event together.
        places = [place for place, reply in enumerate(replies) if reply.__class__ is not int]
        if places:
            tops = await gather([self._look_closer(publications[place], replies[place]) for place in places])
            for place, top in zip(places, tops, strict=True):
                replies[place] = top
        return replies

    async def _look_closer(self, publication: Publication, reply: Reply) -> int | Exception:
        """What came of one that the short script has not appended."""
        claim, n, events = publication
        try:
            # A token has a script that touches four keys and can neither roll deltas into a snapshot
            # nor write to sinks. Where either is to be done, it takes the long one.
            if status_word(reply) == "long":
                keys, policy = self._keys.thread(claim.address), self._policy(claim.address.queue)
                rows = [value for event in events for value in event_row(event)]
                reply = await self._run("publish_long", keys, self._now(), policy, claim.token.encode(), n, *rows)
        except StoreError as error:
            return error
        match status_word(reply):
            case "top":
                return int(reply[1])
            case "gap":
                return EventGap(n, reply[1])
        return LeaseLost(f"attempt {claim.attempt} of run {claim.run_id} does not own its thread any more")

    async def read(self, address: Address, *, after: int = 0, limit: int = 1000) -> Page:
        keys = await self._resolve(address)
        expiry = exact(self._policies.of(address.queue).expiry)
        want = b"" if keys.address == address else to_bytes(address.channel)
        reply = await self._run("read", keys, self._now(), expiry, want, after, limit)
        # As in `_meet`: the id means another channel by now.
        if status_word(reply) == "gone":
            self._channels.pop(address, None)
            keys = self._keys.thread(address)
            reply = await self._run("read", keys, self._now(), expiry, b"", after, limit)
        if status_word(reply) != "page":
            return Page("", 0, 0, None, ())
        async with self._reading(keys):
            return _page(reply, limit)

    def follow(self) -> AbstractAsyncContextManager[Follower]:
        return self._following()

    @asynccontextmanager
    async def _following(self) -> AsyncIterator[Follower]:
        feed = RedisFeed(self._subscriptions, self._resolve, self._incarnation)
        self._feeds.add(feed)
        try:
            yield feed
        finally:
            self._feeds.discard(feed)
            feed.close()

    async def open_sink(
        self, sink: str, selection: Selection = EVERYTHING, *, once: str | None = None
    ) -> Sequence[int]:
        wishes = (plain(selection.tenant or ""), plain(selection.queue or ""), b"1" if selection.finals else b"")
        await self._on_all("sink_open", self._operation(once, "open_sink", sink, selection), to_bytes(sink), *wishes)
        return tuple(partition.index for partition in self._keys.partitions)

    async def close_sink(self, sink: str, *, once: str | None = None) -> None:
        await self._on_all("sink_close", self._operation(once, "close_sink", sink), to_bytes(sink))

    async def _on_all(self, name: str, *arguments: bytes) -> None:
        await gather(
            [self._run_on_partition(name, partition, self._now(), *arguments) for partition in self._keys.partitions]
        )

    async def lease_sink(self, sink: str, partition: int, *, owner: str, lease: float) -> str | None:
        where = self._partition(sink, partition)
        reply = await self._run_on_partition(
            "sink_lease", where, self._now(), to_bytes(sink), to_bytes(owner), exact(lease)
        )
        if status_word(reply) == "absent":
            raise _not_open(sink, partition)
        return words(reply[1]) if status_word(reply) == "held" else None

    async def deliveries(self, sink: str, partition: int, *, after: str, limit: int) -> list[Delivery]:
        observer = await self._observe_writes(self._partition(sink, partition).tag)
        entries = await self._of_sink("sink_read", sink, partition, after, limit)
        # What is told outside cannot be taken back: lost in a failover, it would happen again, and be
        # told a second time as something else.
        if entries:
            await self._wait_until_safe(observer)
        deliveries = [self._delivery(partition, position, _by_name(fields)) for position, fields in entries]
        return [delivery for delivery in deliveries if delivery is not None]

    def _delivery(self, partition: int, position: bytes, entry: Mapping[bytes, bytes]) -> Delivery | None:
        """One entry of the outbox; a damaged one is logged and left out, so that others go on."""
        try:
            incarnation = int(entry.get(b"incarnation", self._incarnation(partition)))
            [event] = read_frames(entry[b"frame"], epoch_of(entry[b"epoch"], incarnation))
            address = address_of(entry[b"space"], entry[b"channel"])
            return Delivery(words(position), address, to_text(entry[b"thread"]), event)
        except (KeyError, ValueError, ThreadQuarantined) as damage:
            log.error("delivery_damaged", partition=partition, position=words(position), reason=str(damage))
            return None

    async def mark_delivered(
        self, sink: str, partition: int, *, owner: str, position: str, to_park: Sequence[tuple[str, str]] = ()
    ) -> None:
        where = self._partition(sink, partition)
        rows = [to_bytes(text) for place in to_park for text in place]
        own = (to_bytes(sink), to_bytes(owner), position, MOST_PARKED)
        reply = await self._run_on_partition("sink_delivered", where, self._now(), *own, *rows)
        if reply == b"absent":
            raise _not_open(sink, partition)
        if reply == b"lost":
            raise LeaseLost(f"{owner!r} does not deliver to sink {sink!r} any more")

    async def list_parked(self, sink: str, partition: int, *, after: str = "", limit: int = 1000) -> list[ParkedEvent]:
        return [_parked_event(entry) for entry in await self._of_sink("sink_parked", sink, partition, after, limit)]

    async def parked_deliveries(self, sink: str, partition: int, positions: Sequence[str]) -> list[Delivery]:
        if not positions:
            return []
        entries = await self._of_sink("sink_parked", sink, partition, "", 0, *positions)
        deliveries = [
            self._delivery(partition, place, dict(zip(_ENTRY, rest, strict=False))) for place, *rest in entries
        ]
        return [delivery for delivery in deliveries if delivery is not None]

    async def note_failure(
        self, sink: str, partition: int, position: str, *, reason: str, give_up: bool, once: str | None = None
    ) -> None:
        operation = self._operation(once, "note_failure", sink, partition, position, reason, give_up)
        rest = (position, to_bytes(reason), b"1" if give_up else b"")
        await self._change_parked("sink_failed", sink, partition, operation, *rest)

    async def redrive_parked(
        self, sink: str, partition: int, positions: Sequence[str], *, once: str | None = None
    ) -> int:
        operation = self._operation(once, "redrive_parked", sink, partition, *positions)
        return await self._change_parked("sink_redrive", sink, partition, operation, *positions)

    async def unpark(self, sink: str, partition: int, positions: Sequence[str], *, once: str | None = None) -> int:
        operation = self._operation(once, "unpark", sink, partition, *positions)
        return await self._change_parked("sink_unpark", sink, partition, operation, *positions)

    async def _change_parked(
        self, script: str, sink: str, partition: int, operation: bytes, *arguments: bytes | str
    ) -> int:
        where = self._partition(sink, partition)
        reply = await self._run_on_partition(script, where, self._now(), operation, to_bytes(sink), *arguments)
        if status_word(reply) == "absent":
            raise _not_open(sink, partition)
        return int(reply[1])

    async def _of_sink(self, script: str, sink: str, partition: int, *arguments: Any) -> Sequence[Any]:
        reply = await self._run_on_partition(script, self._partition(sink, partition), to_bytes(sink), *arguments)
        if status_word(reply) == "absent":
            raise _not_open(sink, partition)
        return reply[1:]  # type: ignore[no-any-return]  # what scripts answer has no type

    async def sinks(self) -> list[SinkRecord]:
        partitions = self._keys.partitions
        replies = await gather([self._run_on_partition("sink_list", one, WAITING_COUNTED) for one in partitions])
        records: dict[str, SinkRecord] = {}
        for partition, reply in zip(partitions, replies, strict=True):
            for row in reply:
                # A sink has a part in each partition; people see one sink.
                here = _record(row, partition.index)
                records[here.name] = records[here.name].join(here) if here.name in records else here
        return [records[name] for name in sorted(records)]

    def _partition(self, sink: str, partition: int) -> PartitionKeys:
        if not 0 <= partition < len(self._keys.partitions):
            raise _not_open(sink, partition)
        return self._keys.partitions[partition]


def _by_name(fields: Sequence[bytes]) -> Mapping[bytes, bytes]:
    return dict(zip(fields[::2], fields[1::2], strict=True))


def _parked_event(entry: Sequence[Any]) -> ParkedEvent:
    position, space, channel, thread, _epoch, _incarnation, head, reason, failed_at, given_up = entry
    offset, kind, at, *_ = head.split()
    return ParkedEvent(
        position=words(position),
        address=address_of(space, channel),
        thread_id=to_text(thread),
        kind=words(kind),
        offset=int(offset),
        at=float(at),
        reason=to_text(reason),
        failed_at=number(failed_at),
        is_given_up=bool(given_up),
    )


def _record(row: Sequence[Any], partition: int) -> SinkRecord:
    name, waiting, oldest_at, parked_count, given_up_count, loss_count, last_loss_at = row
    figures = (waiting, number(oldest_at), parked_count, given_up_count, loss_count, number(last_loss_at))
    return SinkRecord(to_text(name), *figures, (partition,))


def _not_open(sink: str, partition: int) -> NotFound:
    return NotFound(f"sink {sink!r} with partition {partition} is not open, open it first")


def _page(reply: Sequence[Any], limit: int) -> Page:
    _, epoch, incarnation, top, floor, live_from, frames, *snapshot = reply
    current = epoch_of(epoch, int(incarnation))
    events_so_far = read_frames(frames, current)
    events_so_far += [
        read_event((int(offset), current), kind, at, members, text) for offset, kind, at, members, text in snapshot
    ]
    events = sorted(events_so_far, key=lambda event: event.offset)[:limit]
    start = number(live_from) if isinstance(live_from, bytes) else live_from
    return Page(current, top, floor, None if start is None else int(start), tuple(events))
