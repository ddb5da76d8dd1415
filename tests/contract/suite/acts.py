"""What anybody may do with a store, one act for each way to call an operation, and the worlds in which it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from turnkeep.events import Event, TurnFault
from turnkeep.messages import Address, AssistantItem, Message, UserItem, text_content
from turnkeep.store.contract import Store
from turnkeep.store.inbox_view import InboxView
from turnkeep.store.shared_ledger import Limit
from turnkeep.store.sinks import Selection
from turnkeep.store.values import (
    Claim,
    Commit,
    Decision,
    Failure,
    HeldCall,
    Publication,
    ThreadOptions,
    TranscriptEntry,
    top_of,
)

LEASE = 30.0
FAULT = TurnFault("model_unavailable", "please try again", "status 503")
CALL = HeldCall("call_1", "pay", "{}", "d1")
LIMITS = (Limit("day", 100, 1_000_000.0),)


@dataclass(slots=True)
class World:
    """What one triple is played with: a tenant, a queue and names that nobody else uses."""

    store: Store
    name: str
    claim: Claim | None = None
    dead_id: str = ""
    parked: tuple[int, str] | None = None
    """Partition and position of an event that its receiver has failed on."""

    @property
    def where(self) -> Address:
        return Address(f"t{self.name}", f"q{self.name}", "c")

    def said(self, message_id: str, **wishes: Any) -> Message:
        return Message(self.where, message_id, text_content(f"text of {message_id}"), **wishes)

    @property
    def sink_parked(self) -> tuple[str, int]:
        return self.where_parked[:2]

    @property
    def where_parked(self) -> tuple[str, int, str]:
        partition, position = self.parked or (0, "")
        return f"s{self.name}", partition, position

    @property
    def owned(self) -> Claim:
        """The claim that is out; where there is none, one that nobody ever had."""
        owner = f"w{self.name}"
        return self.claim or Claim(self.where, "thread_0", "run_0", "no token", 1, owner, 1, 0.0, (self.said("m9"),))


async def taken(world: World, message_id: str) -> Claim:
    """A message, claimed."""
    await world.store.accept([world.said(message_id)])
    await world.store.flush(world.where)
    return await claimed(world)


async def claimed(world: World) -> Claim:
    [claim] = await world.store.claim(owner=f"w{world.name}", limit=1, lease=LEASE, queues=[world.where.queue])
    return claim


def done(claim: Claim, text: str = "answer") -> Commit:
    asked = [TranscriptEntry(UserItem(m.content, m.message_id), 1) for m in claim.messages]
    return Commit("completed", text, [*asked, TranscriptEntry(AssistantItem(text), 1)])


# ---------------------------------------------------------------- states

State = Literal["idle", "waiting", "leased", "retry", "held", "paused"]


async def bring(world: World, state: State, *, has_sink: bool) -> None:
    """A thread with a past, a dead letter, records beside it, and then a state."""
    store, where = world.store, world.where
    if has_sink:
        await store.open_sink(f"s{world.name}")
    await store.fail(await taken(world, "m0"), Failure(FAULT, None))
    [letter] = await store.dead(tenant=where.tenant)
    world.dead_id = letter.dead_id
    first = await taken(world, "m1")
    await store.commit(first, done(first))
    await store.put("assistant", where.tenant, "a", {"v": 1})
    await store.trip(f"e{world.name}", FAULT, probe_in=0.0)
    await store.reserve("r1", 5, LIMITS, tenant=where.tenant)
    if state == "waiting":
        await store.accept([world.said("m2")])
    elif state == "paused":
        await store.pause(where)
    elif state != "idle":
        world.claim = await taken(world, "m2")
        await store.accept([world.said("m3")])
    if has_sink:
        await _park(world)
    if state == "retry":
        await store.fail(world.owned, Failure(FAULT, 60.0))
    elif state == "held":
        await store.hold(world.owned, [CALL], expires_in=600.0)


async def _park(world: World) -> None:
    """The receiver of the sink fails on the first event."""
    store, sink = world.store, f"s{world.name}"
    for partition in await partitions_of(store):
        for delivery in await store.deliveries(sink, partition, after="", limit=100_000):
            if world.parked is None and delivery.address == world.where:
                place = delivery.position
                await store.lease_sink(sink, partition, owner="one", lease=LEASE)
                await store.mark_delivered(sink, partition, owner="one", position=place, to_park=[(place, "refused")])
                world.parked = (partition, place)


async def partitions_of(store: Store) -> Sequence[int]:
    return await store.open_sink("of nobody", Selection("nobody"))


# ---------------------------------------------------------------- acts

Do = Callable[[World, "str | None"], Awaitable[Any]]


class Act(NamedTuple):
    """One way to call an operation, and the states in which it does something."""

    operation: str
    states: Sequence[State]
    do: Do


def _act(operation: str, *states: State, **arguments: Any) -> Act:
    """An act on the channel alone, by its name."""

    def do(world: World, once: str | None) -> Awaitable[Any]:
        call: Awaitable[Any] = getattr(world.store, operation)(world.where, **arguments, once=once)
        return call

    return Act(operation, states, do)


def _change(body: Mapping[str, Any], version: int | None = None) -> Do:
    return lambda w, once: w.store.put("assistant", w.where.tenant, "a", body, version=version, once=once)


SAID = [TranscriptEntry(UserItem(text_content("hm"), "x"), 1), TranscriptEntry(AssistantItem("so"), 1)]
CHANGES = {"metadata": {"a": "1"}, "assistant": "asst_1", "options": ThreadOptions(window=4.0), "ttl": 9_000_000.0}


async def _lease_sink(world: World) -> bool:
    """Positions are each engine's own."""
    return await world.store.lease_sink(f"s{world.name}", 0, owner="one", lease=LEASE) is not None


async def _publish_together(world: World) -> int:
    events = [Event("delta", text="a"), Event("delta", text="b")]
    return top_of(await world.store.publish_many([Publication(world.owned, 0, events)]))


async def _answer_as_a_person(world: World, once: str | None) -> None:
    """A person answers what waits; who repeats it has read the inbox anew."""
    record = await world.store.thread(world.where)
    waiting = [one.message for one in await world.store.open_messages(world.where) if one.status == "waiting"]
    asked = tuple(TranscriptEntry(UserItem(one.content, one.message_id), 1) for one in waiting if one is not None)
    inbox = InboxView(asked, record.top, record.thread_id) if record is not None and asked else None
    await world.store.append(world.where, SAID[1:], author="ann", inbox=inbox, once=once)


async def _renew(world: World, once: str | None) -> Any:
    claim = world.owned
    return list((await world.store.renew(claim.owner, [claim], lease=LEASE, once=once)).values())


ACTS: Mapping[str, Act] = {
    "accept": Act("accept", ("idle", "leased"), lambda w, _: w.store.accept([w.said("x1")])),
    "accept delayed": Act("accept", ("waiting",), lambda w, _: w.store.accept([w.said("x1", not_before=4e9)])),
    "interrupt": Act("accept", ("leased", "held"), lambda w, _: w.store.accept([w.said("x1", on_busy="interrupt")])),
    "steer": Act("accept", ("leased",), lambda w, _: w.store.accept([w.said("x1", on_busy="steer")])),
    "renew": Act("renew", ("leased",), _renew),
    "offered": Act("offer_steering", ("leased",), lambda w, _: w.store.offer_steering(w.owned)),
    "journal": Act("journal", ("leased",), lambda w, _: w.store.journal(w.owned, [{"n": 0, "kind": "note"}])),
    "publish": Act("publish", ("leased",), lambda w, _: w.store.publish(w.owned, 0, [Event("delta", text="a")])),
    "publish together": Act("publish_many", ("leased",), lambda w, _: _publish_together(w)),
    "commit": Act("commit", ("leased",), lambda w, _: w.store.commit(w.owned, done(w.owned))),
    "fail": Act("fail", ("leased",), lambda w, _: w.store.fail(w.owned, Failure(FAULT, 0.0))),
    "give up": Act("fail", ("leased",), lambda w, _: w.store.fail(w.owned, Failure(FAULT, None, effects=True))),
    "release": Act("release", ("leased",), lambda w, _: w.store.release(w.owned, reason=FAULT)),
    "hold": Act("hold", ("leased",), lambda w, _: w.store.hold(w.owned, [CALL], expires_in=600.0)),
    "decide": Act("decide", ("held",), lambda w, once: w.store.decide(
        w.where, "call_1", "d1", Decision("approved", by="ann"), once=once)),
    "cancel": _act("cancel", "leased", "held", "idle"),
    "cancel all": _act("cancel", "waiting", "leased", drop_inbox=True),
    "withdraw": Act("withdraw", ("waiting",), lambda w, once: w.store.withdraw(w.where, "m2", once=once)),
    "edit": Act("edit", ("waiting",), lambda w, once: w.store.edit(w.where, "m2", text_content("new"), once=once)),
    "edit back": Act("edit", ("waiting",), lambda w, once: w.store.edit(
        w.where, "m2", text_content("text of m2"), once=once)),
    "flush": _act("flush", "waiting", "idle"),
    "typing": _act("typing", "waiting", "idle"),
    "pause": _act("pause", "idle", "waiting"),
    "resume": _act("resume", "paused", "idle"),
    "redrive": Act("redrive", ("idle",), lambda w, _: w.store.redrive(w.dead_id)),
    "discard": Act("discard", ("idle",), lambda w, once: w.store.discard(w.dead_id, once=once)),
    "open a sink": Act("open_sink", ("idle",), lambda w, once: _nothing(w.store.open_sink(f"n{w.name}", once=once))),
    "close the sink": Act("close_sink", ("idle",), lambda w, once: w.store.close_sink(f"s{w.name}", once=once)),
    "lease the sink": Act("lease_sink", ("idle",), lambda w, _: _lease_sink(w)),
    "fail on the parked": Act("note_failure", ("idle",), lambda w, once: w.store.note_failure(
        *w.where_parked, reason="again", give_up=True, once=once)),
    "redrive the parked": Act("redrive_parked", ("idle",), lambda w, once: w.store.redrive_parked(
        *w.sink_parked, [w.where_parked[2]], once=once)),
    "drop the parked": Act("unpark", ("idle",), lambda w, once: w.store.unpark(
        *w.sink_parked, [w.where_parked[2]], once=once)),
    "create": _act("thread", "idle", create=True),
    "append": _act("append", "idle", entries=SAID, author="ann"),
    "answer as a person": Act("append", ("waiting",), _answer_as_a_person),
    "regenerate": _act("regenerate", "idle"),
    "compact": _act("compact", "idle", through_turn=1, summary="before"),
    "update": _act("update", "idle", changes=CHANGES),
    "update back": _act("update", "idle", changes={"metadata": {"a": None}, "assistant": None}),
    "forget": _act("forget", "idle", "waiting", "leased", force=True),
    "forget if idle": _act("forget", "idle", "waiting"),
    "expire": Act("expire", ("idle",), lambda w, _: _nothing(w.store.expire())),
    "put": Act("put", ("idle",), _change({"v": 2})),
    "put over": Act("put", ("idle",), _change({"v": 3}, version=1)),
    "put back": Act("put", ("idle",), _change({"v": 1})),
    "take": Act("take", ("idle",), lambda w, once: w.store.take("assistant", w.where.tenant, "a", once=once)),
    "reserve": Act("reserve", ("idle",), lambda w, once: w.store.reserve(
        "r2", 7, LIMITS, tenant=w.where.tenant, once=once)),
    "settle": Act("settle", ("idle",), lambda w, once: w.store.settle("r1", 3, tenant=w.where.tenant, once=once)),
    "settle the other": Act("settle", ("idle",), lambda w, once: w.store.settle(
        "r2", 3, tenant=w.where.tenant, once=once)),
    "reserve again": Act("reserve", ("idle",), lambda w, once: w.store.reserve(
        "r1", 5, LIMITS, tenant=w.where.tenant, once=once)),
    "pace": Act("pace", ("idle",), lambda w, once: w.store.pace(
        f"e{w.name}", requests=3.0, tokens=0.0, tokens_wanted=0, once=once)),
    "slow down": Act("slow_down", ("idle",), lambda w, once: w.store.slow_down(f"e{w.name}", 5.0, once=once)),
    "trip": Act("trip", ("idle",), lambda w, once: w.store.trip(f"f{w.name}", FAULT, probe_in=9.0, once=once)),
    "mend": Act("mend", ("idle",), lambda w, once: w.store.mend(f"e{w.name}", once=once)),
    "mend the other": Act("mend", ("idle",), lambda w, once: w.store.mend(f"f{w.name}", once=once)),
    "trip again": Act("trip", ("idle",), lambda w, once: w.store.trip(f"e{w.name}", FAULT, probe_in=9.0, once=once)),
    "probe": Act("probe", ("idle",), lambda w, once: w.store.probe(f"e{w.name}", every=9.0, once=once)),
}  # fmt: skip


async def _nothing(work: Awaitable[Any]) -> None:
    """What the engines answer in ways of their own (partitions, threads of others) is not compared."""
    await work


# ---------------------------------------------------------------- what others do in between


async def _forget_and_begin_anew(world: World) -> Any:
    await world.store.forget(world.where, force=True)
    return await world.store.accept([world.said("n1")])


async def _answer(world: World) -> Any:
    """A worker takes what waits and answers it."""
    await world.store.flush(world.where)
    claim = await claimed(world)
    await world.store.commit(claim, done(claim, "another answer"))
    return claim.message_ids


async def _say_and_answer(world: World) -> Any:
    await world.store.accept([world.said("n1")])
    return await _answer(world)


async def _take(world: World) -> Any:
    await world.store.flush(world.where)
    world.claim = await claimed(world)
    return world.claim.message_ids


async def _lose_and_take(world: World) -> Any:
    """The owner is believed to know nothing of its claim, so somebody else has it now."""
    await world.store.renew(f"w{world.name}", [], lease=LEASE)
    return (await claimed(world)).message_ids


async def _say_and_wait(world: World) -> Any:
    return await world.store.accept([world.said("n1"), world.said("n2", window=60.0, max_wait=60.0)])


async def _edit_otherwise(world: World) -> Any:
    return await world.store.edit(world.where, "m2", text_content("newer"))


async def _update_otherwise(world: World) -> Any:
    return await world.store.update(world.where, {"metadata": {"a": "2"}, "assistant": "asst_2"})


async def _put_otherwise(world: World) -> Any:
    return await world.store.put("assistant", world.where.tenant, "a", {"v": 9})


async def _close_the_new_sink(world: World) -> Any:
    return await world.store.close_sink(f"n{world.name}")


async def _open_the_sink_again(world: World) -> Any:
    return await _nothing(world.store.open_sink(f"s{world.name}"))


Other = Callable[[World], Awaitable[Any]]


def _by(act: Act) -> Other:
    return lambda world: act.do(world, None)


OTHERS: Mapping[str, Other] = {
    **{name: _by(act) for name, act in ACTS.items()},
    "nobody": lambda world: asyncio.sleep(0),
    "forget and begin anew": _forget_and_begin_anew,
    "answer": _answer,
    "say and answer": _say_and_answer,
    "take": _take,
    "lose and take": _lose_and_take,
    "say and wait": _say_and_wait,
    "edit otherwise": _edit_otherwise,
    "update otherwise": _update_otherwise,
    "put otherwise": _put_otherwise,
    "close the new sink": _close_the_new_sink,
    "open the sink again": _open_the_sink_again,
}
"""Everybody else: each act, and what people and workers do with several."""
