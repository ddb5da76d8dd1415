"""P12, cell by cell: every route and every socket action, tried by everybody who may come to the door.

The rows come from the tables that make the routes and the actions: what is added there is tried here, or fails.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.patience import PATIENCE
from tests.process.callers import (
    CALLERS,
    CANARY,
    CHANNEL,
    MESSAGE_ID,
    REFUSED,
    TENANT,
    Guarded,
    guarded,
    token,
)
from tests.process.served import ask, heard
from turnkeep.auth.principals import ALL_SCOPES, HELD_BY, Scope
from turnkeep.doors.http.endpoint import HttpEndpoint
from turnkeep.doors.http.routes import ENDPOINTS
from turnkeep.doors.socket.socket_actions import ACTIONS as SOCKET_ACTIONS
from turnkeep.messages import Message, text_content
from turnkeep.store.values import HeldCall

BODIES: dict[str, dict[str, Any]] = {
    "send": {"message": "hello", "message_id": "from-the-matrix"},
    "edit_message": {"message": "changed"},
    "answer": {"message": "said by a person"},
    "act": {"decision": "approved", "digest": "digest-1"},
    "change_channel": {"metadata": {"a": "b"}},
    "change_assistant": {"name": "changed"},
    "complete_chat": {"metadata": {"channel": CHANNEL}, "messages": []},
    "create_response": {"conversation": CHANNEL, "input": []},
    "change_conversation": {"metadata": {"a": "b"}},
    "run_agent": {"threadId": CHANNEL, "messages": [{"id": "u8", "role": "user", "content": "hello"}]},
    "chat": {"id": CHANNEL, "messages": [{"id": "u9", "role": "user", "parts": [{"type": "text", "text": "hello"}]}]},
}

SCOPES: dict[str, tuple[Scope, ...]] = {
    "complete_chat": ("send", "read"), "create_response": ("send", "read"), "show_response": ("read",),
    "chat": ("send", "read"), "run_agent": ("send", "read"), "join_agent": ("read",),
    "cancel_response": ("send", "read"), "show_thread_form": ("read",), "change_thread": ("send", "read"),
    "delete_thread": ("manage",), "add_message": ("send",), "list_thread_messages": ("read",),
    "show_thread_message": ("read",), "refuse_message_change": ("send",), "refuse_message_deletion": ("send",),
    "begin_run": ("send", "read"), "list_thread_runs": ("read",), "show_run": ("read",),
    "refuse_run_change": ("send", "read"), "submit_outputs": ("approve", "read"), "cancel_run": ("send", "read"),
    "list_run_steps": ("read",), "show_run_step": ("read",), "begin_thread": ("send", "read"),
    "begin_thread_and_run": ("send", "read"), "begin_conversation": ("send", "read"),
    "show_conversation": ("read",), "change_conversation": ("send", "read"), "delete_conversation": ("manage",),
    "list_conversation_items": ("read",), "show_conversation_item": ("read",),
    "add_conversation_items": ("send", "read"), "delete_conversation_item": ("send", "read"),
    "list_input_items": ("read",),
}  # fmt: skip
"""What routes ask for whose channel is not in their path."""

OWNER: dict[str, int] = {
    "stream_events": 200, "send": 202, "list_messages": 200, "show_message": 200, "edit_message": 200,
    "withdraw_message": 200, "cancel": 200, "flush": 200, "pause": 200, "resume": 200, "regenerate": 409, "act": 404,
    "list_runs": 200,
    "show_channel": 200, "change_channel": 200, "forget_channel": 204, "show_queue": 200, "list_dead": 200,
    "show_dead": 200, "redrive": 202, "discard": 204, "list_assistants": 200, "create_assistant": 201,
    "show_assistant": 200, "change_assistant": 200, "delete_assistant": 204, "use_assistant": 200, "list_threads": 200,
    "create_thread": 201, "issue_ticket": 201, "begin_session": 201, "show_session": 200, "end_session": 204,
    "show_openapi": 200, "show_metrics": 404, "disconnect_user": 200, "answer": 201, "redrive_dead": 404,
    "discard_dead": 404, "list_workers": 200, "show_activity": 200, "show_usage": 200, "stream_overview": 200,
    "show_run_life": 404, "list_recent_runs": 200, "list_sinks": 200, "list_keys": 200, "search": 400,
    "revoke_key": 404,
    "list_models": 200, "show_model": 200, "complete_chat": 400, "create_response": 400,
    "chat": 200, "resume_chat": 200, "stop_chat": 200, "show_chat": 200,
    "run_agent": 200, "join_agent": 200,
    "show_response": 200, "cancel_response": 200, "create_profile": 400, "list_profiles": 200, "show_profile": 200,
    "change_profile": 200, "delete_profile": 404, "begin_thread": 200, "begin_thread_and_run": 400,
    "show_thread_form": 200, "change_thread": 200, "delete_thread": 200, "add_message": 400,
    "list_thread_messages": 200, "show_thread_message": 200, "refuse_message_change": 400,
    "refuse_message_deletion": 400, "begin_run": 400, "list_thread_runs": 200, "show_run": 404,
    "refuse_run_change": 404, "submit_outputs": 404, "cancel_run": 404, "list_run_steps": 404, "show_run_step": 404,
    "begin_conversation": 200, "show_conversation": 200, "change_conversation": 200, "delete_conversation": 200,
    "list_conversation_items": 200, "show_conversation_item": 404, "add_conversation_items": 400,
    "delete_conversation_item": 404, "list_input_items": 200,
}  # fmt: skip

NOT_THERE = {"show_message", "edit_message", "withdraw_message", "pause", "resume", "regenerate", "act",
             "list_messages", "list_runs", "show_channel", "change_channel", "forget_channel", "show_dead",
             "redrive", "discard", "show_assistant", "change_assistant", "delete_assistant",
             "use_assistant", "answer", "show_run_life", "revoke_key", "redrive_dead", "discard_dead",
             "show_model", "show_response",
             "cancel_response", "show_profile", "change_profile", "delete_profile", "show_thread_form",
             "change_thread", "delete_thread", "add_message", "list_thread_messages", "show_thread_message",
             "refuse_message_change", "refuse_message_deletion", "begin_run", "list_thread_runs", "show_run",
             "refuse_run_change", "submit_outputs", "cancel_run", "list_run_steps", "show_run_step",
             "show_conversation", "change_conversation", "delete_conversation", "list_conversation_items",
             "show_conversation_item", "add_conversation_items", "delete_conversation_item",
             "list_input_items"}  # fmt: skip
"""What a stranger with every right in his own tenant finds missing there."""

ACTIONS: dict[str, dict[str, Any]] = {
    "auth": {}, "ping": {}, "message": {"message": "hello", "message_id": "from-the-matrix"}, "subscribe": {},
    "unsubscribe": {}, "typing": {}, "flush": {}, "cancel": {"inbox": "drop"},
    "decide": {"call_id": "call_x", "decision": "approved"}, "edit": {"message_id": MESSAGE_ID, "message": "changed"},
    "withdraw": {"message_id": MESSAGE_ID}, "pause": {}, "resume": {}, "regenerate": {},
}  # fmt: skip


def name(endpoint: HttpEndpoint) -> str:
    return endpoint.handler.__name__


def last_that_destroy(endpoint: HttpEndpoint) -> tuple[bool, bool, bool]:
    """A person's answer settles what waits, so it comes behind what asks for a message that waits."""
    forgets = name(endpoint) in ("forget_channel", "delete_thread", "delete_conversation")
    settles = name(endpoint) == "answer"
    return endpoint.method == "DELETE" or settles, forgets or name(endpoint) == "discard", settles


async def call(house: Guarded, endpoint: HttpEndpoint, headers: dict[str, str]) -> tuple[int, str]:
    """The status, and what was said (of a stream its beginning)."""
    dead_id = house.dead_ids[name(endpoint) == "discard"]
    path = endpoint.path.format(
        channel=CHANNEL,
        message_id=MESSAGE_ID,
        call_id="call_x",
        key_id="none",
        dead_id=dead_id,
        assistant_id=house.assistant_id,
        user="nobody",
        model=house.assistant_id,
        response_id=house.response_id,
        thread_id=house.thread_id,
        run_id="run_none",
        step_id="step_none",
        conversation_id="own-dead-1",
        item_id="msg_none",
    )
    body = json.dumps(BODIES[name(endpoint)]) if name(endpoint) in BODIES else None
    query = {"after": f"{house.epoch}:0"} if endpoint.media == "text/event-stream" else {"force": "true"}
    query |= {"threadId": CHANNEL} if name(endpoint) == "join_agent" else {}
    url = house.server.url + path
    async with house.server.http.request(endpoint.method, url, headers=headers, data=body, params=query) as told:
        if told.status == 200 and endpoint.media == "text/event-stream":
            return told.status, await beginning(told.content)
        return told.status, await told.text()


async def beginning(content: Any) -> str:
    """What comes while anything comes."""
    text = b""
    while True:
        try:
            async with asyncio.timeout(0.2 if text else PATIENCE):
                text += await content.readany()
        except TimeoutError:
            return text.decode()


def expected(endpoint: HttpEndpoint, caller: str) -> int:
    """The status of a cell."""
    if endpoint.public:
        return 200
    if caller in REFUSED:
        return 401
    if caller == "other user" and scopes_of(endpoint):
        return 403
    if caller == "other tenant" and name(endpoint) == "resume_chat":
        return 204
    if caller == "other tenant" and name(endpoint) in NOT_THERE:
        return 404
    return OWNER[name(endpoint)]


def scopes_of(endpoint: HttpEndpoint) -> tuple[Scope, ...]:
    return SCOPES.get(name(endpoint), () if endpoint.scope is None else (endpoint.scope,))


def test_every_route_has_its_row() -> None:
    assert {name(endpoint) for endpoint in ENDPOINTS} == set(OWNER)
    assert len({name(endpoint) for endpoint in ENDPOINTS}) == len(ENDPOINTS)
    assert set(SOCKET_ACTIONS) == set(ACTIONS)


@pytest.fixture(
    params=[  # who may what is asked above the store, and keys are a promise of its contract
        "sqlite",
        pytest.param("memory", marks=pytest.mark.only_in_prove),
        pytest.param("redis", marks=[pytest.mark.redis, pytest.mark.only_in_prove]),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Any) -> str:
    """A store of each engine."""
    if request.param == "redis":
        return str(request.getfixturevalue("redis_server").url())
    return "memory:" if request.param == "memory" else f"sqlite:{tmp_path / 'turnkeep.db'}"


@pytest.mark.prove
async def test_every_route_answers_everybody_as_it_should(store: str, proof: Callable[[str, str], None]) -> None:
    cells = leaks = 0
    async with guarded(store) as house:
        before = await house.state()
        for caller in CALLERS[1:]:
            # what would make a channel comes last
            for endpoint in sorted(ENDPOINTS, key=lambda one: name(one) in ("send", "chat", "run_agent")):
                status, said = await call(house, endpoint, house.headers(caller))
                assert status == expected(endpoint, caller), (caller, name(endpoint), status, said)
                leaks += CANARY in said
                cells += 1
        assert await house.state() == before, "a stranger changed what is the owner's"
        seen = ""
        for endpoint in sorted(ENDPOINTS, key=last_that_destroy):
            status, said = await call(house, endpoint, house.headers("owner"))
            assert status == expected(endpoint, "owner"), (name(endpoint), status, said)
            seen += said
            cells += 1
        assert CANARY in seen, "the canary was never there to be leaked"
    assert leaks == 0
    proof(f"access over HTTP ({engine_of(store)})", f"cells {cells} | leaks {leaks}")


def engine_of(store: str) -> str:
    return store.partition(":")[0]


@pytest.mark.prove
async def test_every_scope_reaches_exactly_what_it_is_for(store: str, proof: Callable[[str, str], None]) -> None:
    """Each scope alone, in a tenant of its own, at every route and every action of a socket."""
    cells = leaks = 0
    async with guarded(store) as house:
        before = await house.state()
        for scope in sorted(ALL_SCOPES):
            bearer = {"Authorization": f"Bearer {await house.key(scope, tenant=f'tenant-{scope}')}"}
            for endpoint in sorted(ENDPOINTS, key=lambda one: name(one) in ("begin_session", "end_session")):
                status, said = await call(house, endpoint, bearer)
                allowed = all(scope in HELD_BY[needed] for needed in scopes_of(endpoint))
                assert (status != 403) == allowed, (scope, name(endpoint), status)
                leaks += CANARY in said
                cells += 1
            for action, (said, _) in (await acts(house, bearer, {*SOCKET_ACTIONS} - {"auth"})).items():
                needed = SOCKET_ACTIONS[action].scope
                allowed = needed is None or scope in HELD_BY[needed]
                assert ('"not_allowed"' not in said) == allowed, (scope, action, said)
                leaks += CANARY in said
                cells += 1
        assert await house.state() == before, "somebody changed what is another tenant's"
    assert leaks == 0
    proof(f"access by scope ({engine_of(store)})", f"cells {cells} | leaks {leaks}")


async def acts(house: Guarded, headers: dict[str, str], actions: set[str]) -> dict[str, tuple[str, int | None]]:
    return {action: await act_with(house, headers, action) for action in sorted(actions)}


@pytest.mark.parametrize(
    ("body", "scopes"),
    [
        ({"metadata": {"a": "b"}}, {"send", "manage", "admin"}),
        ({"assistant": None}, {"manage", "admin"}),
        ({"options": {"window": 3600}}, {"manage", "admin"}),
        ({"metadata": {"a": "b"}, "options": {}}, {"manage", "admin"}),
    ],
)
async def test_who_answers_and_how_long_it_waits_is_for_who_manages(body: dict[str, Any], scopes: set[str]) -> None:
    async with guarded() as house:
        url = f"{house.server.url}/api/channels/{CHANNEL}"
        for scope in sorted(ALL_SCOPES):
            bearer = {"Authorization": f"Bearer {await house.key(scope)}"}
            async with house.server.http.patch(url, headers=bearer, json=body) as told:
                assert (told.status < 300) == (scope in scopes), (scope, told.status)


async def test_who_may_only_send_reads_nothing_by_changing_a_thread() -> None:
    async with guarded() as house:
        bearer = {"Authorization": f"Bearer {await house.key('send')}"}
        url = f"{house.server.url}/api/channels/{CHANNEL}"
        async with house.server.http.patch(url, headers=bearer, json={"metadata": {"a": "b"}}) as told:
            assert (told.status, await told.read()) == (204, b"")
        async with house.server.http.get(url, headers=bearer) as told:
            assert told.status == 403


@pytest.mark.prove
async def test_every_socket_action_answers_everybody_as_it_should(
    store: str, proof: Callable[[str, str], None]
) -> None:
    cells = leaks = 0
    async with guarded(store) as house:
        before = await house.state()
        for caller in ("other tenant", "other user", *REFUSED):
            for action in SOCKET_ACTIONS:
                said, code = await act(house, caller, action)
                cells += 1
                leaks += CANARY in said
                if caller in REFUSED:
                    assert (said, code) == ("", 4401), (caller, action, said, code)
                elif caller == "other user" and SOCKET_ACTIONS[action].scope is not None:
                    assert '"not_allowed"' in said, (action, said)
                else:
                    assert '"not_allowed"' not in said, (action, said)
        assert await house.state() == before, "a stranger changed what is the owner's"
        for action in sorted(SOCKET_ACTIONS, key=lambda one: one == "cancel"):
            said, _ = await act(house, "owner", action)
            cells += 1
            assert '"not_allowed"' not in said, (action, said)
            assert (CANARY in said) == (action == "subscribe"), (action, said)
    assert leaks == 0
    proof(f"access over sockets ({engine_of(store)})", f"cells {cells} | leaks {leaks}")


# ---------------------------------------------------------------- a call that waits for a decision


@pytest.mark.prove
async def test_only_its_owner_decides_a_held_call(store: str, proof: Callable[[str, str], None]) -> None:
    """Every caller at both doors, approving, denying and answering; only the owner's decision changes anything."""
    cells = leaks = 0
    async with guarded(store) as house:
        for channel in ("own-held-1", "own-held-2"):
            await hold(house, channel)
        before = await house.state()
        for caller in ("other user", "other tenant", *REFUSED):
            for decision in ("approved", "denied", "output"):
                status, said = await decided(house, caller, "own-held-1", decision)
                refusal = 401 if caller in REFUSED else 403 if caller == "other user" else 404
                assert status == refusal, (caller, decision, status, said)
                heard, code = await decided_on_socket(house, caller, "own-held-1", decision)
                assert code == (4401 if caller in REFUSED else None), (caller, heard, code)
                assert caller in REFUSED or heard["code"] == {403: "not_allowed", 404: "not_found"}[refusal]
                leaks += CANARY in said + json.dumps(heard)
                cells += 2
        assert await house.state() == before, "a stranger changed what is the owner's"
        status, said = await decided(house, "owner", "own-held-1", "approved")
        heard, _ = await decided_on_socket(house, "owner", "own-held-2", "denied")
        cells += 2
        assert (status, heard["status"]) == (200, "decided"), (said, heard)
        assert CANARY in said, "the canary was never there to be leaked"
        calls = [await only_call(house, channel) for channel in ("own-held-1", "own-held-2")]
        assert [(call.decision, call.by) for call in calls] == [("approved", "user:olga"), ("denied", "user:olga")]
    assert leaks == 0
    proof(f"access to a held call ({engine_of(store)})", f"cells {cells} | leaks {leaks}")


async def hold(house: Guarded, channel: str) -> None:
    """A run on this channel that waits for somebody to decide what the model wants to do."""
    queue = house.server.queue
    address = queue.address(channel, TENANT)
    await queue.accept([Message(address, "m1", text_content("pay"), flush=True)])
    [claim] = await queue.store.claim(owner="tests", limit=1, lease=30.0, queues=(queue.name,))
    await queue.store.hold(claim, [HeldCall("call_1", "pay", json.dumps({"to": CANARY}), "digest-1")], expires_in=600.0)


async def only_call(house: Guarded, channel: str) -> HeldCall:
    record = await house.server.queue.store.thread(house.server.queue.address(channel, TENANT))
    assert record is not None
    [call] = record.calls
    return call


async def decided(house: Guarded, caller: str, channel: str, decision: str) -> tuple[int, str]:
    url = f"{house.server.url}/api/channels/{channel}/actions/call_1"
    body = {"decision": decision, "output": "done", "digest": "digest-1"}
    async with house.server.http.post(url, headers=house.headers(caller), json=body) as told:
        return told.status, await told.text()


async def decided_on_socket(
    house: Guarded, caller: str, channel: str, decision: str
) -> tuple[dict[str, Any], int | None]:
    frame = {"action": "decide", "channel": channel, "call_id": "call_1", "digest": "digest-1"}
    frame |= {"decision": decision, "output": "done"}
    try:
        async with house.server.socket(additional_headers=house.headers(caller)) as socket:
            try:
                return await ask(socket, frame), None
            except ConnectionClosed:
                return {}, socket.close_code
    except InvalidStatus as refused:
        return {}, 4_000 + refused.response.status_code


async def act(house: Guarded, caller: str, action: str) -> tuple[str, int | None]:
    awaited = CANARY if caller == "owner" else ""
    return await act_with(house, house.headers(caller), action, bearer=house.bearers[caller], awaited=awaited)


async def act_with(
    house: Guarded, headers: dict[str, str], action: str, *, bearer: str | None = None, awaited: str = ""
) -> tuple[str, int | None]:
    """All that is said until a ping is answered, or the socket is closed; and the close code."""
    frame = {"action": action, "channel": CHANNEL, "history": 100, "events": "all", **ACTIONS[action]}
    if action == "auth":
        frame = {"action": "auth", "token": bearer}
    if action == "message":
        del frame["action"], frame["history"], frame["events"]
    said: list[Any] = []
    try:
        socket = await house.server.socket(additional_headers=headers)
    except InvalidStatus as refused:
        return "", 4_000 + refused.response.status_code
    async with socket:
        try:
            await socket.send(json.dumps(frame))
            await socket.send(json.dumps({"action": "ping", "id": "last"}))
            while not said or said[-1].get("id") != "last":
                said.append(await heard(socket))
            if action == "subscribe":
                await read_rest(socket, said, until=awaited)
        except ConnectionClosed:
            pass
    return (json.dumps(said, separators=(",", ":")) if said else ""), socket.close_code


async def read_rest(socket: Any, said: list[Any], *, until: str) -> None:
    """What comes up to this word, and a while longer: of who is told nothing it cannot be known when he would be."""
    while True:
        try:
            said.append(await heard(socket, patience=0.2 if until in json.dumps(said) else PATIENCE))
        except TimeoutError:
            return


async def test_a_prefix_for_channels_reaches_no_thread_by_its_id() -> None:
    async with guarded() as house:
        record = await house.server.queue.store.thread(house.server.queue.address(CHANNEL, TENANT))
        assert record is not None
        for pattern, status in (("t*", 403), ("thread-*", 403), ("*", 200), ("thread_*", 200), (record.thread_id, 200)):
            headers = {"Authorization": f"Bearer {token(scope='read', channels=[pattern])}"}
            url = f"{house.server.url}/api/channels/{record.thread_id}/messages"
            async with house.server.http.get(url, headers=headers) as told:
                assert told.status == status, pattern


async def test_the_tenant_comes_from_the_credential_and_never_from_the_body() -> None:
    async with guarded() as house:
        body = {"message": "hello", "message_id": "x", "tenant": TENANT, "queue": "other"}
        url = f"{house.server.url}/api/channels/{CHANNEL}/messages"
        async with house.server.http.post(url, headers=house.headers("other tenant"), json=body) as told:
            assert told.status == 202
        async with house.server.socket(additional_headers=house.headers("other tenant")) as socket:
            receipt = await ask(socket, {"channel": CHANNEL, "message": "hello", "message_id": "y", "tenant": TENANT})

        assert receipt["status"] == "accepted"
        store, queue = house.server.queue.store, house.server.queue
        mine = await store.open_messages(queue.address(CHANNEL, "rival"))
        assert [record.message_id for record in mine] == ["x", "y"]
        assert len(await store.open_messages(queue.address(CHANNEL, TENANT))) == 1


async def test_an_admin_of_some_channels_is_no_admin_of_the_tenant() -> None:
    async with guarded() as house:
        bearer = {"Authorization": f"Bearer {await house.key('admin', channels=['bob-*'])}"}
        for endpoint in ENDPOINTS:
            if scopes_of(endpoint):
                status, said = await call(house, endpoint, bearer)
                assert status == 403, (name(endpoint), said)
