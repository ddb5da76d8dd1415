"""Names of Redis keys: safe for any channel, together where they must be, apart where they may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from turnkeep.errors import ConfigurationError
from turnkeep.messages import Address
from turnkeep.store.ids import new_thread_id, random_ids
from turnkeep.store.redis.key_names import KeyNames, address_of, operation_scripts, space_of, to_bytes

anything = st.text(st.characters(), max_size=40)
"""Any string, with NUL, braces and lone surrogates."""
hostile = st.one_of(
    anything, st.sampled_from(["{", "}", "{}", "{x}", "a}b{c", "\0", "\x01\0", "thread_", "*", " ", "\r\n"])
)


@given(tenant=hostile, queue=hostile, channel=hostile)
def test_all_keys_of_a_thread_live_in_one_slot(tenant: str, queue: str, channel: str) -> None:
    keys = KeyNames("cosmo:").thread(Address(tenant, queue, channel))

    slots = {
        key_slot(key)
        for script in operation_scripts("PUBLISH").values()
        if script.name == "accept"
        for key in keys.group_keys(script)
    }

    assert slots == {key_slot(keys.partition.tag)}


@given(tenant=hostile, queue=hostile, channel=hostile)
def test_an_address_is_read_back_from_an_index(tenant: str, queue: str, channel: str) -> None:
    address = Address(tenant, queue, channel)

    assert address_of(space_of(tenant, queue), to_bytes(channel)) == address


@given(one=st.tuples(hostile, hostile), other=st.tuples(hostile, hostile))
def test_spaces_of_different_queues_differ_and_hold_one_nul(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (space_of(*one) == space_of(*other)) == (one == other)
    assert space_of(*one).count(b"\0") == 1


@given(one=anything, other=anything)
def test_two_channels_never_share_a_key(one: str, other: str) -> None:
    keys = KeyNames("cosmo:")
    first, second = (keys.thread(Address("t", "q", channel))["thread"] for channel in (one, other))

    assert (first == second) == (one == other)


@given(tenant=hostile)
def test_a_tenant_cannot_reach_into_the_ledger_of_another(tenant: str) -> None:
    keys = KeyNames("cosmo:")

    assert keys.ledger(tenant, "accounts").startswith(b"cosmo:{cosmo:ledger:")
    assert keys.ledger(tenant, "accounts").count(b"}") == 1


def test_names_begin_with_the_prefix_in_clear() -> None:
    keys = KeyNames("shop:")
    address = Address("t", "q", "c")

    names = [keys.thread(address)["thread"], keys.registry("layout"), keys.ledger("t", "accounts"), keys.pace("key")]

    assert all(name.startswith(b"shop:{shop:") for name in names)


def test_a_thread_id_leads_to_the_partition_of_its_thread() -> None:
    keys = KeyNames("cosmo:")

    assert keys.partition(Address("t", "q", "thread_0b" + "0" * 22)) is keys.partitions[11]


def test_fewer_partitions_hold_the_same_threads() -> None:
    few = KeyNames("cosmo:", 4)

    assert few.partition(Address("t", "q", "thread_0b" + "0" * 22)) is few.partitions[3]


@pytest.mark.parametrize("prefix", ["a{b", "a}b", "{}"])
def test_a_prefix_with_a_brace_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="brace"):
        KeyNames(prefix)


@pytest.mark.parametrize("partitions", [-16, 0, 3, 17, 100, 2048])
def test_a_number_of_partitions_that_is_no_power_of_two_is_refused(partitions: int) -> None:
    with pytest.raises(ConfigurationError, match="choose a power of two from 16 to 1024"):
        KeyNames("cosmo:", partitions)


@pytest.mark.parametrize("many", [32, 64, 256, 1024])
def test_among_many_partitions_a_thread_is_where_it_was_among_few(many: int) -> None:
    few, keys = KeyNames("cosmo:"), KeyNames("cosmo:", many)
    addresses = [Address("t", "q", f"c{n}") for n in range(200)]
    addresses += [Address("t", "q", new_thread_id(random_ids, one, count)) for one in addresses for count in (16, many)]

    for address in addresses:
        partition = keys.partition(address)
        assert partition.index % 16 == few.partition(address).index
        assert partition in keys.like(few.partition(address).index)
    assert len({keys.partition(one).index for one in addresses}) > 16


@pytest.mark.parametrize("given_among", [16, 64, 1024])
@pytest.mark.parametrize("many", [64, 1024])
def test_the_id_of_a_thread_leads_to_its_partition_among_how_many_soever(given_among: int, many: int) -> None:
    keys = KeyNames("cosmo:", many)
    for n in range(50):
        address = Address("t", "q", f"c{n}")
        thread_id = new_thread_id(random_ids, address, given_among)
        places = keys.partitions_of_id(Address("t", "q", thread_id))

        assert keys.partition(address) in places
        assert len(places) == (1 if given_among > 16 else many // 16)


def test_a_copy_stands_beside_what_it_was_made_of() -> None:
    address = Address("t", "q", "c")
    names = {KeyNames("cosmo:", partitions).thread(address)["thread"] for partitions in (16, 32, 64, 1024)}

    assert len(names) == 4
