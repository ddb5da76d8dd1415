"""Somebody with a good credential for something else: other spellings, other doors, exchanged credentials."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

import pytest
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.attack.conftest import Tried
from tests.attack.target import Attempt, Target
from tests.patience import PATIENCE
from tests.process.callers import CANARY, CHANNEL, MESSAGE_ID, TENANT, Guarded, guarded, token
from tests.process.served import heard
from turnkeep.doors.http.routes import ENDPOINTS
from turnkeep.messages import Address

Headers = Mapping[str, str]


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


# ---------------------------------------------------------------- other spellings

SPELLINGS = (
    CHANNEL,
    "%6fwn-1",
    "OWN-1",
    "own-1%20",
    "%20own-1",
    "own-1%00",
    "bob-1%2F..%2Fown-1",
    "bob-1/../own-1",
    "./own-1",
    "bob-%2A",
    "own-1%2Fmessages",
    "bob-1%2F..%2F..%2Fchannels%2Fown-1",
    "own%2D1",
    "own-1;bob-1",
    "bob-1,own-1",
    "%2e%2e%2fown-1",
    "own-1%3Fa",
    "own-1%23",
    "own\u20111",
    "%EF%BD%8Fwn-1",
    "*",
    "%2A",
    "own-*",
    "",
    "thread_own-1",
    "@THREAD@",
    "%74hread_@ID@",
)


def spelled(house: Guarded, thread_id: str, people: Mapping[str, Headers]) -> Iterator[Attempt]:
    for name, headers in people.items():
        for spelling in SPELLINGS:
            path = spelling.replace("@THREAD@", thread_id).replace("@ID@", thread_id.removeprefix("thread_"))
            for method, rest in (
                ("GET", "/messages"),
                ("GET", ""),
                ("POST", "/messages"),
                ("DELETE", "?force=true"),
                ("PATCH", f"/messages/{MESSAGE_ID}"),
                ("GET", "/events"),
            ):
                yield raw(f"{name}: {method} {path}{rest}", house, headers, method, f"/api/channels/{path}{rest}")


def raw(name: str, house: Guarded, headers: Headers, method: str, path: str) -> Attempt:
    """As it is written, without the care of a client."""
    body = b'{"message": "planted"}' if method in ("POST", "PATCH") else b""
    sent = {
        **headers,
        "Host": house.server.url.partition("//")[2],
        "Content-Length": str(len(body)),
        "Connection": "close",
    }
    lines = "".join(f"{field}: {value}\r\n" for field, value in sent.items())
    line = quote(path, safe="/?=%*;,.@:-_~")

    async def act(target: Target) -> str | None:
        said = await target.raw(f"{method} {line} HTTP/1.1\r\n{lines}\r\n".encode() + body, patience=0.3)
        return f"{said[:120]!r}" if CANARY.encode() in said else None

    return Attempt("spelling", name, act)


# ---------------------------------------------------------------- sockets


def frames(thread_id: str) -> Iterator[dict[str, object]]:
    for channel in (CHANNEL, thread_id, [CHANNEL], {"channel": CHANNEL}, f"{CHANNEL}\0", "*", "own-*", None, 1, True):
        for action in ("subscribe", "message", "typing", "flush", "cancel", "pause", "regenerate"):
            yield {"action": action, "channel": channel, "message": "planted", "history": 100, "events": "all"}
        yield {"channel": "subscription", "payload": {"action": "subscribe", "channel": channel, "history": 100}}
    yield {"channel": "bob-1", "address": {"tenant": TENANT, "channel": CHANNEL}, "message": "x", "tenant": TENANT}
    yield {"action": "subscribe", "channel": "bob-1", "tenant": TENANT, "queue": "other", "thread_id": thread_id}


def on_socket(name: str, headers: Headers, frame: Mapping[str, object]) -> Attempt:
    async def act(target: Target) -> str | None:
        said = ""
        try:
            async with target.server.socket(additional_headers=dict(headers)) as socket:
                await socket.send(json.dumps(dict(frame)))
                await socket.send(json.dumps({"action": "ping", "id": "last"}))
                while '"last"' not in said:
                    said += json.dumps(await heard(socket))
        except ConnectionClosed:
            pass
        return said[:200] if CANARY in said else None

    return Attempt("socket", f"{name}: {str(frame)[:100]}", act)


async def test_no_spelling_and_no_frame_reaches_what_is_somebody_elses(tried: Tried) -> None:
    async with guarded() as house:
        store, queue = house.server.queue.store, house.server.queue
        record = await store.thread(Address(TENANT, queue.name, CHANNEL))
        assert record is not None
        people = {
            "other user": bearer(token(sub="bob", scope="send read manage approve", channels=["bob-*"])),
            "other tenant": house.headers("other tenant"),
            "key of one channel": bearer(await house.key("admin", channels=["bob-1"])),
            "sends alone": bearer(await house.key("send", channels=["bob-*"])),
        }
        before = await whole(house)
        attempts = [*spelled(house, record.thread_id, people)]
        attempts += [on_socket(name, headers, f) for name, headers in people.items() for f in frames(record.thread_id)]
        await tried(Target(house.server), attempts)
        assert await whole(house) == before


async def whole(house: Guarded) -> str:
    """Everything on the channel; what strangers do on their own is theirs."""
    store, address = house.server.queue.store, Address(TENANT, house.server.queue.name, CHANNEL)
    page = await store.read(address)
    return repr([await store.thread(address), await store.open_messages(address), page.epoch, page.top])


# ---------------------------------------------------------------- exchanged credentials


async def test_an_exchanged_credential_is_no_more_than_what_it_was_exchanged_for(tried: Tried) -> None:
    async with guarded() as house:
        narrow = bearer(await house.key("read", channels=["bob-1"]))
        http, api = house.server.http, f"{house.server.url}/api"
        async with http.post(f"{api}/tickets", headers=narrow) as told:
            ticket = (await told.json())["ticket"]
        async with http.post(f"{api}/session", headers=narrow) as told:
            cookie = {"Cookie": f"turnkeep_session={told.cookies['turnkeep_session'].value}"}
            csrf = {"X-CSRF-Token": (await told.json())["csrf"]}
        async with http.post(f"{api}/session", headers=house.headers("owner")) as told:
            owner = {"Cookie": f"turnkeep_session={told.cookies['turnkeep_session'].value}"}
        http.cookie_jar.clear()
        before = await house.state()
        attempts = [*exchanged(cookie, csrf, owner), *tickets(ticket, cookie)]
        await tried(Target(house.server), attempts)
        assert await house.state() == before


def exchanged(cookie: Headers, csrf: Headers, owner: Headers) -> Iterator[Attempt]:
    own_page = {"Origin": "@URL@"}
    names = {"channel": CHANNEL, "message_id": MESSAGE_ID, "user": "olga"}
    for name, headers in (
        ("a session of one channel", {**cookie, **csrf, **own_page}),
        ("a session without its token", {**owner, **own_page}),
        ("a session with another's token", {**owner, **csrf, **own_page}),
        ("an empty token", {**owner, "X-CSRF-Token": ""}),
        ("a session from another page", {**owner, **csrf, "Origin": "https://evil.example"}),
        ("a wrong bearer beside a session", {**owner, **bearer("tk_wrong")}),
        ("a session twice", {"Cookie": f"{owner['Cookie']}x; {cookie['Cookie']}"}),
    ):
        for endpoint in ENDPOINTS:
            if endpoint.scope is not None and endpoint.method != "GET":
                path = re.sub(r"\{(\w+)\}", lambda found: names.get(found[1], "x"), endpoint.path)
                yield changed(f"{name}: {endpoint.method} {endpoint.path}", headers, endpoint.method, path)
    yield changed("a session from a session", {**cookie, **csrf, **own_page}, "POST", "/api/session")


def changed(name: str, headers: Headers, method: str, path: str) -> Attempt:
    async def act(target: Target) -> str | None:
        sent = {field: value.replace("@URL@", target.server.url) for field, value in headers.items()}
        url = target.server.url + path
        async with target.server.http.request(method, url, headers=sent, json={"message": "planted"}) as told:
            return None if told.status in (400, 401, 403, 404) else f"{told.status} {await told.text()}"

    return Attempt("exchange", name, act)


def tickets(ticket: str, cookie: Headers) -> Iterator[Attempt]:
    shown = {"Sec-WebSocket-Protocol": f"turnkeep, ticket.{ticket}"}
    for name, headers, query in (
        ("a ticket in the address", {}, f"?ticket={ticket}"),
        ("a cookie without a page", cookie, ""),
        ("a cookie from another page", {**cookie, "Origin": "https://evil.example"}, ""),
        ("a cookie from null", {**cookie, "Origin": "null"}, ""),
        ("a ticket as bearer", bearer(ticket), ""),
        ("a ticket cut short", {"Sec-WebSocket-Protocol": f"turnkeep, ticket.{ticket[:-1]}"}, ""),
        ("a ticket from another page", {**shown, "Origin": "https://evil.example"}, ""),
        ("no ticket", {"Sec-WebSocket-Protocol": "turnkeep, ticket."}, ""),
        ("no request", {f"X-{n}": "x" for n in range(200)}, ""),
        ("a long line", {"X-Filler": "x" * 9_000}, ""),
    ):
        yield opened(name, headers, query)


def opened(name: str, headers: Headers, query: str) -> Attempt:
    async def act(target: Target) -> str | None:
        url = target.server.url.replace("http", "ws") + "/ws" + query
        sent = dict(headers)
        offered = [Subprotocol(one) for one in sent.pop("Sec-WebSocket-Protocol", "turnkeep").split(", ")]
        try:
            async with (
                asyncio.timeout(PATIENCE),
                websockets.connect(url, additional_headers=sent, subprotocols=offered) as socket,
            ):
                await socket.send(json.dumps({"action": "ping"}))
                return repr(await heard(socket))
        except InvalidStatus as refusal:
            return None if refusal.response.status_code < 500 else str(refusal)
        except ConnectionClosed as closed:
            return None if closed.rcvd and closed.rcvd.code in (4401, 4403) else str(closed)
        except TimeoutError:
            return "not answered"

    return Attempt("ticket", name, act)


@pytest.mark.parametrize("takers", [20])
async def test_of_many_takers_of_a_ticket_one_gets_it(takers: int) -> None:
    async with guarded() as house:
        async with house.server.http.post(f"{house.server.url}/api/tickets", headers=house.headers("owner")) as told:
            shown = {"Sec-WebSocket-Protocol": f"turnkeep, ticket.{(await told.json())['ticket']}"}
        got = await asyncio.gather(*(opened("", shown, "").act(Target(house.server)) for _ in range(takers)))
        assert sum(one is not None for one in got) == 1
