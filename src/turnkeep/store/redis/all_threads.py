"""All threads of the Redis engine: counts, scans, statistics, and what passing time does."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

from turnkeep.errors import ThreadQuarantined
from turnkeep.messages import Address
from turnkeep.store.passages import MOST_SEARCHED_THREADS, Passage, TextSearch, passage_in
from turnkeep.store.records import ages
from turnkeep.store.redis.activity_index import ActivityIndex, batched_by_stretch
from turnkeep.store.redis.codec import exact, flag, read_thread, read_turn
from turnkeep.store.redis.key_names import PartitionKeys, address_of, plain
from turnkeep.store.redis.part import RedisPart, gather, quarantining, status_word
from turnkeep.store.thread_search import ThreadSearch, newest_threads
from turnkeep.store.values import Counts, Stats, ThreadRecord
from turnkeep.telemetry import get_log
from turnkeep.usage import Usage

log = get_log(__name__)

PAGE = 100
PAGES = 50
"""Pages of threads that one call looks at in each partition."""
AT_ONCE = 20
TURNS_SEARCHED = 500
"""Newest turns of a thread in which one search looks for a text."""
MOST_SEARCHED = 50_000
"""Threads that one search looks at."""

_COUNTS = (
    "active", "held", "paused", "waiting", "delayed", "completed", "failed", "open_messages", "dead_letters", "threads",
    "oldest_wait",
)  # fmt: skip
"""What `counts.lua` counts, in its order."""


class RedisAllThreads(RedisPart):
    """All threads at once, partition by partition."""

    async def counts(self, *, tenant: str | None = None, queue: str | None = None) -> Counts:
        selection = (b"*" if tenant is None else plain(tenant), b"*" if queue is None else plain(queue))
        # Threads that are over are not counted, whether or not somebody swept.
        await gather([self._expire_in(partition, PAGE) for partition in self._keys.partitions])
        replies = await gather(
            [
                self._run_on_partition("counts", partition, self._now(), *selection)
                for partition in self._keys.partitions
            ]
        )
        columns = dict(zip(_COUNTS, zip(*replies, strict=True), strict=True))
        return Counts(**{name: (max if name == "oldest_wait" else sum)(values) for name, values in columns.items()})

    async def scan(
        self, *, tenant: str | None = None, queue: str | None = None, idle_for: float = 0.0
    ) -> AsyncIterator[ThreadRecord]:
        now = await self.now()
        for partition in self._keys.partitions:
            async for address in self._addresses(partition, tenant, queue):
                record = await self._record(address)
                if record is not None and (not idle_for or record.active_at <= now - idle_for):
                    yield record

    async def _addresses(
        self, partition: PartitionKeys, tenant: str | None, queue: str | None
    ) -> AsyncIterator[Address]:
        """The threads of a partition, in the order of its index, read page by page."""
        space = b"" if tenant is None else plain(tenant) + b"\0" + (b"" if queue is None else plain(queue) + b"\0")
        first, last = (b"[" + space, b"(" + space[:-1] + b"\1") if space else (b"-", b"+")
        while True:
            entries = await self._on_index(partition, "threads", "ZRANGEBYLEX", first=first, last=last)
            for entry in entries:
                owner, name, channel = entry.split(b"\0", 2)
                address = address_of(owner + b"\0" + name, channel)
                if queue in (None, address.queue):
                    yield address
            if len(entries) < PAGE:
                return
            first = b"(" + entries[-1]

    async def _record(self, address: Address) -> ThreadRecord | None:
        """The record of a thread as it is, its expiry not moved; nothing for a damaged one."""
        keys = self._keys.thread(address)
        policy = self._policy(address.queue)
        # The same script that creates, told to create and slide nothing: a listing must not keep
        # threads alive.
        nothing = (keys.space, keys.channel, b"", b"", b"", b"", flag(False), flag(False))
        try:
            reply = await self._run("thread", keys, self._now(), policy, *nothing)
            async with self._reading(keys):
                return read_thread(reply, self._policies.of(address.queue)) if status_word(reply) == "thread" else None
        except ThreadQuarantined:
            return None

    async def search(self, query: ThreadSearch) -> list[ThreadRecord]:
        if query.tenant is None or query.queue is None:  # the indexes by activity are of one tenant and queue each
            lists = await gather([self._newest_in(partition, query) for partition in self._keys.partitions])
            return newest_threads((record for records in lists for record in records), query)
        index = ActivityIndex(self._link, self._keys.partitions, query.tenant, query.queue)
        await index.complete(self._record)
        return await self._newest_by(index, query)

    async def _newest_by(self, index: ActivityIndex, query: ThreadSearch) -> list[ThreadRecord]:
        """Reads no more records than are shown, but for those that do not fit."""
        newest: list[ThreadRecord] = []
        looked_at = 0
        start = math.inf if query.before is None else query.before[0]
        async for names in index.walk(start, query.limit):
            for some in batched_by_stretch(names, query.limit):
                # a stretch in which thousands were stored is one
                for start in range(0, len(some), PAGE):
                    records = await gather([self._record(address) for _, address in some[start : start + PAGE]])
                    newest = newest_threads([*newest, *(record for record in records if record is not None)], query)
                looked_at += len(some)
                if len(newest) == query.limit:
                    return newest
                if looked_at >= MOST_SEARCHED:
                    log.warning("search_cut", looked_at=looked_at)
                    return newest
        return newest

    async def _newest_in(self, partition: PartitionKeys, query: ThreadSearch) -> list[ThreadRecord]:
        """Of a bounded number of threads of a partition those that fit; read many at once."""
        addresses: list[Address] = []
        most = max(1, MOST_SEARCHED // len(self._keys.partitions))
        async for address in self._addresses(partition, query.tenant, query.queue):
            addresses.append(address)
            if len(addresses) == most:
                log.warning("search_cut", partition=partition.index, looked_at=most)
                break
        newest: list[ThreadRecord] = []
        for start in range(0, len(addresses), PAGE):
            records = await gather([self._record(address) for address in addresses[start : start + PAGE]])
            newest = newest_threads([*newest, *(record for record in records if record is not None)], query)
        return newest

    async def find_passages(self, query: TextSearch) -> list[Passage]:
        """In the newest threads; their lists are read as they lie, for the script would move expiries."""
        records = await self.search(ThreadSearch(query.tenant, query.queue, limit=MOST_SEARCHED_THREADS))
        passages: list[Passage] = []
        for start in range(0, len(records), PAGE):
            parts = await gather([self._passages_of(record, query) for record in records[start : start + PAGE]])
            passages += [passage for part in parts for passage in part]
        return sorted(passages, key=lambda passage: passage.at, reverse=True)[: query.limit]

    async def _passages_of(self, record: ThreadRecord, query: TextSearch) -> list[Passage]:
        keys = self._keys.thread(record.address)
        try:
            turns: list[bytes] = await self._link.look_up(
                "passages", keys.partition, "LRANGE", keys["history"], -TURNS_SEARCHED, -1
            )
            with quarantining():
                entries = [entry for turn in turns for entry in read_turn(turn)]
        except ThreadQuarantined:
            return []
        passages = [passage_in(record.address, entry, query.text) for entry in entries]
        return [passage for passage in passages if passage is not None]

    async def stats(self, *, tenant: str | None = None, queue: str | None = None) -> Stats:
        now = await self.now()
        active, total, turns, messages, storage = [], Usage(), 0, 0, 0
        async for record in self.scan(tenant=tenant, queue=queue):
            active.append(record.active_at)
            total += record.usage
            turns, messages, storage = turns + record.turns, messages + record.messages, storage + record.bytes
        return Stats(
            threads=len(active),
            messages=messages,
            turns=turns,
            ages=ages(active, now),
            oldest=min(active, default=None),
            newest=max(active, default=None),
            storage=storage,
            usage=total,
        )

    async def expire(self, *, limit: int = 100) -> int:
        deletions = 0
        for partition in self._keys.partitions:
            deletions += await self._expire_in(partition, limit - deletions)
            await self._run_on_partition("tidy", partition, self._now())
            await self._repair.audit(partition)
        return deletions

    async def _expire_in(self, partition: PartitionKeys, limit: int) -> int:
        """Look at the threads whose time it is, page by page; how many were deleted."""
        now, deletions = exact(await self.now()), 0
        # Bounded: other callers of this process wait for the loop, and the next sweep goes on.
        for _ in range(PAGES):
            entries = await self._on_index(partition, "aging", "ZRANGEBYSCORE", first=b"-inf", last=now)
            for start in range(0, len(entries), AT_ONCE):
                some = entries[start : start + AT_ONCE]
                may_delete = max(0, limit - deletions)
                deletions += sum(
                    await gather([self._age(partition, entry, place < may_delete) for place, entry in enumerate(some)])
                )
            if len(entries) < PAGE or deletions >= limit:
                break
        return deletions

    async def _age(self, partition: PartitionKeys, entry: bytes, may_delete: bool) -> int:
        if entry.count(b"\0") < 2:  # no thread has such a name
            await self._link.look_up("aging", partition, "ZREM", partition.names["aging"], entry)
            return 0
        owner, name, channel = entry.split(b"\0", 2)
        keys = self._keys.thread(address_of(owner + b"\0" + name, channel))
        policy = self._policy(keys.address.queue)
        try:
            deletions: int = await self._run(
                "age", keys, self._now(), policy, keys.space, keys.channel, flag(may_delete)
            )
        except ThreadQuarantined:
            return 0
        return deletions

    async def _on_index(
        self, partition: PartitionKeys, name: str, command: str, *, first: bytes, last: bytes
    ) -> list[bytes]:
        """One page of an index of a partition."""
        key = partition.names[name]
        entries: list[bytes] = await self._link.look_up(name, partition, command, key, first, last, "LIMIT", 0, PAGE)
        return entries
