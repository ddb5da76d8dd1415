"""Names that the store gives."""

from __future__ import annotations

import re

from turnkeep.messages import Address
from turnkeep.store.ids import (
    PARTITIONS,
    new_dead_id,
    new_epoch,
    new_run_id,
    new_thread_id,
    new_token,
    partition_of,
    partition_of_thread_id,
    random_ids,
)
from turnkeep.testing import counting_ids

HERE = Address("t", "q", "c")


def test_a_thread_id_carries_the_partition_of_its_address() -> None:
    for n in range(200):
        address = Address("t", "q", f"channel {n}")

        thread_id = new_thread_id(random_ids, address)

        assert re.fullmatch(r"thread_0[0-9a-f]{23}", thread_id)
        assert partition_of_thread_id(thread_id) == partition_of(address)
        assert partition_of(Address("t", "q", thread_id)) == partition_of(address)


def test_partitions_are_all_used_and_depend_on_each_part_of_the_address() -> None:
    used = {partition_of(Address("t", "q", f"c{n}")) for n in range(500)}

    assert used == set(range(PARTITIONS))
    assert len({partition_of(Address("t" * a, "q" * b, "c")) for a in range(9) for b in range(9)}) > 8
    assert partition_of(Address("t", "q", "\ud800")) in used


def test_a_channel_that_names_a_thread_is_its_id() -> None:
    for channel in ("thread_", "thread_abc", "thread_" + "f" * 24):
        assert new_thread_id(random_ids, Address("t", "q", channel)) == channel
        assert partition_of_thread_id(channel) is None
    assert partition_of_thread_id("thread_0f" + "0" * 22 + "\n") is None


def test_names_are_never_given_twice() -> None:
    ids = counting_ids()
    for make in (new_run_id, new_token, new_epoch):
        assert len({make(random_ids) for _ in range(1000)}) == 1000
        assert len({make(ids) for _ in range(1000)}) == 1000


def test_counting_ids_count_for_each_purpose() -> None:
    one, other = counting_ids(), counting_ids()

    assert [new_token(one), new_token(one), new_run_id(one)] == [new_token(other), new_token(other), new_run_id(other)]
    assert int(new_token(one), 16) == 3


def test_dead_ids_sort_by_time_then_by_place() -> None:
    times = [1.0, 1.25, 999_999.5, 1_700_000_000.0, 1_700_000_000.25]
    made = [new_dead_id(random_ids, HERE, now, place) for now in times for place in range(300)]

    assert made == sorted(made)
    assert len(set(made)) == len(made)
