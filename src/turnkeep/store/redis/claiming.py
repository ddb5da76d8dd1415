"""Claims of the Redis engine: which threads are taken, how leases live, what wakes workers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from turnkeep.errors import OutcomeUnknown, StoreUnavailable, ThreadQuarantined
from turnkeep.messages import Address
from turnkeep.store.fair_share import charge, next_tenant
from turnkeep.store.ids import new_run_id, new_token
from turnkeep.store.redis.client.link import PATIENCE
from turnkeep.store.redis.codec import exact, number, read_claim, words
from turnkeep.store.redis.hints import Hints
from turnkeep.store.redis.key_names import PartitionKeys, ThreadKeys, address_of, plain, to_bytes, to_text
from turnkeep.store.redis.part import RedisPart, gather, outcome, quarantining, unwrap
from turnkeep.store.redis.repair import PartitionUnderRepair
from turnkeep.store.values import Claim, Directive

ROUNDS = 8
"""How often one claim looks again when others took what it saw."""
IMPATIENCE = 0.25
"""Seconds to wait for one node of a cluster that cannot say what is ready; the others can."""
SHARE = 4
"""Threads of each tenant and queue that a partition is asked for, beyond twice its even share."""

_NEVER = float("inf")
_PASSING = (StoreUnavailable, OutcomeUnknown, ThreadQuarantined)
"""What one partition may raise without stopping the others."""

T = TypeVar("T")


class _Ready(NamedTuple):
    """A thread that an index says is due; sorted as claims take it."""

    at: float
    address: Address
    kind: bytes
    entry: bytes


class RedisClaims(RedisPart):
    """Claiming, renewing, and the hints for workers."""

    _hints: Hints | None = None
    _turn = secrets.randbelow(1000)
    """Rises with each look: processes that look at the same time begin at other places."""

    async def claim(self, *, owner: str, limit: int, lease: float, queues: Sequence[str] | None = None) -> list[Claim]:
        # Before looking: what becomes due between the look and the wait is heard.
        await self._hear_hints()
        claims: list[Claim] = []
        was_beaten = False
        for _ in range(ROUNDS):
            count = limit - len(claims)
            candidates, is_all = await self._choose(count, queues, spread=was_beaten) if count > 0 else ([], True)
            results = await gather([self._take(ready, owner, lease) for ready in candidates]) if candidates else []
            new_claims = [claim for claim in results if claim is not None]
            self._charge(new_claims)
            claims += new_claims
            # Workers that look at the same time see the same threads due longest, and take them
            # from each other: half of a choice lost says so.
            was_beaten = 2 * len(new_claims) < len(candidates)
            # Told all there is, or nothing could be had: a further look would only cost.
            if is_all or not candidates or (not new_claims and len(candidates) < count):
                break
        return claims

    async def _choose(self, count: int, queues: Sequence[str] | None, *, spread: bool) -> tuple[list[_Ready], bool]:
        """The threads to take next: of the tenant served least first, then those due longest;
        whether that is all.

        With `spread` the choice begins anywhere: others are taking the same ones.
        """
        quota = min(count, SHARE + 2 * count // len(self._keys.partitions))
        # One tick, one write: what is ready and who was served cost one round trip.
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(outcome(self._look(quota, queues)))
            asking = group.create_task(outcome(self._shares()))
        _, answers = unwrap(looking.result())
        shares, floor = unwrap(asking.result())
        by_tenant: dict[str, list[_Ready]] = {}
        for ready in sorted(_read_ready(answers)):
            by_tenant.setdefault(ready.address.tenant, []).append(ready)
        if spread:
            by_tenant = {tenant: _from_anywhere(all_of) for tenant, all_of in by_tenant.items()}
        candidates: list[_Ready] = []
        while by_tenant and len(candidates) < count:
            tenant = next_tenant({t: waiting[0].at for t, waiting in by_tenant.items()}, shares, floor)
            shares[tenant], floor = charge(tenant, self._policies.weight(tenant), shares, floor)
            # One at a time, charged at once: the same rule as in the other engines (`fair_share`),
            # so that no tenant with a thousand threads is ahead of one with a single one.
            candidates.append(by_tenant[tenant].pop(0))
            if not by_tenant[tenant]:
                del by_tenant[tenant]
        is_all = not by_tenant and all(len(answer) // 2 < quota for answer in answers)
        return candidates, is_all

    async def _look(self, limit: int, queues: Sequence[str] | None) -> tuple[float, list[list[bytes]]]:
        """The time, and for each partition when to look again and what is ready."""
        self._turn = (self._turn + 1) % 1_000_000
        arguments = (
            self._now(), b"%d" % limit, b"*" if queues is None else b"\0".join(map(plain, queues)), b"%d" % self._turn,
        )  # fmt: skip
        partitions = self._keys.partitions
        # One script over all partitions where they are on one server; in a cluster each is
        # elsewhere.
        if self._link.topology.kind != "cluster":
            with suppress(ThreadQuarantined, PartitionUnderRepair):  # one of them is damaged: each by itself
                now, *rows = await self._ask_indexes(partitions, arguments)
                return float(now), rows
        async with asyncio.TaskGroup() as group:
            looks = [
                group.create_task(outcome(self._ask_indexes([partition], arguments, patience=IMPATIENCE)))
                for partition in partitions
            ]
        answers = _successes([look.result() for look in looks])
        return float(answers[0][0]), [answer[1] for answer in answers]

    async def _ask_indexes(
        self, partitions: Sequence[PartitionKeys], arguments: tuple[bytes, ...], *, patience: float = PATIENCE
    ) -> list[Any]:
        link = self._link
        script = link.scripts["ready"]
        keys = [key for partition in partitions for key in partition.group_keys(script)]
        reply: list[Any] = await link.run("ready", partitions[0], keys, *arguments, patience=patience)
        return reply

    async def _shares(self) -> tuple[dict[str, float], float]:
        """How much each tenant was served, and where one starts that comes back after a silence.

        Damaged, all start anew: shares are a little off then, but nobody waits.
        """
        key = self._keys.registry("served")
        try:
            fields = await self._link.call("served", key, None, "HGETALL", key)
            shares = {to_text(fields[i]): float(fields[i + 1]) for i in range(0, len(fields), 2)}
        except (ThreadQuarantined, ValueError):
            await self._link.call("served", key, None, "DEL", key)
            return {}, 0.0
        return shares, shares.pop("", 0.0)

    def _charge(self, claims: Sequence[Claim]) -> None:
        """Write down who was served, behind the claims; lost, a share is a little off."""
        key = self._keys.registry("served")
        weight = self._policies.weight
        rows = [value for c in claims for value in (to_bytes(c.address.tenant), exact(weight(c.address.tenant)))]
        # Not awaited: fairness is an estimate, and a claim is on the way of every message.
        if rows:
            self._link.tell("charge", key, (key,), *rows)

    async def _take(self, ready: _Ready, owner: str, lease: float) -> Claim | None:
        keys = self._keys.thread(ready.address)
        token, run_id = new_token(self._ids).encode(), new_run_id(self._ids).encode()
        policy = self._policy(ready.address.queue)
        about = (self._now(), policy, ready.kind, ready.entry, to_bytes(owner), exact(lease), token, run_id)
        try:
            reply = await self._run("claim", keys, *about)
        except (ThreadQuarantined, PartitionUnderRepair):
            return None
        return None if reply is None else await self._read_claim(keys, reply)

    async def _read_claim(self, keys: ThreadKeys, reply: Sequence[Any]) -> Claim | None:
        """A claim whose contents cannot be read is given back and kept away from everybody."""
        try:
            with quarantining():
                return read_claim(keys, reply)
        except ThreadQuarantined as damage:
            await self._give_back(keys, reply[3])
            await self._quarantine(keys, damage)
            return None

    async def renew(
        self, owner: str, claims: Sequence[Claim], *, lease: float, once: str | None = None
    ) -> dict[str, Directive]:
        operation = self._operation(once, "renew", owner, [claim.token for claim in claims], lease)
        about = (self._now(), operation, to_bytes(owner), exact(lease))
        # Partitions without claims of ours too: the script names leases there that carry our name
        # and that we do not know, from a claim whose reply was lost.
        by_partition: dict[int, list[Claim]] = {partition.index: [] for partition in self._keys.partitions}
        for claim in claims:
            by_partition[self._keys.partition(claim.address).index].append(claim)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(outcome(self._renew_in(self._keys.partitions[index], own_claims, about)))
                for index, own_claims in by_partition.items()
            ]
        replies = _successes([task.result() for task in tasks])
        return {token: directive for directives in replies for token, directive in directives.items()}

    async def _renew_in(
        self, partition: PartitionKeys, claims: Sequence[Claim], about: tuple[bytes, ...]
    ) -> dict[str, Directive]:
        link = self._link
        script = link.scripts["renew"]
        threads = [self._keys.thread(claim.address) for claim in claims]
        keys = [*partition.of(script), *(key for thread in threads for key in thread.group_keys(script))]
        rows = [
            value
            for claim in claims
            for value in (claim.token, to_bytes(claim.thread_id), self._policy(claim.address.queue))
        ]
        reply = await link.run("renew", partition, keys, *about, *rows)
        *answers, orphans = reply
        for entry in orphans:
            await self._orphan(entry)
        return {claim.token: _directive(answer) for claim, answer in zip(claims, answers, strict=True)}

    async def _orphan(self, entry: bytes) -> None:
        """Give back a lease that the owner does not know."""
        _, token, tenant, queue, channel = entry.split(b"\0", 4)
        keys = self._keys.thread(address_of(tenant + b"\0" + queue, channel))
        try:
            await self._give_back(keys, token)
        except ThreadQuarantined:
            return  # told of already; nobody claims it any more

    async def _give_back(self, keys: ThreadKeys, token: bytes) -> None:
        await self._run("orphan", keys, self._now(), self._policy(keys.address.queue), token)

    async def ready(self, *, queues: Sequence[str] | None, timeout: float) -> None:
        until = self._clock.now() + timeout
        hints = await self._hear_hints()
        with hints.watch(queues) as watch:
            asked_at = self._clock.now()
            now, wake = await self._next_moment(queues)
            while True:
                local = self._clock.now()
                due_in = min(wake, watch.earliest) - now - (local - asked_at)
                # A clock that runs backwards ends the wait as well.
                if due_in <= 0 or not asked_at <= local < until:
                    return
                await watch.wait(min(due_in, until - local))
                self._require_open()

    async def _next_moment(self, queues: Sequence[str] | None) -> tuple[float, float]:
        """The time, and when something is due; far away for nothing, or when Redis cannot say."""
        try:
            now, answers = await self._look(0, queues)
        except _PASSING:
            self._require_open()
            return 0.0, _NEVER
        return now, min((number(moment) or 0.0 for moment, *_ in answers if moment), default=_NEVER)

    async def wait_nudge(self, owner: str, *, timeout: float) -> set[Address]:
        start = self._clock.now()
        hints = await self._hear_hints()
        while (nudges := hints.take_nudges(owner)) is None:
            seconds = self._clock.now() - start
            self._require_open()
            if not 0 <= seconds < timeout:
                return set()
            await hints.wait(timeout - seconds)
        return nudges

    async def _hear_hints(self) -> Hints:
        if self._hints is None:
            self._hints = Hints(self._subscriptions, self._keys.partitions, self._clock)
        await self._hints.listen()
        return self._hints


def _successes(ends: Sequence[tuple[T] | Exception]) -> list[T]:
    """The answers of the partitions that gave one: one that is away does not stop the others."""
    answers = [end[0] for end in ends if not isinstance(end, Exception)]
    # A node that is away is everyday in a cluster; what is no passing trouble is not to be hidden
    # behind the answers.
    is_serious = any(isinstance(end, Exception) and not isinstance(end, _PASSING) for end in ends)
    return [unwrap(end) for end in ends] if is_serious or not answers else answers


def _directive(answer: Sequence[Any]) -> Directive:
    if answer[0] != 1:
        return Directive(held=False)
    _, until, stop, steer = answer
    return Directive(True, float(until), words(stop) or None, bool(steer))  # type: ignore[arg-type]  # one of its words


def _read_ready(answers: Sequence[Sequence[bytes]]) -> list[_Ready]:
    """Index entries: tenant, queue, moment, channel."""
    entries = []
    for _, *pairs in answers:
        for place in range(0, len(pairs), 2):
            tenant, queue, at, channel = pairs[place + 1].split(b"\0", 3)
            address = address_of(tenant + b"\0" + queue, channel)
            entries.append(_Ready(float(at), address, pairs[place], pairs[place + 1]))
    return entries


def _from_anywhere(ready: list[_Ready]) -> list[_Ready]:
    # Turned and not shuffled: those due longest stay together.
    start = secrets.randbelow(len(ready))
    return ready[start:] + ready[:start]
