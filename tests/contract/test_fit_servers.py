"""Receipts are given only on servers that keep what they accept, whenever that changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.contract.redis_desk import accepted, channel, has_replica, leased, said, store_on
from tests.contract.suite.desk import answer
from tests.patience import PATIENCE
from tests.services import RedisCluster, RedisServer, eventually
from tests.services.process import HOST
from tests.services.tcp_proxy import TcpProxy
from turnkeep.errors import OutcomeUnknown, Rejection, StoreMisconfigured, StoreUnfit
from turnkeep.events import TurnFault
from turnkeep.messages import AssistantItem, text_content
from turnkeep.store.redis import RedisStore, server_fitness
from turnkeep.store.redis.durability import DURABLE_SCRIPTS, NOT_DURABLE_SCRIPTS
from turnkeep.store.redis.key_names import operation_scripts
from turnkeep.store.redis.server_fitness import Demands, Server, trouble_with
from turnkeep.store.shared_ledger import Limit
from turnkeep.store.values import Decision, Failure, HeldCall, TranscriptEntry

pytestmark = pytest.mark.usefixtures("redis_installed")

HERE = channel("here")
EVICTING = ("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
KEEPING = ("CONFIG", "SET", "maxmemory-policy", "noeviction")


@pytest.fixture
def at_every_receipt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_fitness, "EVERY", 0.0)


def server(policy: str = "noeviction", *, log: bool = True, fsync: str = "everysec", replicas: int = 0) -> Server:
    return Server("redis 7.0", (7, 0), policy, has_log=log, fsync=fsync, replicas=replicas)


@pytest.mark.parametrize(
    ("seen", "demands", "replicas", "sentence"),
    [
        (server(), Demands("single"), 0, None),
        (server("allkeys-lru"), Demands("single"), 0, "noeviction"),
        (server("allkeys-lru"), Demands("single", "fast"), 0, "noeviction"),
        (server("volatile-ttl"), Demands("single", allow_unsafe=True), 0, None),
        (server(log=False), Demands("single"), 0, "appendonly"),
        (server(log=False), Demands("single", "fast"), 0, None),
        (server(), Demands("single", "strict"), 0, "cannot keep"),
        (server(fsync="always"), Demands("single", "strict"), 0, None),
        (server(fsync="always"), Demands("single", "strict", 1), 1, "needs 1 replicas"),
        (server(replicas=1), Demands("single", "strict"), 1, None),
        (server(replicas=1), Demands("single", "strict", 2), 2, "needs 2 replicas"),
        (server(replicas=0), Demands("sentinel", "strict"), 1, "needs 1 replicas"),
    ],
)
def test_what_is_asked_of_a_server_is_said(seen: Server, demands: Demands, replicas: int, sentence: str | None) -> None:
    trouble = trouble_with(seen, "here", demands, replicas)

    assert trouble is None if sentence is None else trouble is not None and sentence in trouble


def test_every_script_is_vouched_for_or_says_why_not() -> None:
    scripts = set(operation_scripts("PUBLISH"))

    assert DURABLE_SCRIPTS | set(NOT_DURABLE_SCRIPTS) == scripts
    assert not DURABLE_SCRIPTS & set(NOT_DURABLE_SCRIPTS)


@pytest.mark.usefixtures("at_every_receipt")
@pytest.mark.parametrize(
    ("spoil", "repair"),
    [(EVICTING, KEEPING), (("CONFIG", "SET", "appendonly", "no"), ("CONFIG", "SET", "appendonly", "yes"))],
    ids=["evicts", "no log"],
)
async def test_a_server_that_becomes_unfit_gives_no_receipt_until_it_is_fit_again(
    spoil: tuple[str, ...], repair: tuple[str, ...]
) -> None:
    async with RedisServer() as server, store_on(server.url()) as store:
        claim = await leased(store, HERE, "m1")
        server.cli(*spoil)

        with pytest.raises(StoreUnfit):
            await store.accept([said(HERE, "m2")])
        with pytest.raises(StoreUnfit):
            await store.begin([said(channel("other"), "m1")], owner="w", lease=30.0)
        with pytest.raises(StoreUnfit):
            await store.check()
        assert (await store.commit(claim, answer(claim))).messages == 0, "runs in progress end"

        server.cli(*repair)
        await accepted(store, said(HERE, "m2"))
        assert (await store.check())["engine"] == "redis"


async def test_a_server_that_comes_back_unfit_gives_no_receipt() -> None:
    """Somebody changed its configuration meanwhile; it is looked at when it is connected to."""
    async with RedisServer() as server, store_on(server.url(), timeout=2.0) as store:
        await accepted(store, said(HERE, "m1"))
        server.kill9()
        server._config["maxmemory-policy"] = "allkeys-lru"
        path = server.directory / "server.conf"
        path.unlink()
        await asyncio.to_thread(server.start)

        with pytest.raises(StoreUnfit, match="noeviction"):
            await store.accept([said(HERE, "m2")])


@pytest.mark.slow
@pytest.mark.usefixtures("at_every_receipt")
async def test_every_node_of_a_cluster_has_to_be_fit() -> None:
    async with RedisCluster() as cluster:
        url = cluster.url()
        async with store_on(url) as store:
            nodes = {endpoint.port for endpoint in await store._servers(store._link)}
            for node in [node for node in cluster.nodes if node.port in nodes]:
                node.cli(*EVICTING)
                with pytest.raises(StoreUnfit, match=str(node.port)):
                    await store.check()
                with pytest.raises(StoreMisconfigured, match=str(node.port)):
                    async with store_on(url):
                        pass
                refused = 0
                for n in range(40):
                    try:
                        await store.accept([said(channel(f"c{n}"), "m1")])
                    except StoreUnfit:
                        refused += 1
                assert 0 < refused < 40, "the other nodes go on"
                node.cli(*KEEPING)
            await store.check()


# ---------------------------------------------------------------- strict

Act = Callable[[RedisStore], Awaitable[object]]


@asynccontextmanager
async def joined_by_a_replica() -> AsyncIterator[tuple[RedisStore, TcpProxy]]:
    """A strict store that was opened on a primary alone, and the way by which a replica has come since."""
    async with (
        RedisServer(appendonly="always") as primary,
        TcpProxy(HOST, primary.port) as way,
        store_on(primary.url(), durability="strict", timeout=1.0) as store,
    ):
        await accepted(store, said(HERE, "m1"))
        async with RedisServer(config={"replicaof": f"{HOST} {way.port}", "repl-timeout": "600"}):
            await asyncio.to_thread(eventually, lambda: has_replica(primary), PATIENCE, "the replica to connect")
            yield store, way


@pytest.mark.usefixtures("at_every_receipt")
async def test_a_replica_that_came_after_the_start_is_waited_for() -> None:
    async with joined_by_a_replica() as (store, way):
        way.blackhole()

        with pytest.raises(OutcomeUnknown, match="WAIT"):
            await store.accept([said(HERE, "m2")])


async def test_a_replica_that_came_a_moment_ago_is_waited_for() -> None:
    """However short ago the server was looked at."""
    async with joined_by_a_replica() as (store, way):
        for sight in store._fitness._sights.values():
            sight.at, sight.most = asyncio.get_running_loop().time(), 0
        way.blackhole()

        with pytest.raises(OutcomeUnknown, match="WAIT"):
            await store.accept([said(HERE, "m2")])


@pytest.mark.usefixtures("at_every_receipt")
async def test_fewer_replicas_than_once_seen_are_refused_at_once() -> None:
    async with RedisServer() as primary, RedisServer(replicaof=primary) as replica:
        await asyncio.to_thread(eventually, lambda: has_replica(primary), PATIENCE, "the replica to connect")
        async with store_on(primary.url(), durability="strict", timeout=20.0) as store:
            await accepted(store, said(HERE, "m1"))
            await asyncio.to_thread(replica.kill9)
            await asyncio.to_thread(eventually, lambda: not has_replica(primary), PATIENCE, "the replica to be missed")

            with pytest.raises(StoreUnfit, match="1 replicas"):
                await store.accept([said(HERE, "m2")])
            assert await store.message(HERE, "m2") is None

            await asyncio.to_thread(replica.start)
            await asyncio.to_thread(eventually, lambda: has_replica(primary), PATIENCE, "the replica to connect")
            await accepted(store, said(HERE, "m2"))


async def test_strict_with_a_number_of_replicas_does_not_start_with_fewer() -> None:
    async with RedisServer(appendonly="always") as primary:
        with pytest.raises(StoreMisconfigured, match="2 replicas"):
            async with store_on(primary.url(), durability="strict", replicas=2):
                pass


async def test_whoever_is_answered_under_strict_was_heard_by_the_replica() -> None:
    """Every operation whose answer somebody relies on; what the replica has not heard is told as unknown."""
    async with RedisServer() as primary, RedisServer(replicaof=primary) as replica:
        await asyncio.to_thread(eventually, lambda: has_replica(primary), PATIENCE, "the replica to connect")
        async with (
            store_on(primary.url(), prefix="s:", durability="strict", timeout=0.3) as store,
            store_on(primary.url(), prefix="s:") as plain,
        ):
            acts = await prepared(plain)
            await asyncio.to_thread(replica.freeze)
            ends = {}
            for name, act in acts.items():
                try:
                    ends[name] = f"answered {await act(store)!r}"
                except OutcomeUnknown:
                    continue
                except Rejection as refused:
                    ends[name] = repr(refused)
            await asyncio.to_thread(replica.thaw)

    assert ends == {}


async def prepared(plain: RedisStore) -> dict[str, Act]:
    """An act of each kind, and what it needs."""
    claims = {
        name: await leased(plain, channel(name), "m1") for name in ("commit", "journal", "fail", "hold", "cancel")
    }
    for name in ("withdraw", "edit", "forget", "flush"):
        await accepted(plain, said(channel(name), "m1", window=60.0, max_wait=60.0))
    letter_of = await leased(plain, channel("redrive"), "m1")
    await plain.fail(letter_of, Failure(TurnFault("a", "b", "c"), None))
    dropped = await leased(plain, channel("discard"), "m1")
    await plain.fail(dropped, Failure(TurnFault("a", "b", "c"), None))
    letters = {letter.address.channel: letter.dead_id for letter in await plain.dead()}
    decided = await leased(plain, channel("decide"), "m1")
    call = HeldCall("call_1", "pay", "{}", "digest")
    await plain.hold(decided, [call], expires_in=600.0)
    await plain.append(channel("update"), [TranscriptEntry(AssistantItem("x"))])
    await plain.pause(channel("resume"))
    await plain.reserve("run", 1, [Limit("account", 10, 60.0)], tenant="t")
    partitions = await plain.open_sink("there")
    await accepted(plain, said(channel("parked"), "m1"))
    [(place, position)] = [
        (place, one.position)
        for place in partitions
        for one in await plain.deliveries("there", place, after="", limit=1)
    ]
    await plain.lease_sink("there", place, owner="w", lease=600.0)
    return {
        "accept": lambda s: s.accept([said(channel("accept"), "m1")]),
        "begin": lambda s: s.begin([said(channel("begin"), "m1")], owner="w", lease=30.0),
        "journal": lambda s: s.journal(claims["journal"], [{"n": 0}]),
        "commit": lambda s: s.commit(claims["commit"], answer(claims["commit"])),
        "fail": lambda s: s.fail(claims["fail"], Failure(TurnFault("a", "b", "c"), 1.0)),
        "hold": lambda s: s.hold(claims["hold"], [call], expires_in=600.0),
        "cancel": lambda s: s.cancel(channel("cancel")),
        "withdraw": lambda s: s.withdraw(channel("withdraw"), "m1"),
        "edit": lambda s: s.edit(channel("edit"), "m1", text_content("new")),
        "flush": lambda s: s.flush(channel("flush")),
        "forget": lambda s: s.forget(channel("forget"), force=True),
        "redrive": lambda s: s.redrive(letters["redrive"]),
        "redrive again": lambda s: s.redrive(letters["redrive"]),
        "discard": lambda s: s.discard(letters["discard"]),
        "decide": lambda s: s.decide(channel("decide"), "call_1", "digest", Decision("approved")),
        "append": lambda s: s.append(channel("append"), [TranscriptEntry(AssistantItem("x"))]),
        "update": lambda s: s.update(channel("update"), {"metadata": {"a": "b"}}),
        "pause": lambda s: s.pause(channel("pause")),
        "resume": lambda s: s.resume(channel("resume")),
        "create": lambda s: s.thread(channel("create"), create=True),
        "put": lambda s: s.put("key", "t", "k", {"revoked": True}),
        "take": lambda s: s.take("key", "t", "k"),
        "settle": lambda s: s.settle("run", 1, tenant="t"),
        "open_sink": lambda s: s.open_sink("sink"),
        "delivered": lambda s: s.mark_delivered(
            "there", place, owner="w", position=position, to_park=[(position, "bad")]
        ),
        "note_failure": lambda s: s.note_failure("there", place, position, reason="worse", give_up=True),
        "redrive_parked": lambda s: s.redrive_parked("there", place, [position]),
        "unpark": lambda s: s.unpark("there", place, [position]),
        "close_sink": lambda s: s.close_sink("there"),
    }
