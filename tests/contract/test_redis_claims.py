"""How often claims on Redis look at the indexes: each look is a wait before the model is asked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.redis_desk import LEASE, accepted, channel, said, store_on
from tests.services import RedisServer
from turnkeep.store.redis import RedisStore


def looks_of(store: RedisStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with each look."""
    looks: list[str] = []
    link = store._link
    run = link.run

    def counted(name: str, *arguments: Any, **options: Any) -> Any:
        looks.extend([name] if name == "ready" else [])
        return run(name, *arguments, **options)

    monkeypatch.setattr(link, "run", counted)
    return looks


@pytest.mark.parametrize("waiting", [1, 3, 12])
async def test_a_claim_that_was_told_all_that_is_ready_does_not_look_again(
    waiting: int, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with store_on(redis_server.url()) as store:
        for number in range(waiting):
            await accepted(store, said(channel(f"c{number}"), "m1"))
        looks = looks_of(store, monkeypatch)

        claims = await store.claim(owner="o", limit=64, lease=LEASE)

        assert (len(claims), looks) == (waiting, ["ready"])


async def test_a_claim_looks_on_while_more_may_be_ready(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition tells of a share at a time, so that one look costs the same however much waits."""
    async with store_on(redis_server.url()) as store:
        for number in range(300):
            await accepted(store, said(channel(f"c{number}"), "m1"))
        looks = looks_of(store, monkeypatch)

        claims = await store.claim(owner="o", limit=300, lease=LEASE)

        assert len(claims) == 300
        assert len(looks) >= 1
