"""Repeats with somebody in between: an operation happens, its reply is lost, somebody else acts, it is sent again.

`REPEATS` says of every operation of the contract what makes that safe. `TRIPLES` are made from it: each act in each
state that it is for, with each other act in between. The memory engine lives through the same without a repeat: what
is told afterwards has to be equal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any, Literal, NamedTuple

import pytest

from tests.contract.comparing import Names, differences
from tests.contract.opening import opened
from tests.contract.suite.acts import ACTS, OTHERS, SAID, Act, State, World, bring, partitions_of
from tests.contract.suite.desk import Start
from turnkeep.errors import LeaseLost, Rejection, ThreadBusy, ThreadNotFound
from turnkeep.events import Event
from turnkeep.messages import Address
from turnkeep.store.contract import Store
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import HeldCall, MessageRecord, Policies, Policy, Receipt, ThreadRecord
from turnkeep.testing.fake_clock import FakeClock

Safety = Literal["reads", "named", "once", "same"]
"""What makes an operation safe to repeat.

reads: it changes nothing. named: its arguments name what it does (message ids, tokens, places, dead letters). once: it
takes a name for the call. same: what it does again is what it did, whatever happened in between.
"""

REPEATS: Mapping[str, Safety] = {
    "accept": "named", "claim": "named", "begin": "named", "renew": "once", "offer_steering": "same",
    "journal": "named", "commit": "named", "fail": "named", "release": "named", "hold": "named",
    "decide": "once", "cancel": "once",
    "withdraw": "once", "edit": "once", "flush": "once", "typing": "once", "pause": "once", "resume": "once",
    "message": "reads", "counts": "reads", "dead": "reads", "dead_letter": "reads", "redrive": "named",
    "discard": "once", "ready": "reads", "wait_nudge": "reads", "publish": "named",
    "publish_many": "named", "lane_of": "reads", "search": "reads", "find_passages": "reads",
    "read": "reads", "follow": "reads",
    "open_sink": "once", "close_sink": "once", "lease_sink": "same", "deliveries": "reads", "mark_delivered": "same",
    "list_parked": "reads", "parked_deliveries": "reads", "note_failure": "once", "redrive_parked": "once",
    "unpark": "once", "sinks": "reads",
    "thread": "once", "open_messages": "reads", "runs": "reads", "history": "reads", "append": "once",
    "regenerate": "once", "compact": "once", "update": "once", "scan": "reads", "stats": "reads", "forget": "once",
    "expire": "same", "get": "reads", "put": "once", "take": "once", "list": "reads", "reserve": "once",
    "settle": "once", "sweep": "reads", "ledgers": "reads", "spend": "reads", "pace": "once", "slow_down": "once",
    "trip": "once", "circuits": "reads", "probe": "once", "mend": "once", "revision": "reads",
    "open": "same", "close": "same", "check": "reads", "now": "reads",
}  # fmt: skip

TOLD_AS_IT_IS = ("publish", "publish_many", "offer_steering")
"""Operations whose answer is how things are now: the top of the log, and what there is to steer the run with."""

WORDS = (MessageRecord, ThreadRecord, HeldCall)
"""Results that hold what was said, which goes with its thread."""

POLICY = Policy(window=2.0, max_wait=8.0)
AT_ONCE = 25

_worlds = count()


class Triple(NamedTuple):
    """An act in a state, and who acts between it and its repeat."""

    act: str
    state: State
    other: str

    @property
    def has_sink(self) -> bool:
        return any(word in name for word in ("sink", "parked") for name in (self.act, self.other))


TRIPLES: Sequence[Triple] = [
    Triple(name, state, other) for name, act in ACTS.items() for state in act.states for other in OTHERS
]


# ---------------------------------------------------------------- playing one

Repeat = Callable[[Act, World, Callable[[], Awaitable[Any]]], Awaitable["tuple[Any, Any]"]]
"""Do an act, let somebody act, and do it again; what was answered to the first and to the second."""


async def outcome(work: Awaitable[Any]) -> Any:
    """What somebody is answered, a refusal too."""
    try:
        return await work
    except (Rejection, LeaseLost, ValueError) as error:
        return error


async def under_one_name(act: Act, world: World, meanwhile: Callable[[], Awaitable[Any]]) -> tuple[Any, Any]:
    """The caller repeats: with the same name where the operation takes one."""
    before = replace(world)
    first = await outcome(act.do(before, f"once {world.name}"))
    await meanwhile()
    return first, await outcome(act.do(before, f"once {world.name}"))


async def play(store: Store, triple: Triple, name: str, repeat: Repeat | None) -> dict[str, Any]:
    """All that can be told after a triple; without `repeat` nothing was repeated."""
    world, act = World(store, name), ACTS[triple.act]
    await bring(world, triple.state, has_sink=triple.has_sink)
    told: list[Any] = []

    async def meanwhile() -> None:
        told.append(await outcome(OTHERS[triple.other](world)))

    if repeat is None:
        first = second = await outcome(act.do(replace(world), None))
        await meanwhile()
    else:
        first, second = await repeat(act, world, meanwhile)
    seen = await look(world)
    return {"first": _unrepeated(first), "repeated": _is_answered(act, first, second), "other": told[0], **seen}


def _is_answered(act: Act, first: Any, second: Any) -> bool:
    """Whether the answer to a repeat is one that may be given: the first one, or that it came too late."""
    if isinstance(first, Exception) or act.operation in TOLD_AS_IT_IS:
        return True
    if isinstance(second, ThreadNotFound):
        return isinstance(first, WORDS)
    if REPEATS[act.operation] == "once":
        return bool(Names().plain(second) == Names().plain(first))
    return isinstance(second, Exception) or bool(
        Names().plain(_unrepeated(second)) == Names().plain(_unrepeated(first))
    )


def _unrepeated(answer: Any) -> Any:
    """A receipt says that it was given before; else it is the same."""
    if isinstance(answer, list):
        return [replace(one, repeated=False) if isinstance(one, Receipt) else one for one in answer]
    return answer


async def look(world: World) -> dict[str, Any]:
    """What the store tells of this world."""
    store, where = world.store, world.where
    circuits = [c for c in await store.circuits() if c.endpoint[1:] == world.name]
    found: dict[str, Any] = {
        "thread": await store.thread(where),
        "open": await store.open_messages(where),
        "runs": await store.runs(where),
        "history": await store.history(where),
        "log": await store.read(where, limit=10_000),
        "messages": [await store.message(where, i) for i in ("m0", "m1", "m2", "m3", "x1", "n1")],
        "counts": await store.counts(tenant=where.tenant),
        "dead": sorted(await store.dead(tenant=where.tenant), key=lambda letter: letter.message.message_id),
        "document": await store.get("assistant", where.tenant, "a"),
        "spend": await store.spend("day", tenant=where.tenant),
        "reservations": await store.sweep(older_than=-1.0, tenant=where.tenant),
        "circuits": circuits,
        "pace": await store.pace(f"e{world.name}", requests=3.0, tokens=0.0, tokens_wanted=0),
    }
    if world.parked is not None:
        parked = await outcome(store.list_parked(f"s{world.name}", world.parked[0]))
        found["parked"] = (
            [(one.kind, one.offset, one.reason, one.failed_at, one.is_given_up) for one in parked]
            if isinstance(parked, list)
            else parked
        )
    for sink in ("s", "n"):
        found[f"sink {sink}"] = await outcome(_deliveries(store, f"{sink}{world.name}", where))
    return found


async def _deliveries(store: Store, sink: str, where: Address) -> list[Event]:
    found: list[Event] = []
    for partition in await partitions_of(store):
        for delivery in await store.deliveries(sink, partition, after="", limit=100_000):
            if delivery.address == where:
                found.append(delivery.event)
    return found


def plain(told: Mapping[str, Any], world: str) -> Any:
    """Comparable between engines: what was drawn or is this world's own gets one name."""
    names, minted = Names(), dict[str, str]()

    def rename(value: Any) -> Any:
        if isinstance(value, str):
            if value.startswith("msg_"):
                return minted.setdefault(value, f"minted {len(minted)}")
            return value.removesuffix(world) if value[:1] in "tqwersfn" else value
        if isinstance(value, dict):
            return {key: rename(item) for key, item in value.items()}
        return [rename(item) for item in value] if isinstance(value, list) else value

    return rename(names.plain(told))


# ---------------------------------------------------------------- playing all


async def play_all(
    store: Store,
    clock: FakeClock,
    triples: Sequence[Triple],
    repeat: Repeat = under_one_name,
    *,
    at_once: int = AT_ONCE,
    before: Callable[[Store], Store] = lambda engine: engine,
) -> list[str]:
    """Where the engine differs after a repeat from the memory engine without one; a line for each difference. `before`:
    what stands before both, as sizes are those of what is stored.
    """
    found: list[str] = []
    async with opened(before(MemoryStore(Policies(POLICY), clock=clock))) as oracle:
        for start in range(0, len(triples), at_once):
            async with asyncio.TaskGroup() as group:
                lines = [
                    group.create_task(_compare(store, oracle, each, f"{next(_worlds)}", repeat))
                    for each in triples[start : start + at_once]
                ]
            found += [line for each in lines for line in each.result()]
    return found


async def _compare(store: Store, oracle: Store, triple: Triple, name: str, repeat: Repeat) -> list[str]:
    here = plain(await play(oracle, triple, name, None), name)
    there = plain(await play(store, triple, name, repeat), name)
    operation = ACTS[triple.act].operation
    is_known = REPEATS[operation] == "once" and there["first"] != ("raised", "ThreadNotFound")
    if operation in TOLD_AS_IT_IS or (not is_known and _is_refusal(there["first"])):
        here["first"] = there["first"]  # where one answer is all there is, that of the repeat
    found = differences(here, there)
    if found and _is_refusal(here["first"]):  # what was refused may happen later, once
        late = plain(await play(oracle, triple, f"{name}late", _late), f"{name}late")
        # Where the refusal itself was lost, the caller has the answer of the repeat alone.
        possible = [late | {"first": first, "repeated": there["repeated"]} for first in (here["first"], late["first"])]
        found = min((differences(each, there) for each in possible), key=len)
    return [f"{' / '.join(triple)}: {line}" for line in found]


def _is_refusal(answer: Any) -> bool:
    return isinstance(answer, tuple) and answer[:1] == ("raised",)


async def _late(act: Act, world: World, meanwhile: Callable[[], Awaitable[Any]]) -> tuple[Any, Any]:
    before = replace(world)
    await meanwhile()
    answer = await outcome(act.do(before, None))
    return answer, answer


def share_of(triples: Sequence[Triple], parts: int) -> list[Triple]:
    """Every so many: each act with some others, and each other with some acts."""
    return list(triples[::parts])


class RepeatPromises:
    def test_every_operation_says_what_makes_a_repeat_safe(self) -> None:
        contract = {name for name, value in _members(Store) if not name.startswith("_") and callable(value)}

        assert set(REPEATS) == contract
        named = {name for name, value in _members(Store) if "once" in getattr(value, "__annotations__", ())}
        assert named == {name for name, safety in REPEATS.items() if safety == "once"}
        acted = {act.operation for act in ACTS.values()} | {"claim", "begin", "mark_delivered", "open", "close"}
        assert acted == {name for name, safety in REPEATS.items() if safety != "reads"}

    async def test_a_repeat_gives_the_first_answer_and_touches_nothing(self, start: Start) -> None:
        """A part of all triples, with each act and each other at least once; the others belong to a proof."""
        desk = await start(POLICY)

        some = share_of(TRIPLES, 53)
        assert {triple.act for triple in some} == set(ACTS)
        assert {triple.other for triple in some} == set(OTHERS)

        assert await play_all(desk.store, desk.clock, some) == []

    async def test_one_name_for_two_calls_makes_two_operations(self, start: Start) -> None:
        desk = await start(POLICY)
        where = World(desk.store, "1").where
        await desk.store.thread(where, create=True)
        await desk.store.update(where, {"metadata": {"a": "1"}}, once="k")
        await desk.store.update(where, {"metadata": {"a": "2"}}, once="k")
        await desk.store.pause(where, once="k")

        record = await desk.thread(where)
        assert (record.metadata, record.paused) == ({"a": "2"}, True)

    async def test_a_refusal_is_not_kept(self, start: Start) -> None:
        desk = await start(POLICY)
        where = World(desk.store, "1").where
        await desk.say("m1", where=where)
        with pytest.raises(ThreadBusy):
            await desk.store.forget(where, once="k")
        await desk.store.withdraw(where, "m1")

        assert await desk.store.forget(where, once="k")
        assert await desk.store.forget(where, once="k")
        assert await desk.store.thread(where) is None

    async def test_what_another_model_weighs_otherwise_is_the_same(self, start: Start) -> None:
        desk = await start(POLICY)
        where = World(desk.store, "1").where
        for tokens in (5, 7):
            await desk.store.append(where, [replace(entry, tokens=tokens) for entry in SAID], once="k")

        assert len(await desk.transcript(where)) == 2

    async def test_a_name_is_forgotten_after_a_day(self, start: Start) -> None:
        desk = await start(POLICY)
        where = World(desk.store, "1").where
        await desk.store.append(where, SAID, once="k")
        await desk.wait(86_399.0)
        await desk.store.append(where, SAID, once="k")
        assert len(await desk.transcript(where)) == 2
        await desk.wait(1.0)

        await desk.store.append(where, SAID, once="k")

        assert len(await desk.transcript(where)) == 4


def _members(protocol: type) -> list[tuple[str, Any]]:
    return [
        pair for base in protocol.__mro__ for pair in vars(base).items() if base.__module__.startswith("turnkeep.store")
    ]
