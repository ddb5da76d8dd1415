"""Who is served next: a fair share of the claims for each tenant, by weight.

Each tenant carries how much it was served, in claims divided by its weight. The tenant served least
goes first. One that comes back after a silence starts where the last one served began (`floor`), so
silence saves nothing up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

MOST_RUNS = 256
"""Entries that are not written down yet; only the newest count."""


def next_tenant(ready: Mapping[str, float], served_by_tenant: Mapping[str, float], floor: float) -> str:
    """The tenant to serve: `ready` maps each tenant with a ready thread to its earliest `due`,
    which breaks ties, then the name does.
    """
    # By name last, so that the same history is served in the same order in every engine.
    return min(ready, key=lambda tenant: (max(served_by_tenant.get(tenant, 0.0), floor), ready[tenant], tenant))


def charge(tenant: str, weight: float, served_by_tenant: Mapping[str, float], floor: float) -> tuple[float, float]:
    """One claim for this tenant: what it has been served now, and the new floor."""
    # From the floor on: a tenant that was silent for a week has no week of claims to make up for.
    start = max(served_by_tenant.get(tenant, 0.0), floor)
    return start + 1.0 / weight, start


class Books:
    """Who was served here and is not written down yet, in order.

    With one tenant nobody ever reads it, so nothing has to be written: it is counted here, and
    written down once another tenant waits beside it.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[str, int]] = []

    def note(self, tenants: Iterable[str]) -> None:
        """These were served, one after the other."""
        runs = self._runs
        for tenant in tenants:
            if runs and runs[-1][0] == tenant:
                runs[-1] = (tenant, runs[-1][1] + 1)
            else:
                runs.append((tenant, 1))
        # What is this old changes no share any more: each begins where the last one served began.
        del runs[:-MOST_RUNS]

    def take(self) -> list[tuple[str, int]]:
        """Each tenant that was served, and how often without another in between."""
        runs, self._runs = self._runs, []
        return runs
