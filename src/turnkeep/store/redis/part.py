"""What every part of the Redis engine uses: running a script on the thread of an address."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from turnkeep.clock import Clock, SteadyClock, SystemClock
from turnkeep.errors import InboxFull, LeaseLost, StoreUnavailable, StoreUnfit, ThreadNotFound, ThreadQuarantined
from turnkeep.messages import Address
from turnkeep.store.ids import Ids, new_epoch, new_thread_id
from turnkeep.store.operations import operation_id
from turnkeep.store.record_cache import RevisionCount
from turnkeep.store.redis.client.link import Link
from turnkeep.store.redis.client.pipe import Argument, Reply
from turnkeep.store.redis.client.subscriptions import Subscriptions
from turnkeep.store.redis.codec import exact, policy_argument
from turnkeep.store.redis.durability import DurabilityWait, WriteObserver
from turnkeep.store.redis.key_names import KeyNames, PartitionKeys, ThreadKeys, to_bytes, to_text
from turnkeep.store.redis.repair import PartitionRepair
from turnkeep.store.redis.timekeeping import LOOK_AT_CLOCK_EVERY, StoreTime
from turnkeep.store.values import Claim, Policies
from turnkeep.telemetry import get_log

log = get_log(__name__)

T = TypeVar("T")

REMEMBERED_KINDS = ("assistant", "default")
"""Kinds of records that runs remember for a moment."""

KNOWN_NAMES = 4_096
"""Thread ids whose channels are remembered."""


class RedisPart(RevisionCount):
    """Connections, names and time of one engine."""

    def __init__(self, policies: Policies, keys: KeyNames, ids: Ids, clock: Clock | None) -> None:
        self._policies = policies
        self._policy_arguments = {queue: policy_argument(policy) for queue, policy in policies.queues.items()}
        self._default_policy = policy_argument(policies.default)
        self._keys = keys
        self._ids = ids
        self._has_own_clock = clock is not None
        # Waiting here goes by seconds that pass: somebody may set the clock of the machine.
        self._clock = SteadyClock(clock or SystemClock())
        self._time: StoreTime | None = None
        self._channels: dict[Address, str] = {}
        self._connections: tuple[Link, Subscriptions] | None = None
        self._assurance: DurabilityWait | None = None
        self._repair = PartitionRepair(self)
        self._is_closed = False

    @property
    def _link(self) -> Link:
        if self._is_closed or self._connections is None:
            raise StoreUnavailable("the store is closed")
        return self._connections[0]

    @property
    def _subscriptions(self) -> Subscriptions:
        if self._is_closed or self._connections is None:
            raise StoreUnavailable("the store is closed")
        return self._connections[1]

    def _require_open(self) -> None:
        """Raises `StoreUnavailable` once the store is closed."""
        if self._is_closed:
            raise StoreUnavailable("the store is closed")

    def _now(self) -> bytes:
        """What scripts are told of the time; asked with every token. Raises as `_require_same_store`."""
        if self._time is None:
            return exact(self._clock.now())
        now = self._time.now(self._connections[0] if self._connections is not None else None)
        self._require_same_store()
        return repr(now).encode()

    def _require_same_store(self) -> None:
        """Raises `StoreUnfit` where it has another layout by now than this program went by at its start."""
        if self._time is not None and self._time.obstacle is not None:
            raise StoreUnfit(self._time.obstacle, retry_after=LOOK_AT_CLOCK_EVERY)

    def _of_day(self, moment: float) -> float:
        """A moment that somebody named by the time of day, as the store counts."""
        return self._clock.of_day(moment) if self._time is None else self._time.of_day(moment)

    async def now(self) -> float:
        link = self._link
        return self._clock.now() if self._time is None else await self._time.look(link)

    def _policy(self, queue: str) -> bytes:
        return self._policy_arguments.get(queue, self._default_policy)

    def _operation(self, once: str | None, name: str, *arguments: Any) -> bytes:
        """The id under which the server keeps what this call does: of the caller's name for it,
        else one of our own, because a call whose reply is lost is repeated by `Link`.
        """
        # The first letter is how long the server keeps the reply (`lib/once.lua`): minutes for
        # repeats of our own, a day for those of a caller, who may come back after a restart.
        if once is None:
            return b"m" + secrets.token_bytes(12)
        return b"k" + operation_id(once, name, *arguments).encode()

    async def _run(self, name: str, keys: ThreadKeys, *arguments: Argument) -> Reply:
        """Run a script on one thread; a damaged one is kept away from claims and reported once."""
        link = self._link
        try:
            return await link.run(name, keys.partition, keys.of(link.scripts[name]), *arguments)
        # Only what a thread owns leads here: `Link` has mended the shared keys by
        # now, and tried again.
        except ThreadQuarantined as damage:
            await self._quarantine(keys, damage)
            raise

    def _shelf(self, partition: PartitionKeys) -> int:
        """What one script may touch together: all partitions, or in a cluster each by itself."""
        return partition.index if self._link.topology.kind == "cluster" else 0

    async def _run_grouped(
        self, name: str, threads: Sequence[ThreadKeys], arguments: Sequence[Argument], *, now: bytes | None = None
    ) -> list[Any]:
        """Run a script that acts on several threads; of one that is alone the damage is reported.

        `now` is its moment where the arguments tell it too.
        """
        link = self._link
        script = link.scripts[name]
        partitions: dict[PartitionKeys, int] = {}
        places = bytearray()
        keys: list[bytes] = []
        for thread in threads:
            keys += thread.group_keys(script)
            places.append(partitions.setdefault(thread.partition, len(partitions) + 1))
        for partition in partitions:
            keys += partition.shared_keys(script)
        link.greet(partitions)
        head = (bytes(places), now or self._now())
        try:
            reply: list[Any] = await link.run(name, threads[0].partition, keys, *head, *arguments)
        except ThreadQuarantined as damage:
            if len(threads) == 1:
                await self._quarantine(threads[0], damage)
            raise
        return reply

    async def _run_on_partition(self, name: str, partition: PartitionKeys, *arguments: Argument) -> Reply:
        """Run a script that touches no thread."""
        link = self._link
        return await link.run(name, partition, partition.of(link.scripts[name]), *arguments)

    @asynccontextmanager
    async def _durable_writes(self, address: Address) -> AsyncIterator[None]:
        """What is written in here for this address is as safe as was demanded when this is left."""
        observer = await self._observe_writes(self._keys.partition(address).tag)
        yield
        await self._wait_until_safe(observer)

    async def _observe_writes(self, tag: bytes) -> WriteObserver | None:
        """Who can vouch from here on for what was written; None where nothing of it has to be waited for."""
        if self._assurance is None or not self._assurance.is_strict:
            return None
        return await self._assurance.before("thread", tag)

    async def _wait_until_safe(self, observer: WriteObserver | None) -> None:
        """Return when all that was written until now is as safe as was demanded; raises `OutcomeUnknown`."""
        if self._assurance is not None and observer is not None:
            await self._assurance.after(observer)

    @asynccontextmanager
    async def _reading(self, keys: ThreadKeys) -> AsyncIterator[None]:
        """What is read of a thread here may turn out to be damaged."""
        try:
            with quarantining():
                yield
        except ThreadQuarantined as damage:
            await self._quarantine(keys, damage)
            raise

    async def _quarantine(self, keys: ThreadKeys, damage: ThreadQuarantined) -> None:
        reason = to_bytes(str(damage)[:500])
        operation = self._operation(None, "quarantine")
        is_new = await self._run_despite_damage(
            "quarantine", keys, self._now(), operation, keys.space, keys.channel, reason
        )
        # Many meet the same damage at once; an operator needs to read it once.
        if is_new:
            where = keys.address
            log.error(
                "thread_quarantined",
                tenant=where.tenant,
                queue=where.queue,
                key=to_text(keys["thread"]),
                reason=str(damage),
            )

    async def _run_despite_damage(self, name: str, keys: ThreadKeys, *arguments: Argument) -> Reply:
        """Run a script that goes by the keys alone on a thread whose record may be damaged."""
        link = self._link
        return await link.run(name, keys.partition, keys.of(link.scripts[name]), *arguments)

    async def _resolve(self, address: Address) -> ThreadKeys:
        """The keys of the thread of an address: its own, or that of the channel it names by id."""
        if not address.names_thread:
            return self._keys.thread(address)
        channel = self._channels.get(address)
        if channel is None:
            channel = await self._channel_of(address)
        return self._keys.thread(Address(address.tenant, address.queue, channel))

    async def _channel_of(self, address: Address) -> str:
        keys = self._keys.thread(address)
        name = keys.space + b"\0" + keys.channel
        channel_name: bytes | None = None
        for partition in self._keys.partitions_of_id(address):
            aliases = partition.names["aliases"]
            channel_name = await self._link.look_up("channel_of", partition, "HGET", aliases, name)
            if channel_name is not None:
                break
        # Not remembered: a thread of that id may be made at any moment.
        if channel_name is None or channel_name == keys.channel:
            return address.channel
        # Emptied instead of evicted one by one: it costs one question for each, now and then, and
        # no order has to be kept on the hot path.
        if len(self._channels) >= KNOWN_NAMES:
            self._channels.clear()
        channel = self._channels[address] = to_text(channel_name)
        return channel

    async def _find(self, name: str, address: Address, *arguments: Argument) -> tuple[ThreadKeys, Reply]:
        """Run a script on a thread that may be there."""
        return await self._meet(name, address, lambda keys, want: (want, *arguments))

    async def _make(self, name: str, address: Address, *arguments: Argument) -> tuple[ThreadKeys, Reply]:
        """Run a script that creates the thread if need be."""

        def fresh(keys: ThreadKeys, want: bytes) -> tuple[Argument, ...]:
            thread_id, epoch = self._new_thread_id(address), new_epoch(self._ids)
            return (keys.space, keys.channel, want, to_bytes(thread_id), epoch.encode(), *arguments)

        return await self._meet(name, address, fresh)

    async def _meet(self, name: str, address: Address, rest: Any) -> tuple[ThreadKeys, Reply]:
        keys = await self._resolve(address)
        policy = self._policy(address.queue)
        want = b"" if keys.address == address else to_bytes(address.channel)
        reply = await self._run(name, keys, self._now(), policy, *rest(keys, want))
        # The id meant another thread than the remembered channel (it was forgotten and made again):
        # the script says so before it touches anything.
        if isinstance(reply, list) and reply[0] == b"gone":
            self._channels.pop(address, None)
            keys = self._keys.thread(address)
            reply = await self._run(name, keys, self._now(), policy, *rest(keys, b""))
        return keys, reply

    async def _run_as_owner(self, name: str, claim: Claim, *arguments: Argument) -> Reply:
        """Run a script that a claim pays for with its token."""
        keys = self._keys.thread(claim.address)
        policy = self._policy(claim.address.queue)
        owner = (to_bytes(claim.thread_id), claim.token.encode())
        return await self._run(name, keys, self._now(), policy, *owner, *arguments)

    def _new_thread_id(self, address: Address) -> str:
        return new_thread_id(self._ids, address, len(self._keys.partitions))

    def _announce(self, kind: str | None = None) -> None:
        """Say that a record has changed that runs remember; a hint, not waited for."""
        self.revise()
        if kind is None or kind in REMEMBERED_KINDS:
            channel = self._keys.registry("revisions")
            self._link.tell("announce", channel, (channel,))

    def _incarnation(self, partition: int) -> int:
        return self._link.incarnations.get(partition, 0)


@contextmanager
def quarantining() -> Iterator[None]:
    """What is read from Redis and makes no sense is damaged."""
    try:
        yield
    except (ValueError, KeyError, TypeError, IndexError) as wrong:
        raise ThreadQuarantined(f"what Redis keeps of this thread is damaged: {type(wrong).__name__}") from wrong


async def gather(works: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Do all at once, in one write for each server; all end before the first error is raised."""
    if len(works) == 1:
        return [await works[0]]
    async with asyncio.TaskGroup() as group:
        # A TaskGroup alone cancels the neighbours of a failure: an operation cancelled in flight is
        # one whose outcome nobody knows.
        tasks = [group.create_task(outcome(work)) for work in works]
    return [unwrap(task.result()) for task in tasks]


async def outcome(work: Coroutine[Any, Any, T]) -> tuple[T] | Exception:
    """How a piece of work ended, so that its neighbours in a group go on."""
    try:
        return (await work,)
    except Exception as error:
        return error


def unwrap(end: tuple[T] | Exception) -> T:
    if isinstance(end, Exception):
        raise end
    return end[0]


def not_found(address: Address) -> ThreadNotFound:
    return ThreadNotFound(f"there is no thread on channel {address.channel!r}")


def full(waiting: int) -> InboxFull:
    return InboxFull(f"{waiting} messages wait on this channel already, wait for an answer")


def status_word(reply: Sequence[Any]) -> str:
    """The first word of an answer: what kind it is."""
    first: bytes = reply[0]
    return first.decode()


def unless_lost(claim: Claim, reply: Any) -> Any:
    if status_word(reply) == "lost":
        raise LeaseLost(f"attempt {claim.attempt} of run {claim.run_id} does not own its thread any more")
    return reply
