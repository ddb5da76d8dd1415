"""What readers see of the file: one snapshot at one moment, in which a thread that has expired is absent."""

from __future__ import annotations

from dataclasses import dataclass

import apsw

from turnkeep.clock import SteadyClock
from turnkeep.messages import Address
from turnkeep.store.base import Policies, Policy
from turnkeep.store.ids import Ids
from turnkeep.store.records import is_over
from turnkeep.store.sqlite import rows
from turnkeep.store.sqlite.rows import Kept
from turnkeep.store.thread import Known


@dataclass(frozen=True, slots=True)
class Setup:
    """What counts for one opened store. `incarnation` is what this life of the file adds to every epoch."""

    policies: Policies
    clock: SteadyClock
    ids: Ids
    incarnation: str


class View:
    """Threads as they are stored."""

    def __init__(self, connection: apsw.Connection, setup: Setup) -> None:
        self.connection = connection
        self.setup = setup
        self.now = 0.0
        self.over: list[Address] = []
        """Threads that were met after their time."""

    def begin(self) -> None:
        self.now = self.setup.clock.now()
        self.over = []
        self.connection.execute("BEGIN")

    def end(self) -> None:
        if not self.connection.get_autocommit():
            self.connection.execute("ROLLBACK")

    def policy(self, kept: Kept) -> Policy:
        return self.setup.policies.of(kept.thread.address.queue)

    def find(self, address: Address) -> Kept | None:
        """The thread of this address, if there is one that has not expired. Raises `ThreadQuarantined`."""
        found = rows.find(self.connection, address)
        if found is None:
            return None
        kept = rows.load(self.connection, found.row, self.setup.incarnation)
        if is_over(kept.thread, self.policy(kept), self.now):
            self.over.append(found.address)
            return None
        return kept

    def known(self, kept: Kept, message_id: str) -> Known | None:
        """What is remembered of a message id."""
        if not kept.row:
            return None
        return kept.known.get(message_id) or rows.load_known(self.connection, kept.row, message_id, self.now)
