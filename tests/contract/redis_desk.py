"""What tests of the Redis engine share: stores on a server, and a life of a thread that touches every operation."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, TypeVar

import pytest

from tests.patience import PATIENCE
from tests.services import RedisSentinel, RedisServer
from turnkeep.clock import Clock
from turnkeep.errors import Rejection
from turnkeep.events import Event, TurnFault
from turnkeep.messages import Address, AssistantItem, Message, UserItem, text_content
from turnkeep.store.redis import RedisStore
from turnkeep.store.shared_ledger import Limit
from turnkeep.store.values import (
    Claim,
    Commit,
    Decision,
    Directive,
    Failure,
    HeldCall,
    Policies,
    Policy,
    Receipt,
    TranscriptEntry,
)
from turnkeep.usage import Usage

T = TypeVar("T")
Step = Callable[[Awaitable[T]], Awaitable[T]]

POLICIES = Policies(Policy(window=0.0, max_inbox=1000))
LEASE = 300.0
FAULT = TurnFault("model_unavailable", "try again", "503")
COST = Usage(requests=1, input_tokens=3, cost_nano=5)

_namespaces = map("n{}:".format, count())


def channel(name: str, tenant: str = "t", queue: str = "q") -> Address:
    return Address(tenant, queue, name)


def said(where: Address, message_id: str, text: str = "hello", **fields: Any) -> Message:
    return Message(where, message_id, text_content(text), **fields)


@asynccontextmanager
async def store_on(
    url: str,
    *,
    policies: Policies = POLICIES,
    prefix: str | None = None,
    timeout: float = PATIENCE,
    clock: Clock | None = None,
    **options: Any,
) -> AsyncIterator[RedisStore]:
    """An open store, closed in the end; in a namespace of its own unless one is given."""
    store = RedisStore(url, policies, prefix=prefix or next(_namespaces), now=clock, **options)
    store.timeout = timeout
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def scripts_of(store: RedisStore, monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """Grows with each of these scripts that is run."""
    scripts: list[str] = []
    link = store._link
    run, tell = link.run, link.tell

    def counted(name: str, *arguments: Any, **options: Any) -> Any:
        scripts.extend([name] if name in names else [])
        return run(name, *arguments, **options)

    def told(name: str, *arguments: Any) -> None:
        scripts.extend([name] if name in names else [])
        tell(name, *arguments)

    monkeypatch.setattr(link, "run", counted)
    monkeypatch.setattr(link, "tell", told)
    return scripts


async def accepted(store: RedisStore, message: Message) -> Receipt:
    [outcome] = await store.accept([message])
    if isinstance(outcome, Rejection):
        raise outcome
    return outcome


async def leased(store: RedisStore, where: Address, *message_ids: str, owner: str = "w") -> Claim:
    """These messages, taken by a worker."""
    for message_id in message_ids:
        await accepted(store, said(where, message_id))
    claims = await store.claim(owner=owner, limit=1000, lease=LEASE)
    return next(claim for claim in claims if claim.address == where)


def answer(claim: Claim, text: str = "answer") -> Commit:
    asked = [TranscriptEntry(UserItem(m.content, m.message_id), 1) for m in claim.messages]
    return Commit("completed", text, [*asked, TranscriptEntry(AssistantItem(text), 1)], COST, "model")


async def live(store: RedisStore, where: Address, step: Step[Any]) -> list[Any]:  # noqa: PLR0915  # one life
    """A life in which every operation that changes something happens; `step` makes each of them. What they said."""
    told: list[Any] = []

    async def do(operation: Awaitable[T]) -> T:
        outcome: T = await step(operation)
        told.append(outcome)
        return outcome

    async def claim() -> Claim:
        [taken] = await do(store.claim(owner="w", limit=10, lease=LEASE))
        return taken

    call = HeldCall("call_1", "pay", "{}", "d1")
    await do(store.accept([said(where, "m1", minted=True), said(where, "m2", minted=True)]))
    first = await claim()
    await do(renewed(store, first))
    await do(store.journal(first, [{"n": 0, "kind": "note"}]))
    await do(store.publish(first, 0, [Event("delta", text="a", attempt=1), Event("delta", text="b", attempt=1)]))
    await do(store.accept([said(where, "m3", minted=True, on_busy="steer"), said(where, "m4", minted=True)]))
    offered = await do(store.offer_steering(first))
    await do(store.journal(first, [{"n": 1, "steered_through": offered[-1].seq}]))
    await do(store.withdraw(where, "m4"))
    await do(store.hold(first, [call], expires_in=600.0))
    await do(store.decide(where, "call_1", "d1", Decision("approved", by="ann")))
    second = await claim()
    await do(store.commit(second, answer(second)))
    await do(store.pause(where))
    await do(store.accept([said(where, "m5", minted=True)]))
    await do(store.edit(where, "m5", text_content("other words")))
    await do(store.resume(where))
    third = await claim()
    await do(store.release(third, reason=FAULT))
    fourth = await claim()
    await do(store.fail(fourth, Failure(FAULT, 0.0, usage=COST)))
    await do(store.cancel(where))
    fifth = await claim()
    await do(store.fail(fifth, Failure(FAULT, None, effects=True)))
    [letter] = await store.dead()
    await do(store.redrive(letter.dead_id))
    await do(store.cancel(where, drop_inbox=True))
    await do(store.append(where, [TranscriptEntry(UserItem(text_content("and"), "x"), 1)], author="ann"))
    [again] = await do(store.regenerate(where))
    await do(store.withdraw(where, again.message_id))
    await do(store.update(where, {"metadata": {"a": "1"}, "ttl": 100_000.0}))
    await do(store.compact(where, through_turn=1, summary="before"))
    begun = await do(store.begin([said(where, "m6")], owner="w", lease=LEASE))
    await do(store.commit(begun, answer(begun)))
    await do(store.put("assistant", "t", "a", {"model": "x"}, version=0))
    await do(store.put("assistant", "t", "a", {"model": "y"}, version=1))
    await do(store.take("assistant", "t", "a"))
    await do(store.reserve("run", 5, [Limit("day", 10, 60.0)], tenant="t"))
    await do(store.settle("run", 3, tenant="t"))
    return told


async def renewed(store: RedisStore, claim: Claim) -> list[Directive]:
    return list((await store.renew(claim.owner, [claim], lease=LEASE)).values())


async def seen(store: RedisStore, where: Address) -> dict[str, Any]:
    """What is left of a life."""
    return {
        "thread": await store.thread(where),
        "open": await store.open_messages(where),
        "runs": await store.runs(where),
        "history": await store.history(where),
        "log": await store.read(where, limit=10_000),
        "messages": [await store.message(where, f"m{n}") for n in range(1, 7)],
        "counts": await store.counts(),
        "dead": await store.dead(),
        "spend": await store.spend("day", tenant="t"),
    }


def has_replica(primary: RedisServer) -> bool:
    return "state=online" in primary.cli("INFO", "REPLICATION")


def sentinel_url(group: RedisSentinel) -> str:
    hosts = ",".join(f"{host}:{port}" for host, port in group.addresses)
    return f"redis+sentinel://{hosts}/{group.service}/0"
