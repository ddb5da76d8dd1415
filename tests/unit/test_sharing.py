"""Each tenant has its share of the workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from turnkeep.store.fair_share import charge, next_tenant


class Shares:
    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self.weights = weights or {}
        self.served: dict[str, float] = {}
        self.floor = 0.0

    def serve(self, *ready: str, times: int = 1) -> Counter[str]:
        """Who is served, when all of these always have a ready thread."""
        counts: Counter[str] = Counter()
        for _ in range(times):
            tenant = next_tenant(dict.fromkeys(ready, 0.0), self.served, self.floor)
            weight = self.weights.get(tenant, 1.0)
            self.served[tenant], self.floor = charge(tenant, weight, self.served, self.floor)
            counts[tenant] += 1
        return counts


def test_tenants_take_turns() -> None:
    assert Shares().serve("a", "b", "c", times=30) == {"a": 10, "b": 10, "c": 10}


def test_shares_follow_weights() -> None:
    assert Shares({"a": 3.0, "b": 0.5}).serve("a", "b", "c", times=90) == {"a": 60, "c": 20, "b": 10}


def test_a_tenant_alone_has_everything() -> None:
    assert Shares({"a": 0.01}).serve("a", times=5) == {"a": 5}


def test_silence_saves_nothing_up() -> None:
    shares = Shares()
    shares.serve("busy", times=1000)

    assert shares.serve("busy", "rested", times=20) == {"busy": 10, "rested": 10}


def test_having_been_served_alone_is_no_debt() -> None:
    shares = Shares()
    shares.serve("a", "b", times=2)
    shares.serve("a", times=1000)
    shares.serve("a", "b", times=2)

    assert shares.serve("a", "b", times=20)["a"] == 10


def test_among_equals_the_earliest_due_goes_first_then_the_name() -> None:
    assert next_tenant({"a": 5.0, "b": 4.0, "c": 4.0}, {}, 0.0) == "b"


@given(
    st.lists(st.sets(st.sampled_from("abcd"), min_size=1), min_size=1, max_size=60),
    st.fixed_dictionaries({tenant: st.sampled_from([0.5, 1.0, 2.0]) for tenant in "abcd"}),
)
def test_of_two_that_are_always_ready_none_is_ahead_by_more_than_one_turn(
    rounds: list[set[str]], weights: dict[str, float]
) -> None:
    shares = Shares(weights)
    counts: Counter[str] = Counter()
    for ready in rounds:
        counts += shares.serve(*sorted(ready | {"a", "b"}))

        ahead = counts["a"] / weights["a"] - counts["b"] / weights["b"]
        assert -1 / weights["b"] <= ahead <= 1 / weights["a"]
