"""What Redis refuses becomes the error that callers act upon."""

from __future__ import annotations

import pytest

from turnkeep.errors import StoreError, StoreFull, StoreMisconfigured, StoreUnavailable, ThreadQuarantined
from turnkeep.store.redis.client.cures import Cure, cure_of, meaning


@pytest.mark.parametrize(
    ("refusal", "cure"),
    [
        ("NOSCRIPT No matching script. Please use EVAL.", Cure.LOAD),
        ("MOVED 3999 127.0.0.1:6381", Cure.FOLLOW),
        ("ASK 3999 127.0.0.1:6381", Cure.ASK),
        ("TRYAGAIN Multiple keys request during rehashing of slot", Cure.WAIT),
        ("LOADING Redis is loading the dataset in memory", Cure.WAIT),
        ("CLUSTERDOWN The cluster is down", Cure.WAIT),
        ("READONLY You can't write against a read only replica.", Cure.RECONNECT),
        ("ERR user_script:3: READONLY You can't write against a read only replica.", Cure.RECONNECT),
        ("ERR unknown command", None),
    ],
)
def test_what_was_not_done_is_sent_again_in_its_own_way(refusal: str, cure: Cure | None) -> None:
    assert cure_of(refusal) is cure


@pytest.mark.parametrize(
    ("refusal", "error"),
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", StoreFull),
        (
            "ERR user_script:7: OOM command not allowed when used memory > 'maxmemory'. script: 0a",
            StoreFull,
        ),
        ("MISCONF Errors writing to the AOF file: No space left on device", StoreFull),
        ("MISCONF Redis is configured to save RDB snapshots", StoreUnavailable),
        ("NOREPLICAS Not enough good replicas to write.", StoreUnavailable),
        ("NOAUTH Authentication required.", StoreMisconfigured),
        ("NOPERM this user has no permissions", StoreMisconfigured),
        ("DAMAGED head script: 0a, on @user_script:1.", ThreadQuarantined),
        (
            "ERR Error running script (call to f_0a): @user_script:3: WRONGTYPE Operation",
            ThreadQuarantined,
        ),
        ("TRYAGAIN Multiple keys request", StoreUnavailable),
    ],
)
def test_a_refusal_that_stays_is_an_error_with_a_sentence(refusal: str, error: type[StoreError]) -> None:
    raised = meaning(refusal, "accept")

    assert type(raised) is error
    assert "accept" in str(raised)


def test_an_unknown_refusal_is_a_plain_store_error() -> None:
    assert type(meaning("ERR syntax error", "accept")) is StoreError
