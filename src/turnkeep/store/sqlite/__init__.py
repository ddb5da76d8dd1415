"""SQLite: a `Store` in one file, with one writer thread per process that commits in groups.

`store` puts the engine together from one file per protocol (`inbox`, `events`, `threads`, `registry`, `ledger`).
Below them: `engine` (opening), `writer` and `reader` (threads), `transaction` and `view` (what operations see),
`rows`, `log`, `transcript`, `letters` (what is stored), `due`, `hints`, `others` (who is woken), `owners`, `room`,
`layout`, `backup`, `vacuum`, `connection`, `faults`.
"""

from turnkeep.store.sqlite.assembly import SqliteStore
from turnkeep.store.sqlite.backup import backup, place_aside, restore, vacuum

__all__ = ["SqliteStore", "backup", "place_aside", "restore", "vacuum"]
