"""Leases of the Redis engine: how they are prolonged, and given back where nobody knows them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar

from turnkeep.errors import OutcomeUnknown, StoreUnavailable, ThreadQuarantined
from turnkeep.store.redis.codec import exact, words
from turnkeep.store.redis.key_names import PartitionKeys, ThreadKeys, address_of, to_bytes
from turnkeep.store.redis.part import RedisPart, outcome, unwrap
from turnkeep.store.redis.repair import PartitionUnderRepair
from turnkeep.store.values import Claim, Directive

SOME = 16
"""Partitions that a renewal asks beside those where its owner has claimed."""
MOST_OWNERS = 64
"""Owners of which one process knows where they have claimed; mostly one."""

PASSING = (StoreUnavailable, OutcomeUnknown, ThreadQuarantined)
"""What one partition may raise without stopping the others."""

T = TypeVar("T")


class RedisRenewals(RedisPart):
    """Keeping leases, and giving them back."""

    _claim_places: dict[str, set[int]]
    """Partitions in which each owner may have leases."""
    _renewing: list[str]
    """Owners of the renewals that are under way."""
    _renewals = 0

    async def renew(
        self, owner: str, claims: Sequence[Claim], *, lease: float, once: str | None = None
    ) -> dict[str, Directive]:
        operation = self._operation(once, "renew", owner, [claim.token for claim in claims], lease)
        about = (self._now(), operation, to_bytes(owner), exact(lease))
        by_partition: dict[int, list[Claim]] = {}
        for claim in claims:
            by_partition.setdefault(self._keys.partition(claim.address).index, []).append(claim)
        # Partitions without claims of ours too: there may be leases that carry our name and that we do
        # not know, from a claim whose reply was lost. Those in which we have claimed, and of the others
        # some each time, so that a renewal costs the same however many there are.
        others = self._groups_of([place for place in self._places_to_renew(owner) if place not in by_partition])
        self._renewing.append(owner)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(outcome(self._renew_in(self._keys.partitions[index], own_claims, about)))
                    for index, own_claims in by_partition.items()
                ]
                tasks += [group.create_task(outcome(self._give_back_unknown(owner, some))) for some in others]
        finally:
            self._renewing.remove(owner)
        replies = successes([task.result() for task in tasks])
        return {token: directive for directives in replies for token, directive in directives.items()}

    def _places_to_renew(self, owner: str) -> set[int]:
        count = len(self._keys.partitions)
        self._renewals += 1
        some = {(self._renewals * SOME + place) % count for place in range(min(SOME, count))}
        return some | self._claim_places.setdefault(owner, set())

    def _note_claim(self, owner: str, place: int) -> None:
        """Leases of this owner may be in this partition from now on."""
        if owner not in self._claim_places and len(self._claim_places) >= MOST_OWNERS:
            # Not of those who are being renewed: a claim that they ask for meanwhile would be given back.
            self._claim_places = {one: self._claim_places[one] for one in self._renewing if one in self._claim_places}
        self._claim_places.setdefault(owner, set()).add(place)

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

    def _groups_of(self, places: Sequence[int]) -> list[list[PartitionKeys]]:
        """Partitions that one script may look at together."""
        shelves: dict[int, list[PartitionKeys]] = {}
        for place in places:
            partition = self._keys.partitions[place]
            shelves.setdefault(self._shelf(partition), []).append(partition)
        return [shelf[start : start + SOME] for shelf in shelves.values() for start in range(0, len(shelf), SOME)]

    async def _give_back_unknown(self, owner: str, partitions: Sequence[PartitionKeys]) -> dict[str, Directive]:
        """Give back what carries the name of this owner where he renews nothing; no directives."""
        # Not `renew`, sixteen times: for a worker that waits they were most of what Redis was asked.
        script = self._link.scripts["leases"]
        keys = [key for partition in partitions for key in partition.group_keys(script)]
        looked_at = {partition.index for partition in partitions}
        claim_places = self._claim_places.setdefault(owner, set())
        claim_places -= looked_at
        try:
            replies = await self._link.run("leases", partitions[0], keys, to_bytes(owner))
            for partition, entries in zip(partitions, replies, strict=True):
                # Where a claim was asked for meanwhile, its lease may be among them: the next renewal tells.
                for entry in entries if partition.index not in claim_places else ():
                    await self._orphan(entry)
        except (ThreadQuarantined, PartitionUnderRepair):
            claim_places |= looked_at
            if len(partitions) == 1:
                raise
            # One of them is damaged: each by itself.
            successes([await outcome(self._give_back_unknown(owner, [partition])) for partition in partitions])
        except BaseException:
            claim_places |= looked_at
            raise
        return {}

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


def successes(ends: Sequence[tuple[T] | Exception]) -> list[T]:
    """The answers of the partitions that gave one: one that is away does not stop the others."""
    answers = [end[0] for end in ends if not isinstance(end, Exception)]
    # A node that is away is everyday in a cluster; what is no passing trouble is not to be hidden
    # behind the answers.
    is_serious = any(isinstance(end, Exception) and not isinstance(end, PASSING) for end in ends)
    return [unwrap(end) for end in ends] if is_serious or not answers else answers


def _directive(answer: Sequence[Any]) -> Directive:
    if answer[0] != 1:
        return Directive(held=False)
    _, until, stop, steer = answer
    return Directive(True, float(until), words(stop) or None, bool(steer))  # type: ignore[arg-type]  # one of its words
