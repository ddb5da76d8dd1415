"""What an answer waits for: a server that is fit, and with `strict` that the write is safe.

WAIT and WAITAOF speak of the writes of their own connection, and block it. So there is a connection
of their own per server, on which a small write follows what it is to vouch for; callers that come
meanwhile share the next round. A server vouches only for what was written to it while it was the
same process: one that took its place, or came back after a crash, may never have seen it. How many
replicas there are is asked in each round: one that came a moment ago counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from turnkeep.errors import OutcomeUnknown, StoreError
from turnkeep.store.redis.client.dialing import ServerAddress, open_pipe
from turnkeep.store.redis.client.link import Link
from turnkeep.store.redis.client.pipe import Pipe, Refusal, Reply
from turnkeep.store.redis.server_fitness import Fitness, how_to_wait, replicas_in, values

RECEIPTS = frozenset(("accept", "begin", "redrive"))
"""Scripts that promise to keep something new: not on a server that could lose it."""

DURABLE_SCRIPTS = RECEIPTS | {
    "answer", "append", "cancel", "commit", "compact", "decide", "discard", "edit", "fail", "flush", "forget",
    "hold", "journal", "pause", "put", "redriven", "regenerate", "resume", "settle", "sink_close", "sink_delivered",
    "sink_failed", "sink_open", "sink_redrive", "sink_unpark", "take", "update", "wipe", "withdraw",
}  # fmt: skip
"""Scripts whose answer somebody relies on: a person, a run before it acts, a forwarder that goes on
from its memory.
"""

_READS = (
    "circuits", "counts", "get", "history", "leases", "message", "open", "read", "ready", "runs", "sink_list",
    "sink_parked", "spend",
)  # fmt: skip

NOT_DURABLE_SCRIPTS: Mapping[str, str] = {
    **dict.fromkeys(_READS, "reads"),
    **dict.fromkeys(("publish", "publish_long"), "a delta: when it is lost the epoch changes"),
    **dict.fromkeys(
        ("claim", "offer_steering", "orphan", "release", "renew", "sink_lease", "typing"),
        "when it is lost the lease or the window ends as before, and is taken again",
    ),
    **dict.fromkeys(
        ("mend", "note_ledger", "pace", "probe", "reserve", "slow_down", "trip", "charge"),
        "an estimate that corrects itself",
    ),
    **dict.fromkeys(
        ("age", "audit", "clock", "greet", "quarantine", "rebuild", "sweep", "tidy"), "done again by the next who comes"
    ),
    "sink_copy": "copied again by whoever goes on with the copy, and counted before it is used",
    "announce": "a hint: what is remembered is believed for a second at most",
    "sink_read": "reads; where it finds something, `RedisEvents.deliveries` waits",
    "thread": "reads; where it creates, `RedisPart._durable_writes` waits",
}
"""The other scripts, with the reason."""

_WRITE = "redis.call('DEL', KEYS[1]) redis.call('SET', KEYS[1], '1', 'PX', 60000)"
"""Frees before it writes, so that a full server vouches too."""


class WriteObserver(NamedTuple):
    """Where a key was before anything was written, and on which process, if that matters."""

    key: bytes
    endpoint: ServerAddress
    server: bytes | None
    is_receipt: bool


class _Round:
    """One wait that several callers share."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.requests = 0
        self.safe = 0
        self.doubtful = 0
        self.pipe: Pipe | None = None
        self.server = b""


class DurabilityWait:
    """What answers wait for, in one place for all scripts (see `Link.run`)."""

    def __init__(self, link: Link, fitness: Fitness, timeout: float) -> None:
        self._link = link
        self._fitness = fitness
        self._timeout = timeout
        self.is_strict = fitness.demands.durability == "strict"
        self._rounds: dict[ServerAddress, _Round] = {}
        self.concerns = DURABLE_SCRIPTS if self.is_strict else RECEIPTS
        """Scripts before and after which there is something to do."""

    async def before(self, name: str, key: bytes) -> WriteObserver:
        """Who has to vouch for the next write. Raises `StoreUnfit` where none may be."""
        is_receipt = name in RECEIPTS
        # Asked before the write: after it, whoever is at that address may be another process that
        # never saw it.
        endpoint, server = await self._link.holder(key)
        if is_receipt:
            await self._fitness.require(endpoint, self._link)
        return WriteObserver(key, endpoint, server if self.is_strict else None, is_receipt)

    async def after(self, witness: WriteObserver) -> None:
        """Return when what was written meanwhile is safe; raises `OutcomeUnknown`."""
        if witness.server is not None:
            await self._vouch(witness, witness.server)
            # The old primary may have vouched to itself while the slot or the title went elsewhere.
            if self._link.topology.cached_server(witness.key) != witness.endpoint:
                raise OutcomeUnknown(
                    f"another server took the place of {witness.endpoint} meanwhile; it is safe to repeat"
                )
        if witness.is_receipt:
            endpoint = self._link.topology.cached_server(witness.key) or witness.endpoint
            if (trouble := self._fitness.trouble(endpoint)) is not None:
                raise OutcomeUnknown(f"{trouble}; what was written before that was seen is safe to repeat")

    async def _vouch(self, witness: WriteObserver, server: bytes) -> None:
        endpoint = witness.endpoint
        wait_round = self._rounds.setdefault(endpoint, _Round())
        wait_round.requests += 1
        mine = wait_round.requests
        async with wait_round.lock:
            # Somebody else started a round after this write: it covers it.
            if wait_round.safe >= mine and wait_round.server == server:
                return
            if wait_round.doubtful >= mine:
                raise OutcomeUnknown(f"{endpoint} did not vouch for what was written; it is safe to repeat")
            # Read under the lock, before the wait: whoever comes during it may
            # have written too late.
            until = wait_round.requests
            try:
                await self._wait_once(wait_round, witness)
            except OutcomeUnknown:
                wait_round.doubtful = until  # for all who waited for it, else each would wait as long behind the others
                raise
            if wait_round.server != server:
                raise OutcomeUnknown(f"{endpoint} is another server than before; it is safe to repeat")
            wait_round.safe = until

    async def _wait_once(self, wait_round: _Round, witness: WriteObserver) -> None:
        endpoint = witness.endpoint
        try:
            if wait_round.pipe is None or not wait_round.pipe.is_open:
                wait_round.pipe = await open_pipe(self._link.dialer, endpoint, timeout=self._timeout * 2)
                wait_round.server = wait_round.pipe.server
            write = wait_round.pipe.send("EVAL", _WRITE, 1, _fence_beside(witness.key))
            replication = wait_round.pipe.send("INFO", "replication")
            replicas = self._fitness.replicas
            obstacle = await self._wait_for_write(wait_round.pipe, endpoint, replicas)
            if not isinstance(info := await replication, Refusal):
                self._fitness.saw_replicas(endpoint, replicas_in(values(info)))
            # A replica joined since the last look: the promise is to have been heard by as many as
            # there are.
            if self._fitness.replicas > replicas:
                obstacle = obstacle or await self._wait_for_write(wait_round.pipe, endpoint, self._fitness.replicas)
            if isinstance(wrote := await write, Refusal):
                obstacle = obstacle or str(wrote)
        except StoreError as loss:
            raise OutcomeUnknown(f"nobody vouches for what was written: {loss}") from loss
        if obstacle:
            raise OutcomeUnknown(f"what was written is not safe yet ({obstacle}); it is safe to repeat")

    async def _wait_for_write(self, pipe: Pipe, endpoint: ServerAddress, replicas: int) -> str:
        """Wait until all that was written on this pipe is safe; what stands in the way of it."""
        wait = how_to_wait(self._fitness.server(endpoint), replicas)
        if not wait:
            return "there is neither a replica nor a log to wait for"
        if wait == ("",):
            return ""
        # The server gives up first: the pipe of this round waits twice as long,
        # so the count arrives.
        reply: Reply = await pipe.send(*wait, int(self._timeout * 1000))
        if isinstance(reply, Refusal):
            return f"{wait[0]} said {reply}"
        counts = reply if isinstance(reply, list) else [reply]
        enough = all(f >= int(w) for f, w in zip(counts, wait[1:], strict=True))
        return "" if enough else f"{' '.join(wait)} said {reply}"

    def close(self) -> None:
        for wait_round in self._rounds.values():
            if wait_round.pipe is not None:
                wait_round.pipe.close("the store is closed")


def _fence_beside(key: bytes) -> bytes:
    """A key on the same server as this one, to be written where one waits."""
    return key[: key.index(b"}") + 1] + b"fence"
