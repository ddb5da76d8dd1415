"""For those who test against turnkeep or write an engine: a clock that stands still, names that count, the contract
suite (`turnkeep.testing.store_suite`) and random histories (`turnkeep.testing.histories`), which need pytest and
hypothesis.
"""

from turnkeep.testing.clock import START, FakeClock, counting_ids, settle

__all__ = ["START", "FakeClock", "counting_ids", "settle"]
