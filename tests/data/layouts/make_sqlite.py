"""Makes the file of the current layout: python tests/data/layouts/make_sqlite.py, once, when a layout is released.

The file is never made again after that: it stands for what people have on their disks.
"""

from __future__ import annotations

import asyncio
import gzip
import tempfile
from pathlib import Path

import apsw

from tests.contract.suite.desk import CALL, POLICY, Desk, at, delta, give_up
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.values import LAYOUT, Policies
from turnkeep.testing import FakeClock, counting_ids


async def fill(path: Path) -> None:
    clock = FakeClock()
    store = SqliteStore(path, Policies(POLICY), clock=clock, ids=counting_ids(), ballast=0)
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
    await store.put("assistant", "t", "asst_1", {"model": "model-1"})
    await store.put("assistant", "t", "asst_1", {"model": "model-2"})
    await store.open_sink("relay")
    await store.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.db"
        asyncio.run(fill(path))
        connection = apsw.Connection(str(path))
        connection.execute("VACUUM")
        connection.close()
        packed = gzip.compress(path.read_bytes(), mtime=0)
    Path(__file__).with_name(f"sqlite-{LAYOUT}.db.gz").write_bytes(packed)


if __name__ == "__main__":
    main()
