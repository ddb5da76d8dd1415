"""What the stores of a layout hold: a thread in each state, a record that was changed, a sink."""

from __future__ import annotations

from tests.contract.suite.desk import CALL, Desk, at, delta, give_up
from turnkeep.store.contract import Store
from turnkeep.testing import FakeClock


async def fill(store: Store, clock: FakeClock) -> None:
    """From `open` to `close`."""
    await store.open()
    desk = Desk(store, clock)
    answered = await desk.lease("m1", where=at("answered"))
    await store.publish(answered, 0, [delta("answer")])
    await desk.commit(answered)
    failing = await desk.lease("m2", "m3", where=at("journalled"))
    await store.journal(failing, [{"n": 0, "kind": "item"}])
    await store.release(failing, delay=60.0)
    dying = await desk.lease("m4", where=at("dead"))
    await store.fail(dying, give_up())
    held = await desk.lease("m5", where=at("held"))
    await store.hold(held, [CALL], expires_in=600.0)
    await desk.say("m6", where=at("answered"), not_before=clock.now() + 500.0)
    leased = await desk.lease("m7", where=at("leased"))
    await store.publish(leased, 0, [delta("half an ")])
    await store.put("assistant", "t", "asst_1", {"model": "model-1"})
    await store.put("assistant", "t", "asst_1", {"model": "model-2"})
    await store.open_sink("relay")
    await store.close()
