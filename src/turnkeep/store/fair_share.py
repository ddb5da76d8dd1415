"""Who is served next: a fair share of the claims for each tenant, by weight.

Each tenant carries how much it was served, in claims divided by its weight. The tenant served least
goes first. One that comes back after a silence starts where the last one served began (`floor`), so
silence saves nothing up.
"""

from __future__ import annotations

from collections.abc import Mapping


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
