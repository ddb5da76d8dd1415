"""Makes the file of the current layout: python tests/data/layouts/make_sqlite.py, once, when a layout is released.

The file is never made again after that: it stands for what people have on their disks.
"""

from __future__ import annotations

import asyncio
import gzip
import tempfile
from pathlib import Path

import apsw

from tests.contract.suite.desk import POLICY
from tests.data.layouts.sample_threads import fill
from turnkeep.store.sqlite import SqliteStore
from turnkeep.store.values import LAYOUT, Policies
from turnkeep.testing import FakeClock, counting_ids


async def make(path: Path) -> None:
    clock = FakeClock()
    store = SqliteStore(path, Policies(POLICY), clock=clock, ids=counting_ids(), ballast=0)
    await fill(store, clock)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.db"
        asyncio.run(make(path))
        connection = apsw.Connection(str(path))
        connection.execute("VACUUM")
        connection.close()
        packed = gzip.compress(path.read_bytes(), mtime=0)
    Path(__file__).with_name(f"sqlite-{LAYOUT}.db.gz").write_bytes(packed)


if __name__ == "__main__":
    main()
