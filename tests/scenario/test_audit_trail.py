"""The audit trail: what was done and what was refused can be read afterwards, and nobody writes over it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.process.callers import CANARY, CHANNEL, TENANT, Guarded, guarded, token
from turnkeep.auth import audit_trail
from turnkeep.auth.audit_trail import ROOM, Trail, channel_digest, events_of
from turnkeep.errors import StoreUnavailable
from turnkeep.store.contract import Store
from turnkeep.store.memory import MemoryStore
from turnkeep.telemetry.metrics import PrometheusMeter
from turnkeep.testing.fake_clock import FakeClock

Attack = Callable[[Guarded], Awaitable[object]]


@pytest.fixture(
    params=[
        pytest.param("memory", marks=pytest.mark.only_in_prove),  # daily in the contract
        "sqlite",
        pytest.param("redis", marks=pytest.mark.redis),
    ]
)
def store(request: pytest.FixtureRequest, memory_path: Any) -> str:
    if request.param == "redis":
        return str(request.getfixturevalue("redis_server").url())
    return "memory:" if request.param == "memory" else f"sqlite:{memory_path / 'turnkeep.db'}"


def told(events: list[audit_trail.AuditEvent]) -> list[tuple[str, str]]:
    return [(event.event, event.by) for event in events if event.event != "auth_failed"]


async def test_what_was_done_is_told_with_who_did_it_and_where(store: str) -> None:
    async with guarded(store) as house:
        http, api = house.server.http, f"{house.server.url}/api"
        owner = house.headers("owner")
        async with http.post(f"{api}/assistants", headers=owner, json={"name": CANARY, "instructions": CANARY}) as said:
            assistant_id = (await said.json())["id"]
        for method, path, body in (
            ("PATCH", f"assistants/{assistant_id}", {"instructions": CANARY}),
            ("POST", f"assistants/{assistant_id}/use", None),
            ("PATCH", f"channels/{CHANNEL}", {"assistant": assistant_id, "metadata": {"a": CANARY}}),
            ("DELETE", f"assistants/{assistant_id}", None), ("POST", "session", None),
            ("POST", "users/mallory/disconnect", None), ("DELETE", f"channels/{CHANNEL}?force=true", None),
        ):  # fmt: skip
            async with http.request(method, f"{api}/{path}", headers=owner, json=body) as said:
                assert said.status < 300, (path, await said.text())
        key = await house.key("read")
        async with http.get(f"{api}/queue", headers={"Authorization": f"Bearer {key}"}) as said:
            assert said.status == 200

        events = await events_of(house.server.queue.store)
        by = "user:olga"
        assert told(events)[:-1] == [
            ("assistant_created", by), ("assistant_changed", by), ("assistant_used", by), ("channel_changed", by),
            ("assistant_deleted", by), ("session_begun", by), ("user_disconnected", by), ("channel_forgotten", by),
        ]  # fmt: skip
        assert events[-1].event == "key_used"
        assert {(event.tenant, event.door, event.peer) for event in events} == {(TENANT, "http", "127.0.0.1")}
        assert events[3].about == {"channel": channel_digest(CHANNEL), "fields": "assistant"}
        assert CANARY not in repr(events)
        assert key.rpartition("_")[2] not in repr(events)


async def test_what_was_refused_is_told_once_and_counted_after_that(monkeypatch: pytest.MonkeyPatch) -> None:
    async with guarded() as house:
        url = f"{house.server.url}/api/queue"
        shown: dict[str, dict[str, str]] = {
            "a key": {"Authorization": f"Bearer tk_{'0' * 16}_{'f' * 64}"},
            "a token": {"Authorization": f"Bearer {token(aud=CANARY)}"},
            "nothing": {}, "a session": {"Cookie": f"turnkeep_session={CANARY}"},
            "another page": {"Origin": f"https://{CANARY}.example"}, "another name": {"Host": f"{CANARY}.example"},
        }  # fmt: skip
        for _ in range(5):
            for headers in shown.values():
                async with house.server.http.get(url, headers=headers) as said:
                    assert said.status in (400, 401, 403)
        monkeypatch.setattr(audit_trail, "QUIET", 0.0)
        async with house.server.http.get(url, headers=shown["a key"]) as said:
            assert said.status == 401

        events = await events_of(house.server.queue.store)
        assert sorted((event.event, event.about["shown"], event.count) for event in events) == [
            ("auth_failed", "key", 1), ("auth_failed", "key", 5), ("auth_failed", "nothing", 1),
            ("auth_failed", "session", 1), ("auth_failed", "token", 1),
            ("origin_refused", "", 1), ("origin_refused", "", 1),
        ]  # fmt: skip
        assert CANARY not in repr(events)


async def test_a_flood_of_refusals_is_bounded_and_writes_over_no_act() -> None:
    clock, meter = FakeClock(), PrometheusMeter()
    store = MemoryStore(clock=clock)
    written = Trail(store, meter, clock)
    await written.act("key_created", tenant="default", by="uid:0")
    for number in range(3 * ROOM["refusals"]):
        clock.advance(audit_trail.QUIET)
        await written.refuse("auth_failed", f"{number % 7}", credential="key", door="http", peer="127.0.0.1")
    events = await events_of(store)
    assert len(events) == ROOM["refusals"] + 1
    assert [event.event for event in events if event.event != "auth_failed"] == ["key_created"]
    assert [event.at for event in events] == sorted(event.at for event in events)


async def test_many_writers_take_a_place_each(store: str) -> None:
    async with guarded(store) as house:
        shared: Store = house.server.queue.store
        async with asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(Trail(shared).act("key_used", tenant="t", by=f"key:{number}"))
        assert {event.by for event in await events_of(shared)} == {f"key:{number}" for number in range(30)}


async def test_a_store_that_fails_costs_the_record_and_not_the_act() -> None:
    class Broken(MemoryStore):
        async def put(self, *_: Any, **__: Any) -> Any:
            raise StoreUnavailable

    await Trail(Broken()).act("key_created", tenant="default", by="uid:0")
