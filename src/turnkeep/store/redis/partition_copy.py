"""A store cut into another number of partitions, by a copy.

The copy stands beside what it is made of, under names of its own (`key_names`), until all of it is
there and counted; one field of the layout then says which of the two counts, and the old one is
deleted. Whatever ends the copy before, nothing was changed, and the same again goes on: each step
writes what it wrote before. Nobody else may use the store meanwhile: no program begins on it
(`CHANGING`), and those that are connected are refused.

What many partitions become is told by their family: those that are one among 16. Keys of threads
are taken as they are; what the threads of a partition share is made again from them, as after
damage (`repair`), and what only it holds (dead letters, outboxes, totals, named operations) goes
where its thread goes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from turnkeep.errors import Conflict, StoreError
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address
from turnkeep.store.ids import PARTITIONS
from turnkeep.store.redis.key_names import KeyNames, PartitionKeys, ThreadKeys, address_of
from turnkeep.store.redis.part import gather
from turnkeep.store.redis.server_fitness import CHANGING
from turnkeep.store.values import LAYOUT

if TYPE_CHECKING:
    from turnkeep.store.redis import RedisStore

AT_ONCE = 64
PAGE = 1_000

_KEYS_OF_THREAD = ("thread", "inbox", "delayed", "log", "finals", "known", "history", "snapshot")
_ENDS_OF_THREAD = frozenset(b"tqdlfkhs")
"""How the names of these keys go on behind that of their partition, before a colon."""

Progress = Callable[[int, int], None]
"""Told how many families of how many are copied."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What is counted on both sides before the copy counts."""

    threads: int = 0
    keys: int = 0
    """Of all threads, those that were forgotten too: ids of their messages are remembered."""
    dead_letters: int = 0


@dataclass(frozen=True, slots=True)
class CopyOutcome:
    """What a store was and is cut into, and what was copied."""

    before: int
    partitions: int
    holdings: Holdings


class PartitionCopy:
    """One store, as it is and as it will be."""

    def __init__(self, store: RedisStore, partitions: int) -> None:
        self._store = store
        self._old = store._keys
        self._new = KeyNames(self._old.prefix, partitions)
        self._layout = self._old.registry("layout")

    async def run(self, *, is_alone: bool = False, progress: Progress = lambda count, total: None) -> CopyOutcome:
        """Copy, count, and let the copy count. Raises `Conflict` while somebody else is connected,
        unless the caller knows that he `is_alone`.
        """
        before, partitions = len(self._old.partitions), len(self._new.partitions)
        target_of_before = await self._field("changing")
        if target_of_before is not None and target_of_before not in (before, partitions):
            await self._delete(target_of_before)
        if before == partitions:
            # Undone, or ended behind the switch: then the old ones may be left.
            origin = await self._field("origin")
            await self._finish(before if origin is None else origin)
            return CopyOutcome(before, partitions, await self._count(self._old))
        await self._begin(is_alone, has_begun=target_of_before is not None)
        families = min(PARTITIONS, before, partitions)
        for family in range(families):
            await _Family(self, family, families).copy()
            progress(family + 1, families)
        for partition in self._new.partitions:
            await self._index(partition)
        holdings, copies = await self._count(self._old), await self._count(self._new)
        if holdings != copies:
            raise StoreError(f"the copy holds {copies} and not {holdings}, so it does not count: begin again")
        await self._call("HSET", self._layout, "partitions", partitions)
        await self._finish(before)
        return CopyOutcome(before, partitions, holdings)

    async def _begin(self, is_alone: bool, *, has_begun: bool) -> None:
        """Keep others out. First the mark and then the look: who opens the store in between meets
        one of the two.
        """
        target = len(self._new.partitions)
        origin = len(self._old.partitions)
        await self._call("HSET", self._layout, "changing", target, "origin", origin, "layout", CHANGING)
        others = 0 if is_alone else await self._count_others()
        if others:
            if not has_begun:
                await self._open_again()
            raise Conflict(
                f"{others} connections of other programs of turnkeep are open to this Redis: stop them, or say with"
                " --alone that none of them uses this store"
            )

    async def _finish(self, origin: int) -> None:
        """Delete what the copy was made of, unless that is what counts."""
        if origin != await self._field("partitions"):
            await self._delete(origin)
        await self._open_again()

    async def _open_again(self) -> None:
        await self._call("HSET", self._layout, "layout", LAYOUT)
        await self._call("HDEL", self._layout, "changing", "origin")

    async def _count_others(self) -> int:
        """Connections under our name that are not ours."""
        link = self._store._link
        count = 0
        for endpoint in await self._store._servers(link):
            pipe = await link.pipe_to(endpoint)
            own, clients = await pipe.send("CLIENT", "ID"), await pipe.send("CLIENT", "LIST")
            if isinstance(clients, Exception) or isinstance(own, Exception):
                raise Conflict(
                    "this user of Redis may not see who else is connected (CLIENT LIST): say with --alone that"
                    " nobody is"
                )
            for line in bytes(clients).decode("utf-8", "replace").splitlines():
                fields = dict(part.partition("=")[::2] for part in line.split(" "))
                is_ours = fields.get("name") == link.dialer.client_name
                count += is_ours and fields.get("id") != str(own)
        return count

    async def _field(self, name: str) -> int | None:
        value = await self._call("HGET", self._layout, name)
        return None if value is None else int(value)

    async def _index(self, partition: PartitionKeys) -> None:
        """Make what the threads of a partition share, as after damage."""
        repair = self._store._repair
        await repair.find_threads(partition)
        await repair.run("rebuild", partition, self._store._now(), b"copied")
        await self._call("HDEL", partition.names["meta"], "rebuilt")

    async def _count(self, keys: KeyNames) -> Holdings:
        counts = [await self._count_in(partition) for partition in keys.partitions]
        return Holdings(*map(sum, zip(*counts, strict=True)))

    async def _count_in(self, partition: PartitionKeys) -> tuple[int, int, int]:
        start, threads, keys = len(partition.tag), 0, 0
        async for page in self._scan(partition):
            ends = [key[start] for key in page if key[start + 1 : start + 2] == b":"]
            keys += sum(end in _ENDS_OF_THREAD for end in ends)
            threads += ends.count(ord("t"))
        return threads, keys, await self._call("HLEN", partition.names["dead"])

    async def _delete(self, partitions: int) -> None:
        for partition in KeyNames(self._old.prefix, partitions).partitions:
            async for page in self._scan(partition):
                await gather([self._call("UNLINK", key) for key in page])

    async def _scan(self, partition: PartitionKeys) -> AsyncIterator[list[bytes]]:
        pattern = b"".join(b"\\" + c if c in b"[]*?\\^" else c for c in (bytes([b]) for b in partition.tag)) + b"*"
        cursor = b"0"
        while True:
            cursor, page = await self._store._link.call(
                "scan", partition.tag, None, "SCAN", cursor, "MATCH", pattern, "COUNT", PAGE
            )
            if page:
                yield page
            if cursor == b"0":
                return

    async def _call(self, command: str, key: bytes, *arguments: Any) -> Any:
        return await self._store._link.call("repartition", key, None, command, key, *arguments)

    async def hash(self, key: bytes) -> dict[bytes, bytes]:
        fields = await self._call("HGETALL", key)
        return dict(fields) if isinstance(fields, Mapping) else dict(zip(fields[::2], fields[1::2], strict=True))


class _Family:
    """Partitions that are one among 16, as they are and as they will be."""

    def __init__(self, copy: PartitionCopy, family: int, families: int) -> None:
        self._copy = copy
        self._call = copy._call
        self._sources = copy._old.partitions[family::families]
        self._targets = copy._new.partitions[family::families]
        self._thread_keys: dict[bytes, ThreadKeys] = {}
        """The keys of threads in the copy, by the name of their record now."""

    async def copy(self) -> None:
        await self._begin_targets()
        for source in self._sources:
            await self._copy_threads(source)
            await self._copy_letters(source)
            await self._copy_operations(source)
        await self._count_operations()
        await self._copy_sinks()
        await self._copy_parked()
        await self._copy_totals()

    def _place(self, address: Address) -> PartitionKeys:
        return self._copy._new.partition(address)

    async def _begin_targets(self) -> None:
        """Epochs stay: the copy counts the servers that its partitions were on."""
        metas = [await self._copy.hash(source.names["meta"]) for source in self._sources]
        newest = max(metas, key=lambda meta: int(meta.get(b"incarnation", b"0")))
        for target in self._targets:
            fields = [value for name in (b"server", b"incarnation") if name in newest for value in (name, newest[name])]
            await self._call("HSET", target.names["meta"], *fields, "letters", "all")

    async def _copy_threads(self, source: PartitionKeys) -> None:
        names = source.names
        threads = await self._call("ZRANGE", names["threads"], 0, -1)
        aging = await self._call("ZRANGE", names["aging"], 0, -1, "WITHSCORES")
        scores = dict(_pairs(aging))
        unreadable = await self._copy.hash(names["quarantine"])
        entries = list(dict.fromkeys([*threads, *scores, *unreadable]))
        for start in range(0, len(entries), AT_ONCE):
            await gather([self._copy_thread(entry, scores, unreadable) for entry in entries[start : start + AT_ONCE]])

    async def _copy_thread(
        self, entry: bytes, scores: Mapping[bytes, bytes], unreadable: Mapping[bytes, bytes]
    ) -> None:
        if entry.count(b"\0") < 2:  # no thread has such a name
            return
        address = _address(entry)
        old, new = self._copy._old.thread(address), self._copy._new.thread(address)
        self._thread_keys[old["thread"]] = new
        for name in _KEYS_OF_THREAD:
            payload = await self._call("DUMP", old[name])
            if payload is None:
                await self._call("DEL", new[name])
            else:
                await self._call("RESTORE", new[name], 0, payload, "REPLACE")
        if entry in scores:
            await self._call("ZADD", new["aging"], scores[entry], entry)
        if entry in unreadable:
            await self._call("HSET", new.partition.names["quarantine"], entry, unreadable[entry])

    async def _copy_letters(self, source: PartitionKeys) -> None:
        for dead_id, raw in (await self._copy.hash(source.names["dead"])).items():
            target = self._targets[0]
            try:
                about = orjson.loads(raw[8:].partition(b"\n")[0])
                target = self._place(address_of(about["space"].encode(), about["channel"].encode()))
            except (ValueError, KeyError, AttributeError):
                pass  # damaged, and kept for whoever can read it
            await self._call("HSET", target.names["dead"], dead_id, raw)
        for dead_id, raw in (await self._copy.hash(source.names["redriven"])).items():
            await self._call("HSET", self._targets[0].names["redriven"], dead_id, raw)

    async def _copy_operations(self, source: PartitionKeys) -> None:
        """Those that callers named. The engine's own names die with the process that gave them."""
        for field, raw in (await self._copy.hash(source.names["operations"])).items():
            if not field.startswith(b"k"):
                continue
            start = field.find(source.tag)
            owner = self._thread_keys.get(field[start:]) if start > 0 else None
            if owner is not None:
                await self._call("HSET", owner.partition.names["operations"], field[:start] + owner["thread"], raw)
                continue
            # It names no thread, and its repeat may come to any of these.
            for target in self._targets:
                await self._call("HSET", target.names["operations"], field, raw)

    async def _count_operations(self) -> None:
        """How many bytes they hold stands beside them, under no name."""
        for target in self._targets:
            operations = await self._copy.hash(target.names["operations"])
            if operations:
                size = sum(len(value) for field, value in operations.items() if field)
                await self._call("HSET", target.names["operations"], b"", size)

    async def _copy_sinks(self) -> None:
        """A sink goes on with what it has not delivered yet, each event where its thread is."""
        sinks: dict[bytes, bytes] = {}
        for source in self._sources:
            sinks |= await self._copy.hash(source.names["sinks"])
        for name, raw in sinks.items():
            waiting: list[tuple[tuple[int, int], Sequence[bytes]]] = []
            for source in self._sources:
                entries = await self._call("XRANGE", source.names["outbox"] + b":" + name, "-", "+")
                waiting += [(_stream_id(entry_id), fields) for entry_id, fields in entries]
            await self._fill_outboxes(name, sorted(waiting, key=lambda entry: entry[0]))
            for place, target in enumerate(self._targets):
                # What was lost is told once.
                keys = (target.names["sinks"],)
                run = self._copy._store._link.run_apart
                await run("sink_copy", target.tag, keys, name, raw, b"1" if place == 0 else b"0")

    async def _fill_outboxes(self, name: bytes, waiting: Iterable[tuple[tuple[int, int], Sequence[bytes]]]) -> None:
        last: dict[int, tuple[int, int]] = {}
        for target in self._targets:
            await self._call("DEL", target.names["outbox"] + b":" + name)
        for entry_id, fields in waiting:
            entry = dict(zip(fields[::2], fields[1::2], strict=True))
            target = self._place(_address(entry[b"space"] + b"\0" + entry[b"channel"]))
            # Two partitions may have given the same id.
            before = last.get(target.index, (0, 0))
            time, place = entry_id if entry_id > before else (before[0], before[1] + 1)
            last[target.index] = (time, place)
            await self._call("XADD", target.names["outbox"] + b":" + name, f"{time}-{place}", *fields)

    async def _copy_parked(self) -> None:
        for source in self._sources:
            events = await self._copy.hash(source.names["parked"])
            sinks = await self._copy.hash(source.names["sinks"]) if events else {}
            for name in sinks:
                script = self._copy._store._link.scripts["sink_parked"]
                keys = tuple(source.names[key] for key in script.keys)
                run = self._copy._store._link.run_apart
                _, *entries = await run("sink_parked", source.tag, keys, name, b"", 1_000_000)
                for position, space, channel, *_ in entries:
                    field = name + b"\0" + position
                    target = self._place(_address(space + b"\0" + channel))
                    await self._call("HSET", target.names["parked"], field, events[field])

    async def _copy_totals(self) -> None:
        """What was answered and failed is counted nowhere else."""
        totals: dict[bytes, int] = {}
        for source in self._sources:
            for field, value in (await self._copy.hash(source.names["counters"])).items():
                if field.endswith((b"\0completed", b"\0failed")):
                    totals[field] = totals.get(field, 0) + int(value)
        for field, total in totals.items():
            await self._call("HSET", self._targets[0].names["counters"], field, total)


def _address(entry: bytes) -> Address:
    tenant, queue, channel = entry.split(b"\0", 2)
    return address_of(tenant + b"\0" + queue, channel)


def _pairs(flat: Sequence[Any]) -> Iterable[tuple[bytes, Any]]:
    """Members with scores, as either protocol tells them."""
    if flat and isinstance(flat[0], list):
        return [(member, score) for member, score in flat]
    return zip(flat[::2], flat[1::2], strict=True)


def _stream_id(entry_id: bytes) -> tuple[int, int]:
    time, _, place = entry_id.partition(b"-")
    return int(time), int(place)
