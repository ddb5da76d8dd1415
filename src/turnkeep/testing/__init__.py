"""For those who test against turnkeep or write an engine: a clock that stands still, names that
count, the contract suite (`tests.contract.store_suite`) and random histories
(`tests.contract.histories`), which need pytest and hypothesis.
"""

from turnkeep.testing.fake_clock import START, FakeClock, counting_ids, settle

__all__ = ["START", "FakeClock", "counting_ids", "settle"]
