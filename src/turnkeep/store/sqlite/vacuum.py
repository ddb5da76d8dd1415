"""A store written anew: what was deleted long ago, by whatever version, is not in it any more."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import apsw

from turnkeep.errors import StoreMisconfigured, StoreUnavailable
from turnkeep.store.sqlite import layout
from turnkeep.store.sqlite.connection import connect_to_write, empty_log
from turnkeep.store.sqlite.faults import meaning

PATIENCE = 10.0


def vacuum(path: Path) -> tuple[int, int]:
    """Write the file anew, in use or not; its sizes in bytes before and after. Others wait for it meanwhile.

    Needs as much room again. Raises `StoreMisconfigured`, `StoreError`.
    """
    if not path.is_file():
        raise StoreMisconfigured(f"there is no file {path}")
    before = path.stat().st_size
    try:
        with closing(connect_to_write(path)) as connection:
            layout.layout_of(connection, path)
            connection.execute("VACUUM")
            if not empty_log(connection, patience=PATIENCE):
                raise StoreUnavailable(f"somebody reads the store {path} without end, end that and try again")
    except apsw.Error as error:
        raise meaning(error, path) from error
    return before, path.stat().st_size
