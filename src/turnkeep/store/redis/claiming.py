"""Claims of the Redis engine: which threads are taken, what wakes workers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any, NamedTuple

from turnkeep.errors import StoreError, ThreadQuarantined
from turnkeep.messages import Address
from turnkeep.store.fair_share import Books, charge, next_tenant
from turnkeep.store.ids import new_run_id, new_token
from turnkeep.store.redis.client.link import ANSWER_PATIENCE
from turnkeep.store.redis.codec import exact, read_claim
from turnkeep.store.redis.hints import Hints
from turnkeep.store.redis.key_names import PartitionKeys, ThreadKeys, address_of, plain, to_bytes, to_text
from turnkeep.store.redis.outlook import NEVER, Outlook
from turnkeep.store.redis.part import gather, outcome, quarantining
from turnkeep.store.redis.renewals import PASSING, RedisRenewals, successes
from turnkeep.store.redis.repair import PartitionUnderRepair
from turnkeep.store.values import Claim

ROUNDS = 8
"""How often one claim looks again when others took what it saw."""
IMPATIENCE = 0.25
"""Seconds to wait for one node of a cluster that cannot say what is ready; the others can."""
LEAST_SHARE = 4
"""Threads of each tenant and queue that a partition is asked for, beyond twice its even share."""
AT_ONCE = 16
"""Partitions that one claim looks at, and threads that one script takes: so that neither grows with
what there is, nor holds others up.
"""
MOST_LOOKS = 64
"""Partitions that a claim looks at which no hint led to, and of which nothing is known to be due."""
PAUSE = 1.0
"""Seconds before a partition is asked again that could not say what is due."""

_order = attrgetter("at", "entry")


class _Ready(NamedTuple):
    """A thread that is due, as an index or a hint says; sorted as claims take it."""

    at: float
    address: Address
    kind: bytes = b""
    entry: bytes = b""


class _Look(NamedTuple):
    """What some partitions told: whether it is all there is."""

    ready: list[_Ready]
    is_all: bool


class RedisClaims(RedisRenewals):
    """Claiming, and the hints for workers."""

    _hints: Hints | None = None
    _books: Books
    _turn = secrets.randbelow(1000)
    """Rises with each look: processes that look at the same time begin at other places."""

    async def claim(self, *, owner: str, limit: int, lease: float, queues: Sequence[str] | None = None) -> list[Claim]:
        # Before looking: what becomes due between the look and the wait is heard.
        hints = await self._hear_hints()
        outlook = hints.outlook(queues)
        is_led = outlook.take_trust(self._clock.elapsed())
        claims: list[Claim] = []
        was_beaten = False
        for turn in range(ROUNDS):
            if (count := limit - len(claims)) <= 0:
                break
            # Not led by a hint, it looks where nothing is known of; and on, while there is nothing.
            everywhere = not is_led and not claims and turn * AT_ONCE < min(MOST_LOOKS, len(self._keys.partitions))
            look = await self._look_where_due(outlook, count, queues, everywhere=everywhere)
            candidates, is_all = await self._choose(look, count, spread=was_beaten)
            new_claims = await self._take(candidates, owner, lease, outlook, queues) if candidates else []
            self._books.note(claim.address.tenant for claim in new_claims)
            claims += new_claims
            # Workers that look at the same time see the same threads due longest, and take them
            # from each other: half of a choice lost says so.
            was_beaten = 2 * len(new_claims) < len(candidates)
            # Told all there is, or nothing could be had: a further look would only cost.
            if candidates and is_all and outlook.earliest > self._moment():
                break
            if not candidates:
                if look.is_all and not everywhere:
                    break
                continue
            if not new_claims and len(candidates) < count:
                break
        return claims

    async def _look_where_due(
        self, outlook: Outlook, count: int, queues: Sequence[str] | None, *, everywhere: bool
    ) -> _Look:
        """What is due, as hints named it or as the partitions tell whose moment has come.

        `everywhere`: no hint led here, so some are asked whose moment has not come, in turns.
        """
        now = self._moment()
        hinted_threads: list[_Ready] = []
        hinted_places = set[int]()
        places: list[int] = []
        for place in outlook.due(now):
            # As many as one script looks at, so that this does not grow with the partitions. Of what else
            # is due where a thread was named, the claim of that one tells.
            is_to_ask = everywhere and len(places) < AT_ONCE
            if is_to_ask or (threads := outlook.due_threads(place, now)) is None:
                places.append(place)
            else:
                hinted_places.add(place)
                hinted_threads += [_Ready(thread.at, thread.address) for thread in threads]
        # So many that a process that knows nothing yet has seen all of them within its rounds.
        most = max(AT_ONCE, len(self._keys.partitions) // ROUNDS)
        is_all, places = len(places) <= most, places[:most]
        if everywhere:
            others = [place for place in outlook.longest_unasked(AT_ONCE) if place not in hinted_places]
            places += [place for place in others if place not in places][: max(0, AT_ONCE - len(places))]
        if not places:
            return _Look(hinted_threads, is_all)
        quota = min(count, LEAST_SHARE + 2 * count // len(places))
        answers = await self._look(outlook, places, quota, queues)
        ready = _read_ready(answers)
        return _Look(hinted_threads + ready, is_all and all(len(answer) // 2 < quota for answer in answers))

    async def _choose(self, look: _Look, count: int, *, spread: bool) -> tuple[list[_Ready], bool]:
        """The threads to take next: of the tenant served least first, then those due longest;
        whether that is all.

        With `spread` the choice begins anywhere: others are taking the same ones.
        """
        by_tenant: dict[str, list[_Ready]] = {}
        # Nearly all were due at other moments; those that were not stand as the index has them.
        for ready in sorted(look.ready, key=_order):
            by_tenant.setdefault(ready.address.tenant, []).append(ready)
        if spread:
            by_tenant = {tenant: _from_anywhere(all_of) for tenant, all_of in by_tenant.items()}
        if len(by_tenant) <= 1:
            # Nobody to be fair to: no books are read.
            [all_of] = by_tenant.values() or [[]]
            return all_of[:count], look.is_all and len(all_of) <= count
        shares, floor = await self._shares()
        candidates: list[_Ready] = []
        while by_tenant and len(candidates) < count:
            tenant = next_tenant({t: waiting[0].at for t, waiting in by_tenant.items()}, shares, floor)
            shares[tenant], floor = charge(tenant, self._policies.weight(tenant), shares, floor)
            # One at a time, charged at once: the same rule as in the other engines (`fair_share`),
            # so that no tenant with a thousand threads is ahead of one with a single one.
            candidates.append(by_tenant[tenant].pop(0))
            if not by_tenant[tenant]:
                del by_tenant[tenant]
        return candidates, look.is_all and not by_tenant

    def _moment(self) -> float:
        """The time, with nothing asked of the server: no command follows that would wait for it."""
        return self._clock.now() if self._time is None else self._time.now()

    async def _look(
        self, outlook: Outlook, places: Sequence[int], limit: int, queues: Sequence[str] | None
    ) -> list[list[bytes]]:
        """What is ready in some partitions; when to look again is learned."""
        self._turn = (self._turn + 1) % 1_000_000
        arguments = (self._now(), b"%d" % limit, _names(queues), b"%d" % self._turn)
        partitions = [self._keys.partitions[place] for place in places]
        for place in places:
            outlook.ask(place, by_look=True)
        rows: list[tuple[int, list[bytes]]]
        # One script over all partitions where they are on one server; in a
        # cluster each is elsewhere.
        if self._link.topology.kind != "cluster":
            with suppress(ThreadQuarantined, PartitionUnderRepair):  # one of them is damaged: each by itself
                _, *replies = await self._ask_indexes(partitions, arguments)
                return self._learn(outlook, list(zip(places, replies, strict=True)))
        async with asyncio.TaskGroup() as group:
            looks = [
                group.create_task(outcome(self._ask_indexes([partition], arguments, patience=IMPATIENCE)))
                for partition in partitions
            ]
        ends = [look.result() for look in looks]
        later = self._moment() + PAUSE
        for place, end in zip(places, ends, strict=True):
            if isinstance(end, Exception):
                outlook.learn(place, later)
        successes(ends)
        rows = [(place, end[0][1]) for place, end in zip(places, ends, strict=True) if not isinstance(end, Exception)]
        return self._learn(outlook, rows)

    def _learn(self, outlook: Outlook, rows: Sequence[tuple[int, list[bytes]]]) -> list[list[bytes]]:
        """Note when to look again; what is ready is left."""
        for place, (moment, *_) in rows:
            outlook.learn(place, _moment_or_never(moment))
        return [row[1:] for _, row in rows]

    async def _ask_indexes(
        self, partitions: Sequence[PartitionKeys], arguments: tuple[bytes, ...], *, patience: float = ANSWER_PATIENCE
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
        # In the same write, and before: what was noted here counts in what is read.
        self._bill()
        try:
            fields = await self._link.call("served", key, None, "HGETALL", key)
            shares = {to_text(fields[i]): float(fields[i + 1]) for i in range(0, len(fields), 2)}
        except (ThreadQuarantined, ValueError):
            await self._link.call("served", key, None, "DEL", key)
            return {}, 0.0
        return shares, shares.pop("", 0.0)

    def _bill(self) -> None:
        """Write down who was served, behind the claims; lost, a share is a little off."""
        key = self._keys.registry("served")
        weight = self._policies.weight
        rows = [
            value
            for tenant, count in self._books.take()
            for value in (to_bytes(tenant), exact(weight(tenant)), b"%d" % count)
        ]
        # Not awaited: fairness is an estimate, and a claim is on the way of every message.
        if rows:
            self._link.tell("charge", key, (key,), *rows)

    async def _take(
        self, candidates: Sequence[_Ready], owner: str, lease: float, outlook: Outlook, queues: Sequence[str] | None
    ) -> list[Claim]:
        """Take these, in one script for each partition."""
        groups: dict[int, list[_Ready]] = {}
        # Those of a partition stand together: a script writes once what they share.
        for ready in sorted(candidates, key=self._place):
            groups.setdefault(self._shelf(self._keys.thread(ready.address).partition), []).append(ready)
        about = (to_bytes(owner), exact(lease), _names(queues))
        works = [
            self._take_together(ready[start : start + AT_ONCE], about, outlook)
            for ready in groups.values()
            for start in range(0, len(ready), AT_ONCE)
        ]
        places = {id(ready): place for place, ready in enumerate(candidates)}
        claims = [claim for some in await gather(works) for claim in some]
        return [claim for _, claim in sorted(claims, key=lambda claim: places[id(claim[0])])]

    def _place(self, ready: _Ready) -> int:
        return self._keys.thread(ready.address).partition.index

    async def _take_together(
        self, candidates: Sequence[_Ready], about: tuple[bytes, ...], outlook: Outlook
    ) -> list[tuple[_Ready, Claim]]:
        """Take threads in one script; what is damaged is left to whoever looks after it."""
        threads = [self._keys.thread(ready.address) for ready in candidates]
        places = [thread.partition.index for thread in threads]
        owner = to_text(about[0])
        for place in set(places):
            self._note_claim(owner, place)
            outlook.ask(place)
        try:
            moments, *answers = await self._run_grouped("claim", threads, self._claim_rows(threads, candidates, about))
        except (ThreadQuarantined, PartitionUnderRepair):
            outlook.forget(places)
            return []
        except BaseException:
            outlook.forget(places)
            raise
        for place, moment in zip(places, moments, strict=True):
            outlook.learn(place, _moment_or_never(moment))
        claims: list[tuple[_Ready, Claim]] = []
        for ready, keys, answer in zip(candidates, threads, answers, strict=True):
            if isinstance(answer, bytes):
                if answer:
                    outlook.name(keys.partition.index, ready.address, float(answer))
            elif answer[0] == b"alone":
                claims += await self._take_alone(ready, about, outlook)
            elif (claim := await self._read_claim(keys, answer)) is not None:
                claims.append((ready, claim))
        return claims

    async def _take_alone(
        self, ready: _Ready, about: tuple[bytes, ...], outlook: Outlook
    ) -> list[tuple[_Ready, Claim]]:
        """Of one that failed beside others is found out by itself what is wrong."""
        try:
            return await self._take_together([ready], about, outlook)
        except StoreError:
            # What was taken beside it is told; the next claim meets this again.
            return []

    def _claim_rows(
        self, threads: Sequence[ThreadKeys], candidates: Sequence[_Ready], about: tuple[bytes, ...]
    ) -> list[bytes]:
        rows = [
            value
            for ready, thread in zip(candidates, threads, strict=True)
            for value in (
                thread.space, self._policy(ready.address.queue), ready.kind, ready.entry,
                new_token(self._ids).encode(), new_run_id(self._ids).encode(),
            )
        ]  # fmt: skip
        return [*about, *rows]

    async def _read_claim(self, keys: ThreadKeys, reply: Sequence[Any]) -> Claim | None:
        """A claim whose contents cannot be read is given back and kept away from everybody."""
        try:
            with quarantining():
                return read_claim(keys, reply)
        except ThreadQuarantined as damage:
            await self._give_back(keys, reply[3])
            await self._quarantine(keys, damage)
            return None

    async def ready(self, *, queues: Sequence[str] | None, timeout: float) -> bool:
        # True also when nothing was heard: a claim is what looks at the partitions then.
        # The time is taken once and goes on with the seconds that pass here: what is heard of it
        # meanwhile may come from a look that took long.
        start, now = self._clock.now(), self._moment()
        hints = await self._hear_hints()
        outlook = hints.outlook(queues)
        await self._verify(outlook, queues)
        while True:
            seconds = self._clock.now() - start
            if (due_in := outlook.earliest - now - seconds) <= 0:
                break
            # A clock that runs backwards ends the wait as well.
            if not 0 <= seconds < timeout or not await hints.wait(min(due_in, timeout - seconds)):
                return True
            self._require_open()
        outlook.trust(self._clock.elapsed())
        return True

    async def _verify(self, outlook: Outlook, queues: Sequence[str] | None) -> None:
        """Ask the partitions whose moment has come and where no hint says of what."""
        now = self._moment()
        places = [place for place in outlook.due(now) if outlook.due_threads(place, now) is None]
        for start in range(0, len(places), AT_ONCE):
            try:
                await self._look(outlook, places[start : start + AT_ONCE], 0, queues)
            except PASSING:
                self._require_open()
                for place in places[start : start + AT_ONCE]:
                    outlook.learn(place, now + PAUSE)

    async def wait_nudge(self, owner: str, *, timeout: float) -> set[Address]:
        start = self._clock.now()
        hints = await self._hear_hints()
        while (nudges := hints.take_nudges(owner)) is None:
            seconds = self._clock.now() - start
            self._require_open()
            if not 0 <= seconds < timeout:
                return set()
            await hints.wait_nudge(timeout - seconds)
        return nudges

    async def _hear_hints(self) -> Hints:
        if self._hints is None:
            self._hints = Hints(
                self._subscriptions,
                self._keys.partitions,
                self._clock,
                revisions=self._keys.registry("revisions"),
                revise=self.revise,
            )
        await self._hints.listen()
        return self._hints


def _names(queues: Sequence[str] | None) -> bytes:
    """Queues as scripts take them."""
    return b"*" if queues is None else b"\0".join(map(plain, queues))


def _moment_or_never(moment: bytes) -> float:
    return float(moment) if moment else NEVER


def _read_ready(answers: Sequence[Sequence[bytes]]) -> list[_Ready]:
    """Index entries: tenant, queue, moment, channel."""
    entries = []
    for pairs in answers:
        for place in range(0, len(pairs), 2):
            tenant, queue, at, channel = pairs[place + 1].split(b"\0", 3)
            address = address_of(tenant + b"\0" + queue, channel)
            entries.append(_Ready(float(at), address, pairs[place], pairs[place + 1]))
    return entries


def _from_anywhere(ready: list[_Ready]) -> list[_Ready]:
    # Turned and not shuffled: those due longest stay together.
    start = secrets.randbelow(len(ready))
    return ready[start:] + ready[:start]
