"""The time of a store file: one for all processes of this machine, that nobody can set.

It goes on with the seconds since the machine was started, which all processes count alike; what is added to them is in
the file. So a time of day that is set moves nothing while anybody works. With the next first opening the store catches
up with a time of day that has run ahead a little (a machine without a clock of its own learns the time after its
start); a leap by more is not believed before the machine is started again.
"""

from __future__ import annotations

import apsw

from turnkeep.clock import SteadyClock
from turnkeep.store.sqlite import layout

CATCH_UP = 86_400.0
"""Far less than what is kept for a time is kept: threads, and the ids of messages."""


def agree(connection: apsw.Connection, clock: SteadyClock, *, is_first: bool) -> None:
    """Have the clock of this process go by what the file says. `is_first`: nobody else has the file open."""
    with layout.alone(connection):
        base = _base(connection, clock, is_first=is_first)
        clock.rebase(max(base, _newest(connection) - clock.elapsed()))
        layout.put(connection, "clock_origin", clock.origin)
        layout.put(connection, "clock_base", clock.base)


def note(connection: apsw.Connection, now: float) -> None:
    """Remember that it was so late: the next life of the file does not begin before."""
    layout.put(connection, "moment", now)


def _base(connection: apsw.Connection, clock: SteadyClock, *, is_first: bool) -> float:
    stored_base = layout.get(connection, "clock_base")
    if not clock.origin or layout.get(connection, "clock_origin") != clock.origin or not isinstance(stored_base, float):
        return clock.base
    catches_up = is_first and 0.0 < clock.base - stored_base <= CATCH_UP
    return clock.base if catches_up else stored_base


def _newest(connection: apsw.Connection) -> float:
    """The latest moment that the file speaks of, as far as it is found at once."""
    moment = layout.get(connection, "moment")
    event_at = connection.execute("SELECT at FROM event ORDER BY position DESC LIMIT 1").get
    return max(float(moment or 0.0), float(event_at or 0.0))
