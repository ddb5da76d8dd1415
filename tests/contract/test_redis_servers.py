"""Which Redis the engine accepts, what it promises there, and what a failover costs."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.contract.redis_desk import (
    LEASE,
    accepted,
    answer,
    channel,
    has_replica,
    leased,
    said,
    sentinel_url,
    store_on,
)
from tests.patience import PATIENCE
from tests.services import HOST, RedisSentinel, RedisServer, eventually, free_port
from tests.services.programs import program
from tests.services.tcp_proxy import TcpProxy
from turnkeep.errors import ConfigurationError, OutcomeUnknown, StoreMisconfigured, StoreUnavailable
from turnkeep.events import Event
from turnkeep.store.redis import RedisStore
from turnkeep.store.redis.server_fitness import Durability, Server, loss_window
from turnkeep.store.sinks import Delivery

pytestmark = pytest.mark.usefixtures("redis_installed")

HERE = channel("here")


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        ({"appendonly": "no"}, "append-only"),
        ({"maxmemory_policy": "allkeys-lru"}, "noeviction"),
        ({"maxmemory_policy": "volatile-ttl"}, "noeviction"),
    ],
)
async def test_a_server_that_may_lose_accepted_messages_is_refused(server: dict[str, Any], reason: str) -> None:
    async with RedisServer(**server) as unsafe:
        with pytest.raises(StoreMisconfigured, match=reason):
            async with store_on(unsafe.url()):
                pass

        async with store_on(unsafe.url(), allow_unsafe=True) as store:
            assert (await accepted(store, said(HERE, "m1"))).position == 1


async def test_whoever_wants_it_fast_needs_no_log() -> None:
    async with RedisServer(appendonly="no") as server, store_on(server.url(), durability="fast") as store:
        assert "last snapshot" in (await store.check())["loses"]


async def test_a_newer_layout_is_refused(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url(), prefix="newer:") as store:
        await accepted(store, said(HERE, "m1"))
    redis_server.cli("HSET", "newer:{newer:registry}layout", "layout", 99)

    with pytest.raises(StoreMisconfigured, match="layout 99"):
        async with store_on(redis_server.url(), prefix="newer:"):
            pass


async def test_another_number_of_partitions_is_refused(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url(), prefix="few:", partitions=4):
        pass

    with pytest.raises(StoreMisconfigured, match=r"4 partitions, not 16: .*turnkeep repartition 16"):
        async with store_on(redis_server.url(), prefix="few:", partitions=16):
            pass


@pytest.mark.parametrize("partitions", [4, 16, 64, 1024])
async def test_who_asks_for_no_number_of_partitions_takes_that_of_the_store(
    redis_server: RedisServer, partitions: int
) -> None:
    prefix = f"begun {partitions}:"
    async with store_on(redis_server.url(), prefix=prefix, partitions=partitions) as store:
        await accepted(store, said(HERE, "m1"))

    async with store_on(redis_server.url(), prefix=prefix) as store:
        assert len(store._keys.partitions) == partitions
        assert len(await store.claim(owner="o", limit=5, lease=30.0)) == 1


async def test_a_wrong_password_is_refused_without_telling_it() -> None:
    async with RedisServer(password="open sesame") as server:
        async with store_on(server.url().replace("open sesame", "open%20sesame")) as store:
            await accepted(store, said(HERE, "m1"))

        with pytest.raises(StoreMisconfigured) as refused:
            async with store_on(f"redis://:guess-4711@{HOST}:{server.port}/0"):
                pass
        assert "4711" not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://host:1",
        "redis+sentinel:///service",
        "redis+sentinel://host:1/service/first",
        "ftp://host",
        "redis://host:port",
        "redis://host/first",
        "redis://host?foo=bar",
        "redis://host?db=first",
        "rediss://host?ssl_cert_reqs=bogus",
    ],
)
async def test_a_url_that_cannot_be_understood_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        async with store_on(url):
            pass


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        (("~*", "&*", "+@all", "-@dangerous"), "may not ask INFO"),
        (("~*", "resetchannels", "+@all"), "ACL SETUSER … '&n\\d+:\\*'"),
        (("~other:*", "&*", "+@all"), "check REDIS_URL and the ACL"),
    ],
)
async def test_a_user_who_may_not_do_enough_is_refused(
    redis_server: RedisServer, rules: tuple[str, ...], sentence: str
) -> None:
    redis_server.cli("ACL", "SETUSER", "app", "reset", "on", ">word", *rules)
    with pytest.raises(StoreMisconfigured, match=sentence):
        async with store_on(redis_server.url().replace("redis://", "redis://app:word@")):
            pass


async def test_a_hint_that_is_forbidden_damages_nothing(redis_server: RedisServer) -> None:
    redis_server.cli("ACL", "SETUSER", "app", "reset", "on", ">word", "~*", "&*", "+@all")
    async with store_on(redis_server.url().replace("redis://", "redis://app:word@")) as store:
        redis_server.cli("ACL", "SETUSER", "app", "resetchannels")
        await accepted(store, said(HERE, "m1"))
        claim = await leased(store, HERE)
        await store.publish(claim, 0, [Event("delta", text="a")])
        await store.commit(claim, answer(claim))
        assert (await store.read(HERE)).events[-1].kind == "completed"


async def test_databases_of_one_server_are_apart(redis_server: RedisServer) -> None:
    async with store_on(redis_server.url(0), prefix="p:") as one, store_on(redis_server.url(5), prefix="p:") as other:
        await accepted(one, said(HERE, "m1"))

        assert await other.thread(HERE) is None


# ---------------------------------------------------------------- what is promised


@pytest.mark.parametrize("durability", ["fast", "standard"])
async def test_a_check_tells_what_a_receipt_is_worth(redis_server: RedisServer, durability: str) -> None:
    async with store_on(redis_server.url(), durability=durability) as store:
        told = await store.check()

    assert told["engine"] == "redis"
    assert told["topology"] == "single"
    assert told["durability"] == durability
    assert told["appendfsync"] == "everysec"
    assert "crash" in told["loses"]


@pytest.mark.parametrize(
    ("durability", "fsync", "replicas", "version", "window"),
    [
        ("standard", "everysec", 0, (7, 0), "about the last second when its machine crashes"),
        ("standard", "always", 0, (7, 0), "nothing by a crash"),
        ("standard", "always", 1, (7, 0), "nothing by a crash; at a failover what the replica had not heard"),
        ("strict", "everysec", 0, (7, 2), "nothing by a crash"),
        ("strict", "everysec", 1, (7, 2), "nothing by a crash; nothing at a failover to the replica that answered"),
        ("strict", "everysec", 1, (7, 0), "about the last second when its machine crashes; nothing at a failover"),
        ("fast", "no", 0, (7, 0), "what the system had not written when its machine crashes"),
        ("standard", "", 0, (7, 0), "what was not synced (appendfsync cannot be read) when its machine crashes"),
    ],
)
def test_the_loss_window_is_that_of_the_server_as_it_is(
    durability: Durability, fsync: str, replicas: int, version: tuple[int, int], window: str
) -> None:
    server = Server("redis", version, "noeviction", has_log=True, fsync=fsync, replicas=replicas)
    assert loss_window(server, durability).startswith(window)


async def test_strict_is_refused_where_it_cannot_be_kept() -> None:
    async with RedisServer() as newest:
        knows_waitaof = newest.cli("COMMAND", "INFO", "WAITAOF")[0]
    taken_away = {"rename-command": 'WAITAOF ""'} if knows_waitaof else {}
    async with RedisServer(appendonly="everysec", config=taken_away) as server:
        with pytest.raises(StoreMisconfigured, match="strict"):
            async with store_on(server.url(), durability="strict"):
                pass


async def test_strict_needs_nothing_more_where_every_write_is_synced() -> None:
    async with RedisServer(appendonly="always") as server, store_on(server.url(), durability="strict") as store:
        claim = await leased(store, HERE, "m1")
        assert (await store.commit(claim, answer(claim))).messages == 0


async def test_strict_waits_for_the_log_of_a_server_that_can_be_waited_for(valkey_server: RedisServer) -> None:
    async with store_on(valkey_server.url(), durability="strict") as store:
        claim = await leased(store, HERE, "m1")
        assert (await store.commit(claim, answer(claim))).messages == 0

        told = valkey_server.cli("INFO", "COMMANDSTATS")
        assert "cmdstat_waitaof" in told


async def test_strict_waits_for_a_replica() -> None:
    async with RedisServer() as primary, RedisServer(replicaof=primary) as replica:
        await asyncio.to_thread(eventually, lambda: has_replica(primary), PATIENCE, "the replica to connect")
        strict: dict[str, Any] = {"prefix": "strict:", "durability": "strict"}
        async with (
            store_on(primary.url(), timeout=30.0, **strict) as patient,
            store_on(primary.url(), timeout=1.0, **strict) as hasty,
        ):
            await accepted(patient, said(HERE, "m1"))
            await asyncio.to_thread(replica.freeze)
            with pytest.raises(OutcomeUnknown, match="not safe yet"):
                await hasty.accept([said(HERE, "m2")])

            await asyncio.to_thread(replica.thaw)

            assert (await accepted(patient, said(HERE, "m2"))).repeated


async def test_senders_share_the_wait_for_a_replica_that_does_not_answer() -> None:
    async with RedisServer() as primary, RedisServer(replicaof=primary) as replica:
        await asyncio.to_thread(eventually, lambda: has_replica(primary), PATIENCE, "the replica to connect")
        async with store_on(primary.url(), timeout=1.0, durability="strict") as store:
            await asyncio.to_thread(replica.freeze)
            sends = [store.accept([said(channel(f"c{n}"), "m")]) for n in range(30)]
            ends = await asyncio.gather(*sends, return_exceptions=True)
            waits = re.findall(r"cmdstat_wait(?:aof)?:calls=(\d+)", primary.cli("INFO", "COMMANDSTATS"))
            await asyncio.to_thread(replica.thaw)

    assert {type(end) for end in ends} == {OutcomeUnknown}
    assert 1 <= sum(map(int, waits)) <= 3


async def test_nothing_is_told_outside_that_a_failover_could_take_back() -> None:
    async with RedisServer() as primary, RedisServer(replicaof=primary) as replica:
        await asyncio.to_thread(eventually, lambda: has_replica(primary), PATIENCE, "the replica to connect")
        options: dict[str, Any] = {"prefix": "outside:", "durability": "strict", "partitions": 1}
        async with (
            store_on(primary.url(), timeout=30.0, **options) as patient,
            store_on(primary.url(), timeout=1.0, **options) as hasty,
        ):
            await patient.open_sink("s")
            claim = await leased(patient, HERE, "m1")
            assert [one.event.kind for one in await deliveries_of(patient)] == ["accepted", "started"]

            await asyncio.to_thread(replica.freeze)
            committing = asyncio.ensure_future(patient.commit(claim, answer(claim)))
            while (await hasty.read(HERE)).top < 3:
                await asyncio.sleep(0.01)
            assert await hasty.deliveries("s", 0, after="9" * 15 + "-0", limit=100) == []  # waits for nobody
            with pytest.raises(OutcomeUnknown, match="not safe yet"):
                await deliveries_of(hasty)

            await asyncio.to_thread(replica.thaw)

            await committing
            assert [one.event.kind for one in await deliveries_of(patient)] == ["accepted", "started", "completed"]


async def deliveries_of(store: RedisStore) -> list[Delivery]:
    """What a receiver outside is told of."""
    return await store.deliveries("s", 0, after="", limit=100)


async def test_no_server_vouches_for_what_another_one_was_told() -> None:
    """The receipt of a write that went down with its server is not given because the next one is well."""
    async with RedisServer(appendonly="no") as primary, RedisServer(replicaof=primary) as replica:
        await asyncio.to_thread(eventually, lambda: has_replica(primary), PATIENCE, "the replica to connect")
        options: dict[str, Any] = {"prefix": "vouched:", "allow_unsafe": True, "timeout": 20.0}
        async with (
            TcpProxy(HOST, primary.port) as proxy,
            store_on(f"redis://{HOST}:{proxy.port}/0", durability="strict", **options) as store,
            store_on(primary.url(), **options) as witness,
            asyncio.timeout(120),
        ):
            await asyncio.to_thread(replica.freeze)
            places = [channel("one"), channel("other")]
            sends = [asyncio.ensure_future(store.accept([said(place, "m")])) for place in places]
            while None in [await witness.thread(place) for place in places]:
                await asyncio.sleep(0.01)
            proxy.blackhole()
            primary.kill9()
            await asyncio.to_thread(primary.start)
            await asyncio.to_thread(replica.thaw)
            await asyncio.to_thread(eventually, lambda: has_replica(primary), PATIENCE, "the replica to connect")
            proxy.forward()
            ends = await asyncio.gather(*sends, return_exceptions=True)

            assert {type(end) for end in ends} == {OutcomeUnknown}
            assert [await witness.thread(place) for place in places] == [None, None]


async def test_a_full_primary_vouches_for_runs_that_end() -> None:
    async with RedisServer() as primary, RedisServer(replicaof=primary):
        await asyncio.to_thread(eventually, lambda: has_replica(primary), PATIENCE, "the replica to connect")
        async with store_on(primary.url(), timeout=30.0, durability="strict") as store:
            claim = await leased(store, HERE, "m1")
            primary.cli("CONFIG", "SET", "maxmemory", "1mb")
            assert (await store.commit(claim, answer(claim))).messages == 0


# ---------------------------------------------------------------- sentinels


@pytest.mark.slow
async def test_after_a_failover_the_new_primary_is_found() -> None:
    async with RedisSentinel() as group, store_on(sentinel_url(group), timeout=1.0) as store:
        claim = await leased(store, HERE, "m1")
        await store.publish(claim, 0, [Event("delta", text="a")])
        before = await store.read(HERE)
        await asyncio.to_thread(eventually, lambda: is_copied(group), PATIENCE, "the replica to catch up")

        await asyncio.to_thread(group.fail_over)

        await until_back(store)
        after = await store.read(HERE)
        assert after.epoch != before.epoch
        assert [e.offset for e in after.events] == list(range(1, after.top + 1))
        assert await store.publish(claim, 1, [Event("delta", text="b")]) == after.top + 1
        assert (await store.commit(claim, answer(claim))).messages == 0


@pytest.mark.slow
async def test_followers_and_workers_find_the_new_primary_too() -> None:
    async with (
        RedisSentinel() as group,
        store_on(sentinel_url(group), timeout=1.0) as store,
        asyncio.timeout(100),
        store.follow() as follower,
    ):
        await follower.add(HERE)
        await store.ready(queues=None, timeout=0)
        await asyncio.to_thread(group.fail_over)
        told = aiter(follower)
        assert (await anext(told)).events == ()
        while not await store._subscriptions.tend():
            await asyncio.sleep(0.05)
        await until_back(store)

        await accepted(store, said(HERE, "m1"))

        while not (notice := await anext(told)).events:
            pass
        assert notice.events[0].kind == "accepted"
        await store.ready(queues=["q"], timeout=3600.0)


@pytest.mark.only_in_prove  # what takes its place is found by the two tests above
@pytest.mark.slow
async def test_a_demoted_primary_is_left() -> None:
    """Both servers live on: the old one refuses writes, and the sentinels name the new one."""
    async with RedisSentinel() as group, store_on(sentinel_url(group), timeout=1.0) as store:
        await accepted(store, said(HERE, "m1"))
        await asyncio.to_thread(eventually, lambda: is_copied(group), PATIENCE, "the replica to catch up")
        old = group.primary()
        group.sentinels[0].cli("SENTINEL", "FAILOVER", group.service)
        await asyncio.to_thread(eventually, lambda: group.primary() is not old, PATIENCE, "the sentinels to agree")
        await asyncio.to_thread(eventually, lambda: is_replica(old), PATIENCE, "the old primary to follow")

        async with asyncio.timeout(PATIENCE):
            await until_back(store)
            assert (await accepted(store, said(HERE, "m2"))).position == 2


def is_replica(server: RedisServer) -> bool:
    try:
        return bool(server.cli("ROLE")[0] == "slave")
    except redis.ConnectionError:  # it cuts its connections when it is demoted
        return False


def is_copied(group: RedisSentinel) -> bool:
    primary, replica = group.primary(), group.replica()
    return offset(primary) == offset(replica)


def offset(server: RedisServer) -> str:
    lines: list[str] = server.cli("INFO", "REPLICATION").splitlines()
    return next(line for line in lines if line.startswith("master_repl_offset:"))


async def until_back(store: RedisStore) -> None:
    """Return when the store can be written again."""
    while True:
        try:
            await store.check()
            return
        except (StoreUnavailable, OutcomeUnknown):
            await asyncio.sleep(0.05)


async def test_an_unknown_service_is_unavailable_with_its_name() -> None:
    async with RedisServer() as server:
        with pytest.raises(StoreUnavailable, match="nobody"):
            async with store_on(f"redis+sentinel://{HOST}:{server.port}/nobody/0"):
                pass


async def test_claims_go_on_with_their_numbers_after_a_restart() -> None:
    async with RedisServer(appendonly="always") as server, store_on(server.url()) as store:
        first = await leased(store, HERE, "m1")
        await store.release(first)
        await asyncio.to_thread(server.restart)

        [second] = await store.claim(owner="w", limit=1, lease=LEASE)

        assert second.fence > first.fence


# ---------------------------------------------------------------- ways to a server


async def test_calls_to_a_server_that_knows_no_script_are_taken_in_their_order() -> None:
    async with RedisServer(appendonly="always") as server, store_on(server.url()) as store:
        async with asyncio.TaskGroup() as group:
            told = [group.create_task(accepted(store, said(HERE, name))) for name in ("m0", "m1")]
            for number in range(50):
                group.create_task(accepted(store, said(channel(f"other {number}"), "m")))

        assert [one.result().position for one in told] == [1, 2]


async def test_a_server_is_reached_by_its_socket() -> None:
    async with RedisServer(config={"unixsocket": "redis.sock"}) as server:
        path = server.directory / "redis.sock"
        async with store_on(f"unix://{path}?db=2") as store, asyncio.timeout(PATIENCE), store.follow() as follower:
            await follower.add(HERE)
            await accepted(store, said(HERE, "m1"))

            assert (await anext(aiter(follower))).events[0].kind == "accepted"


async def test_a_server_is_reached_by_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = [
        program("openssl"),
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=localhost",
    ]
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, [*command, *names, *files], check=True, capture_output=True)
    port = free_port()
    tls = {"tls-port": str(port), "tls-cert-file": str(certificate), "tls-key-file": str(key), "tls-auth-clients": "no"}
    url = f"rediss://{HOST}:{port}/0?ssl_ca_certs={certificate}"
    # the Valkey of the test tools is built without TLS
    server = RedisServer(program=program("redis-server"), config=tls)
    async with server, store_on(url) as store, asyncio.timeout(PATIENCE), store.follow() as follower:
        await follower.add(HERE)
        claim = await leased(store, HERE, "m1")
        await store.publish(claim, 0, [Event("delta", text="x" * 100_000)])
        await store.commit(claim, answer(claim))

        assert (await anext(aiter(follower))).events[0].kind == "accepted"
        assert (await store.read(HERE)).events[2].text == "x" * 100_000
