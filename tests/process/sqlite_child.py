"""A process beside the test, on the same store file: python -m tests.process.sqlite_child VERB PATH [ARGUMENT …].

It says each thing on a line of its own once the store has acknowledged it, so that a test can kill it at any moment.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from contextlib import suppress
from itertools import count
from pathlib import Path

from tests.contract.suite.desk import answer, at, delta, said
from turnkeep.errors import LeaseLost, StoreError, StoreFull
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.values import Claim, Policies, Policy

LEASE = 600.0
"""Longer than any test: what is freed sooner is not freed by its end."""


def tell(*words: object) -> None:
    print(*words, flush=True)


async def accept(store: SqliteStore, prefix: str) -> None:
    """Send messages without end, on a few channels."""
    for n in count():
        message = said(f"{prefix}-{n}", where=at(f"c{n % 5}"))
        await store.accept([message])
        tell("accepted", message.message_id)


async def work(store: SqliteStore, owner: str) -> None:
    """Answer whatever comes, a few deltas each."""
    while True:
        for claim in await store.claim(owner=owner, limit=3, lease=LEASE):
            with suppress(LeaseLost):
                await store.publish(claim, 0, [delta(f"{n} ") for n in range(3)])
                await store.commit(claim, answer(claim))
                tell("answered", *claim.message_ids)
        await store.ready(queues=None, timeout=1.0)


async def hold(store: SqliteStore, owner: str) -> None:
    """Take all there is, and never finish."""
    claims = await store.claim(owner=owner, limit=100, lease=LEASE)
    tell("holding", *[claim.address.channel for claim in claims])
    await asyncio.sleep(LEASE)


async def publish(store: SqliteStore, owner: str, deltas: str) -> None:
    """One run, token by token."""
    [claim] = await store.claim(owner=owner, limit=1, lease=LEASE)
    for n in range(int(deltas)):
        await store.publish(claim, n, [delta(f"{n} ")])
    await store.commit(claim, answer(claim))
    tell("answered", *claim.message_ids)


async def fork(store: SqliteStore) -> None:
    """Use the store in a forked process."""
    child = os.fork()
    if child == 0:
        try:
            await store.thread(at("c0"))
        except StoreError as error:
            tell(type(error).__name__, error)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    if status:
        sys.exit(f"the forked process ended with {os.waitstatus_to_exitcode(status)}")
    await store.accept([said("m1")])
    tell("accepted m1")


async def fill(store: SqliteStore) -> None:
    """Fill the disk under a run in progress, end the run, and make room again."""
    [first] = await _claimed(store, "first")
    stuffing = store.path.with_name("stuffing")
    try:
        with stuffing.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError as error:
        tell("full", os.strerror(error.errno or 0))
    await _until_refused(store)
    await store.publish(first, 0, [delta("x" * 1000) for _ in range(100)])
    await store.commit(first, answer(first, "y" * 100_000))
    tell("answered", *first.message_ids)
    stuffing.unlink()
    await _until_taken(store)


async def _claimed(store: SqliteStore, message_id: str) -> list[Claim]:
    await store.accept([said(message_id, where=at("run"), window=0.0)])
    return await store.claim(owner="worker", limit=1, lease=LEASE)


async def _until_refused(store: SqliteStore) -> None:
    for n in count():
        try:
            await store.accept([said(f"long-{n}", "x" * 100_000, where=at(f"c{n}"))])
        except StoreFull as error:
            tell("refused", n, error)
            return
        tell("accepted", f"long-{n}")


async def _until_taken(store: SqliteStore) -> None:
    while True:
        with suppress(StoreFull):
            await store.accept([said("last", where=at("last"))])
            tell("accepted last")
            return
        await asyncio.sleep(0.05)


VERBS = {"accept": accept, "work": work, "hold": hold, "publish": publish, "fork": fork, "fill": fill}


async def main(verb: str, path: str, *arguments: str) -> None:
    policy = Policy(window=0.0, max_inbox=1_000_000)
    store = SqliteStore(Path(path), Policies(policy), ballast=1_000_000 if verb == "fill" else 0)
    await store.open()
    tell("open")
    await VERBS[verb](store, *arguments)  # type: ignore[operator]  # each verb takes its own arguments
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
