"""How somebody comes in, stays in, and is shown out: on a real socket, over HTTP, and at the start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import pytest
import websockets
from websockets.exceptions import ConnectionClosed

from tests.patience import PATIENCE
from tests.process.callers import CHANNEL, TENANT, Guarded, guarded, token
from tests.process.served import ask, served
from turnkeep.doors.socket_transport import UNKNOWN_READ_LIMIT
from turnkeep.errors import ConfigurationError


async def ticket(house: Guarded) -> str:
    async with house.server.http.post(f"{house.server.url}/api/tickets", headers=house.headers("owner")) as told:
        assert told.status == 201
        return str((await told.json())["ticket"])


async def close_code(socket: Any) -> int | None:
    async with asyncio.timeout(PATIENCE):
        await socket.wait_closed()
    code = socket.close_code
    assert code is None or isinstance(code, int)
    return code


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_beyond_this_machine_nothing_starts_without_authentication(host: str) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with served(host=host):
            pass
    assert caught.group_contains(ConfigurationError, match="turnkeep keys create", depth=1)


async def test_a_browser_comes_in_with_a_ticket_once() -> None:
    async with guarded() as house:
        value = await ticket(house)
        async with house.server.socket(subprotocols=["turnkeep", f"ticket.{value}"]) as socket:
            assert socket.subprotocol == "turnkeep"
            assert (await ask(socket, {"action": "subscribe", "channel": CHANNEL}))["status"] == "subscribed"
        async with house.server.socket(subprotocols=["turnkeep", f"ticket.{value}"]) as socket:
            assert await close_code(socket) == 4401


@pytest.mark.parametrize("kind", ["token", "ticket"])
async def test_the_first_frame_may_hold_the_credential_where_that_is_set(kind: str) -> None:
    async with guarded(first_frame_auth=True) as house:
        value = token() if kind == "token" else await ticket(house)
        async with house.server.socket() as socket:
            await socket.send(json.dumps({"action": "auth", kind: value}))
            assert (await ask(socket, {"action": "subscribe", "channel": CHANNEL}))["status"] == "subscribed"


@pytest.mark.parametrize(
    "frame",
    ["", "{", "[]", '{"action": "ping"}', '{"action": "auth"}', '{"action": "auth", "token": 7}', b"\x00",
     '{"action": "auth", "token": "x"}', '{"action": "auth", "ticket": "x"}',
     '{"action":"auth","token":"' + "x" * 20_000],
)  # fmt: skip
async def test_any_other_first_frame_ends_the_socket(frame: str | bytes) -> None:
    async with guarded(first_frame_auth=True) as house, house.server.socket() as socket:
        await socket.send(frame)
        assert await close_code(socket) == (4401 if len(frame) < UNKNOWN_READ_LIMIT else 1009)


async def test_whoever_shows_nothing_is_refused_before_the_upgrade(caplog: pytest.LogCaptureFixture) -> None:
    async with guarded() as house:
        with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
            await house.server.socket()
        response = caught.value.response
        assert response.status_code == 401
        assert response.headers["WWW-Authenticate"].startswith("Bearer")
        assert json.loads(response.body or b"")["error"]["code"] == "not_authenticated"
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_behind_tls_the_cookie_is_for_this_host_alone() -> None:
    """A proxy of this machine says what the browser sees; another one has to be named in `TURNKEEP_PROXIES`."""
    for proxies, scheme, name in (
        (["127.0.0.1"], "https", "__Host-turnkeep_session"),
        (["127.0.0.1"], "http", "turnkeep_session"),
        (["10.0.0.0/8"], "https", "turnkeep_session"),
    ):
        settings: dict[str, Any] = {"proxies": proxies}
        async with guarded(**settings) as house:
            bearer = house.headers("owner") | {"X-Forwarded-Proto": scheme, "X-Forwarded-For": "203.0.113.9"}
            async with house.server.http.post(f"{house.server.url}/api/session", headers=bearer) as told:
                cookie = told.headers["Set-Cookie"]
            assert cookie.startswith(f"{name}=")
            assert ("; Secure" in cookie) == name.startswith("__Host-")
            shown = {"Cookie": cookie.partition(";")[0]}
            async with house.server.http.get(f"{house.server.url}/api/session", headers=shown) as told:
                assert told.status == 200


async def test_no_answer_is_guessed_at_and_none_of_the_api_is_kept() -> None:
    async with guarded() as house:
        for path, status in (("/api/queue", 401), ("/api/nothing", 404), ("/healthz", 200), ("/static/icon.svg", 200)):
            async with house.server.http.get(house.server.url + path) as told:
                assert (told.status, told.headers["X-Content-Type-Options"]) == (status, "nosniff")
                assert (told.headers.get("Cache-Control") == "no-store") == path.startswith("/api")


async def test_a_credential_in_the_address_is_refused_at_both_doors() -> None:
    async with guarded() as house:
        async with house.server.http.get(f"{house.server.url}/api/queue?token={token()}") as told:
            assert told.status == 400
            assert "never taken from the address" in (await told.json())["error"]["message"]
        url = house.server.url.replace("http", "ws") + f"/ws?access_token={token()}"
        async with websockets.connect(url) as socket:
            assert await close_code(socket) == 4401


async def test_a_socket_ends_with_its_credential_and_goes_on_with_a_fresh_one() -> None:
    async with guarded() as house:
        brief = {"Authorization": f"Bearer {token(exp=time.time() + 2)}"}
        async with (
            house.server.socket(additional_headers=brief) as ending,
            house.server.socket(additional_headers=brief) as staying,
        ):
            for socket in (ending, staying):
                await ask(socket, {"action": "subscribe", "channel": CHANNEL})
            assert (await ask(staying, {"action": "auth", "token": token()}))["status"] == "authenticated"
            assert await close_code(ending) == 4401
            assert (await ask(staying, {"action": "ping", "id": 1}))["id"] == 1


@pytest.mark.parametrize(
    ("fresh", "code"),
    [
        ({"tenant": "rival"}, 4403),
        ({"sub": "bob"}, 4403),
        ({"channels": ["other"]}, 4403),
        ({"scope": "send"}, 4403),
        ({"exp": 1}, 4401),
        ({"aud": "other"}, 4401),
    ],
)
async def test_a_fresh_credential_that_does_not_reach_so_far_ends_the_socket(fresh: dict[str, Any], code: int) -> None:
    async with guarded() as house, house.server.socket(additional_headers=house.headers("owner")) as socket:
        await ask(socket, {"action": "subscribe", "channel": CHANNEL})
        await socket.send(json.dumps({"action": "auth", "token": token(**fresh)}))
        assert await close_code(socket) == code


async def test_a_revoked_key_ends_sockets_and_streams_and_can_not_resume() -> None:
    async with guarded() as house:
        value, key = await house.keys.create(tenant=TENANT, scopes=("read",))
        bearer = {"Authorization": f"Bearer {value}"}
        url = f"{house.server.url}/api/channels/{CHANNEL}/events"
        async with (
            house.server.socket(additional_headers=bearer) as socket,
            house.server.http.get(url, headers=bearer) as stream,
        ):
            begun = await ask(socket, {"action": "subscribe", "channel": CHANNEL})
            await house.keys.revoke(key.key_id)
            assert await close_code(socket) == 4401
            async with asyncio.timeout(PATIENCE):
                said = (await stream.content.read()).decode()
            assert "event: closed" in said
            assert "not_authenticated" in said
        async with house.server.socket(additional_headers=bearer) as socket:
            with contextlib.suppress(ConnectionClosed):
                await socket.send(json.dumps({"action": "subscribe", "channel": CHANNEL, "offset": begun["offset"]}))
            assert await close_code(socket) == 4401


async def test_a_page_of_another_site_gets_nothing_at_any_door() -> None:
    async with served(role="gateway") as server:
        evil = {"Origin": "https://evil.example.com"}
        async with server.http.post(
            f"{server.url}/api/channels/c/messages", headers=evil, json={"message": "x"}
        ) as told:
            assert told.status == 403
        async with server.socket(additional_headers=evil) as socket:
            assert await close_code(socket) == 4403
        async with server.http.get(f"{server.url}/", headers={"Host": "rebound.example.com"}) as told:
            assert told.status == 400


async def test_a_session_is_a_strict_cookie_and_changes_need_its_token() -> None:
    async with guarded() as house:
        http, url = house.server.http, house.server.url
        async with http.post(f"{url}/api/session", headers=house.headers("owner")) as told:
            assert told.status == 201
            cookie, csrf = told.headers["Set-Cookie"], (await told.json())["csrf"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        cookies = {"Cookie": cookie.partition(";")[0]}
        assert token() not in cookie
        async with http.get(f"{url}/api/dead", headers=cookies) as told:
            assert told.status == 200
        dead = f"{url}/api/dead/{house.dead_ids[0]}"
        for headers, status in ((cookies, 403), ({**cookies, "X-CSRF-Token": csrf}, 204)):
            async with http.delete(dead, headers=headers) as told:
                assert told.status == status
        async with http.post(f"{url}/api/session", headers={**cookies, "X-CSRF-Token": csrf}) as told:
            assert told.status == 401
        async with http.delete(f"{url}/api/session", headers={**cookies, "X-CSRF-Token": csrf}) as told:
            assert told.status == 204
        async with http.get(f"{url}/api/dead", headers=cookies) as told:
            assert told.status == 401


async def test_the_user_of_a_message_is_who_the_credential_says() -> None:
    async with guarded() as house:
        body = {"message": "hello", "message_id": "said-by-owner", "metadata": {"user": "somebody else", "topic": "x"}}
        url = f"{house.server.url}/api/channels/{CHANNEL}/messages"
        async with house.server.http.post(url, json=body, headers=house.headers("owner")) as told:
            assert told.status == 202
        waiting = await house.server.queue.store.message(house.server.queue.address(CHANNEL, TENANT), "said-by-owner")
        assert waiting is not None
        assert waiting.message is not None
    assert waiting.message.metadata["topic"] == "x"
    assert waiting.message.metadata["user"] not in ("somebody else", "anonymous")
