"""Bits flipped, values cut short or of a wrong type: the thread is quarantined, all others live on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract.redis_desk import COST, FAULT, LEASE, accepted, answer, channel, leased, said, store_on
from tests.services import RedisServer
from turnkeep.errors import ThreadQuarantined, TurnkeepError
from turnkeep.events import Event
from turnkeep.messages import Address, UserItem, text_content
from turnkeep.store.redis import RedisStore
from turnkeep.store.values import Claim, Failure, TranscriptEntry

Size = Callable[[int, int], int]
Proof = Callable[[str, str], None]

HERE = channel("here")


def keys_of(store: RedisStore, where: Address) -> dict[str, bytes]:
    keys = store._keys.thread(where)
    return {name: keys[name] for name in ("thread", "inbox", "delayed", "log", "known", "history")}


class Vandal:
    """Damages one stored value of a thread in one of the ways that disks, hands and other programs have."""

    def __init__(self, server: RedisServer, source: random.Random) -> None:
        self._redis = server.client()
        self._source = source

    def close(self) -> None:
        self._redis.close()

    def damage(self, keys: dict[str, bytes]) -> str:
        """What was done."""
        present = [(name, key) for name, key in keys.items() if self._redis.exists(key)]
        name, key = self._source.choice(present)
        kind = self._redis.type(key).decode()
        if self._source.random() < 0.2:
            return f"{name}: {self._retype(key, kind)}"
        return f"{name}: {getattr(self, '_' + kind)(key)}"

    def _retype(self, key: bytes, kind: str) -> str:
        self._redis.delete(key)
        if kind == "string":
            self._redis.rpush(key, "x")
        else:
            self._redis.set(key, self._source.randbytes(8))
        return "another type"

    def _hash(self, key: bytes) -> str:
        field = self._source.choice(sorted(self._redis.hkeys(key)))
        if self._source.random() < 0.2:
            self._redis.hdel(key, field)
            return f"lost {field!r}"
        self._redis.hset(key, field, self._bent(self._redis.hget(key, field)))
        return f"bent {field!r}"

    def _list(self, key: bytes) -> str:
        place = self._source.randrange(self._redis.llen(key))
        if self._source.random() < 0.2:
            self._redis.rpop(key)
            return "lost its end"
        self._redis.lset(key, place, self._bent(self._redis.lindex(key, place)))
        return f"bent {place}"

    def _zset(self, key: bytes) -> str:
        member = self._redis.zrange(key, 0, 0)[0]
        self._redis.zrem(key, member)
        self._redis.zadd(key, {self._bent(member): 1.0})
        return "bent a member"

    def _stream(self, key: bytes) -> str:
        if self._source.random() < 0.5:
            field = self._source.choice([{"k": "delta"}, {"f": "delta"}, {"f": "999999 delta"}])
            self._redis.xadd(key, field, id="999999-0")
            return f"an entry from the future: {field}"
        self._redis.xtrim(key, maxlen=1)
        return "lost its beginning"

    def _bent(self, value: bytes) -> bytes:
        if not value or self._source.random() < 0.3:
            return value[: self._source.randrange(len(value) + 1)] if value else b"x"
        bent = bytearray(value)
        bent[self._source.randrange(len(bent))] ^= 1 << self._source.randrange(8)
        return bytes(bent)


async def grow(store: RedisStore, where: Address, state: str) -> Claim | None:
    """A thread with a past, in some state."""
    first = await leased(store, where, "old")
    await store.publish(first, 0, [Event("delta", text="a")])
    await store.commit(first, answer(first))
    await store.append(where, [TranscriptEntry(UserItem(text_content("hm"), "x"), 1)])
    if state == "idle":
        return None
    claim = await leased(store, where, "m1", "m2")
    await accepted(store, said(where, "later", not_before=await store.now() + 3600))
    await store.journal(claim, [{"n": 0, "kind": "note"}])
    if state == "leased":
        return claim
    await store.fail(claim, Failure(FAULT, 0.0, usage=COST))
    return None


async def attempt_everything(store: RedisStore, where: Address, claim: Claim | None) -> list[BaseException]:
    """Every kind of operation on a thread; what they raised."""
    operations: list[Any] = [
        lambda: store.accept([said(where, "new")]),
        lambda: store.thread(where),
        lambda: store.open_messages(where),
        lambda: store.runs(where),
        lambda: store.history(where),
        lambda: store.read(where),
        lambda: store.message(where, "m1"),
        lambda: store.message(where, "old"),
        lambda: store.edit(where, "new", text_content("other")),
        lambda: store.typing(where),
        lambda: store.flush(where),
        lambda: store.pause(where),
        lambda: store.resume(where),
        lambda: store.renew("w", [claim] if claim else [], lease=LEASE),
    ]
    if claim is not None:
        operations += [
            lambda: store.publish(claim, 0, [Event("delta", text="b")]),
            lambda: store.journal(claim, [{"n": 1}]),
            lambda: store.commit(claim, answer(claim)),
        ]
    operations += [lambda: store.cancel(where, drop_inbox=True), lambda: store.claim(owner="w", limit=50, lease=LEASE)]
    raised: list[BaseException] = []
    for operation in operations:
        try:
            await operation()
        except TurnkeepError as error:
            raised.append(error)
    return raised


@pytest.mark.prove
@pytest.mark.timeout(1800)
async def test_damage_of_one_thread_stays_with_that_thread(
    redis_server: RedisServer, size: Size, proof: Proof, caplog: pytest.LogCaptureFixture
) -> None:
    count, quarantined = size(30, 500), 0
    source = random.Random(7)
    vandal = Vandal(redis_server, source)
    for _ in range(count):
        state = source.choice(["idle", "retry", "leased"])
        redis_server.fresh()
        async with store_on(redis_server.url(), partitions=1) as store:
            neighbour = channel("neighbour")
            await accepted(store, said(neighbour, "n1"))
            await store.pause(neighbour)
            claim = await grow(store, HERE, state)
            done = vandal.damage(keys_of(store, HERE))

            caplog.clear()
            raised = await attempt_everything(store, HERE, claim)

            assert all(allowed(error) for error in raised), (state, done, raised)
            if any(isinstance(error, ThreadQuarantined) for error in raised):
                quarantined += 1
                assert len(alarms(caplog)) == 1, done
            await store.resume(neighbour)
            claims = await store.claim(owner="other", limit=10, lease=LEASE)
            [other] = [one for one in claims if one.address == neighbour]
            assert (await store.commit(other, answer(other))).messages == 0
            assert await store.forget(HERE, force=True) in (True, False)
            assert (await accepted(store, said(HERE, "afresh"))).position == 1
    vandal.close()
    assert quarantined > count / 2
    proof("damage", f"{count} corruptions, {quarantined} found and quarantined, neighbours unaffected")


def allowed(error: BaseException) -> bool:
    """What an operation on a damaged thread may say: quarantined, or an ordinary refusal where nothing was noticed."""
    return isinstance(error, ThreadQuarantined) or error.__class__.__name__ in (
        "LeaseLost",
        "NotFound",
        "MessageFrozen",
        "ThreadNotFound",
    )


def alarms(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "thread_quarantined" in record.getMessage()]


async def test_a_quarantined_thread_is_not_tried_again(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with store_on(redis_server.url()) as store:
        await accepted(store, said(HERE, "m1"))
        await accepted(store, said(channel("well"), "m1"))
        redis_server.cli("HSET", keys_of(store, HERE)["thread"], "head", "garbage")

        claims = await store.claim(owner="w", limit=10, lease=LEASE)
        assert await store.claim(owner="w", limit=10, lease=LEASE) == []

        assert [claim.address.channel for claim in claims] == ["well"]
        [alarm] = alarms(caplog)
        assert "here" not in alarm
        with pytest.raises(ThreadQuarantined):
            await store.thread(HERE)


async def test_every_flipped_bit_of_a_transcript_is_found(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url()) as store:
        await grow(store, HERE, "idle")
        key = keys_of(store, HERE)["history"]
        with redis_server.client() as hand:
            turn: Any = hand.lindex(key, 0)
            for place in range(len(turn)):
                bent = bytearray(turn)
                bent[place] ^= 1 << place % 8
                hand.lset(key, 0, bytes(bent))
                with pytest.raises(ThreadQuarantined):
                    await store.history(HERE)
            hand.lset(key, 0, turn)
        assert len((await store.history(HERE)).entries) == 3


async def test_a_damaged_message_is_found_before_it_is_answered(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url()) as store:
        await accepted(store, said(HERE, "m1", "pay 10"))
        key = keys_of(store, HERE)["thread"]
        body = redis_server.cli("HGET", key, "b:1")
        redis_server.cli("HSET", key, "b:1", body.replace("pay 10", "pay 90"))

        assert await store.claim(owner="w", limit=10, lease=LEASE) == []

        assert (await store.counts()).active == 0
        assert await store.claim(owner="w", limit=10, lease=LEASE) == []


async def test_a_damaged_thread_can_be_forgotten_by_force_and_begun_anew(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url()) as store:
        await accepted(store, said(HERE, "m1"))
        redis_server.cli("DEL", keys_of(store, HERE)["inbox"])
        redis_server.cli("SET", keys_of(store, HERE)["inbox"], "no list")
        with pytest.raises(ThreadQuarantined):
            await store.forget(HERE)

        assert await store.forget(HERE, force=True)

        assert await store.thread(HERE) is None
        claim = await leased(store, HERE, "m1")
        assert (await store.commit(claim, answer(claim))).messages == 0
