"""Who somebody is: keys, tokens, tickets, sessions, hosts and origins, one by one."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from starlette.datastructures import Headers

from tests.rows import each_row
from turnkeep.auth.api_keys import FRESH_KEY, ApiKeys
from turnkeep.auth.audit_trail import Trail
from turnkeep.auth.guard import Guard, OpenGuard, access_of, asks_for_credentials
from turnkeep.auth.principals import (
    ALL_SCOPES,
    HELD_BY,
    OPERATOR,
    Credentials,
    OpenAccess,
    Principal,
    Scope,
    credentials_of_request,
    is_open,
)
from turnkeep.auth.tickets import TICKET_LIFE, Tickets, csrf_of
from turnkeep.auth.tokens import Tokens, tokens_of
from turnkeep.doors.origin import Origins
from turnkeep.errors import ConfigurationError, InvalidMessage, NotAllowed, NotAuthenticated
from turnkeep.settings import Settings
from turnkeep.store.memory import MemoryStore
from turnkeep.testing.fake_clock import FakeClock

SECRET = "v7Qm2ZrT9xKfW4bLcN8sYd3HgPe6RjUa5oXi0tMzBwEk1yVh"


def settings(**values: Any) -> Settings:
    return Settings.load(**values)


def claims(**others: Any) -> dict[str, Any]:
    values = {"sub": "olga", "aud": "turnkeep", "exp": time.time() + 60, "channels": ["a", "b-*"], **others}
    return {name: value for name, value in values.items() if value is not None}


def signed(**others: Any) -> str:
    return jwt.encode(claims(**others), SECRET, algorithm="HS256")


def tokens(**values: Any) -> Tokens:
    made = tokens_of(settings(**{"jwt_secret": SECRET, **values}))
    assert made is not None
    return made


# ---------------------------------------------------------------- open doors


@pytest.mark.parametrize(
    ("values", "has_keys", "asks"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"auth": "off"}, True, False),
        ({"start_token": SECRET}, False, True),
        ({"jwt_secret": SECRET}, False, True),
        ({"jwt_secret": SECRET, "auth": "off"}, False, False),
        ({"auth": "on"}, False, True),
        ({"host": "0.0.0.0"}, True, True),
        ({"host": "0.0.0.0", "jwt_secret": SECRET}, False, True),
        ({"host": "0.0.0.0", "auth": "on"}, False, True),
        ({"host": "0.0.0.0", "insecure_no_auth": True}, False, False),
        ({"hosts": ("chat.example.com",)}, True, True),
        ({"host": "0.0.0.0"}, False, None),
        ({"host": "192.168.1.5", "auth": "off"}, True, None),
        ({"host": "::", "auth": "off", "jwt_secret": SECRET}, False, None),
        ({"hosts": ("chat.example.com",)}, False, None),
        ({"auth": "on", "insecure_no_auth": True}, False, None),
    ],
)
def test_a_door_that_others_reach_does_not_open_without_authentication(
    values: dict[str, Any], has_keys: bool, asks: bool | None
) -> None:
    if asks is None:
        with pytest.raises(ConfigurationError, match="TURNKEEP_"):
            asks_for_credentials(settings(**values), has_keys=has_keys)
    else:
        assert asks_for_credentials(settings(**values), has_keys=has_keys) is asks


# ---------------------------------------------------------------- keys


async def test_a_key_is_kept_by_its_digest_alone_and_says_who_somebody_is() -> None:
    store = MemoryStore()
    value, key = await ApiKeys(store).create(name="ci", tenant="acme", scopes=("send",), channels=("a", "b-*"))
    principal = await ApiKeys(store).authenticate(value)

    assert (principal.tenant, principal.channels) == ("acme", ("a", "b-*"))
    assert principal.scopes == {"send"}
    kept = json.dumps([dict(document.body) for document in await store.list("key", "*")])
    assert value.rpartition("_")[2] not in kept
    assert value.startswith(f"tk_{key.key_id}_")
    assert len(value.rpartition("_")[2]) == 64


async def test_a_revoked_or_expired_key_is_refused_at_once_or_within_its_freshness() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    here, elsewhere = ApiKeys(store, clock), ApiKeys(store, clock)
    value, key = await here.create(scopes=("read",), expires_at=clock.now() + 100)
    await elsewhere.authenticate(value)
    await here.revoke(key.key_id)
    with pytest.raises(NotAuthenticated):
        await here.authenticate(value)
    clock.advance(FRESH_KEY)
    with pytest.raises(NotAuthenticated):
        await elsewhere.authenticate(value)

    brief, _ = await here.create(expires_at=clock.now() + 10)
    await here.authenticate(brief)
    clock.advance(10)
    with pytest.raises(NotAuthenticated):
        await here.authenticate(brief)
    assert FRESH_KEY <= 1.0


async def test_no_key_but_the_whole_key_is_taken() -> None:
    keys = ApiKeys(MemoryStore())
    value, key = await keys.create()
    wrong = ["", "tk_", value[:-1], value + "0", value.upper(), f"tk_{key.key_id}_{'0' * 64}", f" {value}",
             value + "\n", f"tk_{'0' * 16}_{value[-64:]}", key.digest, f"tk_{key.key_id}_{key.digest}"]  # fmt: skip
    for text in wrong:
        with pytest.raises(NotAuthenticated):
            await keys.authenticate(text)


# ---------------------------------------------------------------- tokens


async def test_a_token_says_tenant_user_scopes_channels_and_end() -> None:
    principal = await tokens().authenticate(signed(tenant="acme", scope="read admin other"))

    assert (principal.tenant, principal.subject) == ("acme", "user:olga")
    assert principal.scopes == {"read", "admin"}
    assert principal.channels == ("a", "b-*")
    assert principal.expires_at is not None


async def test_a_token_without_channels_reaches_none_and_without_scope_is_no_admin() -> None:
    principal = await tokens().authenticate(signed(channels=None))

    assert principal.channels == ()
    assert principal.scopes == {"send", "read"}
    assert (await tokens().authenticate(signed(channels=["*"]))).channels is None


WRONG_CLAIMS: dict[str, dict[str, Any]] = {
    "no exp": {"exp": None}, "no aud": {"aud": None}, "expired": {"exp": 1}, "another audience": {"aud": "other"},
    "exp is text": {"exp": "soon"}, "exp is true": {"exp": True}, "exp is endless": {"exp": float("inf")},
    "exp is none": {"exp": float("nan")}, "not yet": {"nbf": time.time() + 9e4}, "tenant is a list": {"tenant": ["a"]},
    "tenant is empty": {"tenant": ""}, "tenant with NUL": {"tenant": "a\0"}, "sub is a number": {"sub": 7},
    "channels is text": {"channels": "a"}, "channels holds a number": {"channels": [1]},
    "channels is an object": {"channels": {"a": 1}}, "too many channels": {"channels": ["a"] * 1001},
    "scope is a number": {"scope": 1}, "aud is an object": {"aud": {"turnkeep": 1}},
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_CLAIMS)
async def test_a_token_with_wrong_claims_is_refused(name: str) -> None:
    with pytest.raises(NotAuthenticated):
        await tokens().authenticate(signed(**WRONG_CLAIMS[name]))


def forged(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(part).encode() for part in (header, payload)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in (*parts, signature))


def pem(key: Any) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()  # type: ignore[no-any-return]


async def test_the_algorithm_is_ours_to_choose() -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    public = pem(key)
    asymmetric = tokens(jwt_secret=None, jwt_key=public)
    assert (await asymmetric.authenticate(jwt.encode(claims(), key, algorithm="EdDSA"))).subject == "user:olga"
    for text in (
        forged({"alg": "none", "typ": "JWT"}, claims()),
        forged({"alg": "None"}, claims()),
        forged({"alg": "HS256"}, claims(), b"x" * 32),
        jwt.encode(claims(), SECRET, algorithm="HS256"),
        jwt.encode(claims(), public.replace("-", "").encode() * 2, algorithm="HS256"),
    ):
        with pytest.raises(NotAuthenticated):
            await asymmetric.authenticate(text)
    with pytest.raises(NotAuthenticated):
        await tokens().authenticate(jwt.encode(claims(), SECRET * 2, algorithm="HS512"))


@pytest.mark.parametrize(
    "kid", ["../../etc/passwd", "' OR 1=1 --", "http://127.0.0.1/", 7, ["a"], {"a": 1}, "x" * 5000]
)
async def test_a_kid_is_only_ever_compared(kid: object, tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    path = tmp_path / "jwks.json"
    entries = [{**json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key())), "kid": name} for name in ("a", "b")]
    path.write_text(json.dumps({"keys": entries}))
    known = tokens_of(settings(jwt_jwks=str(path)))
    assert known is not None
    good = jwt.encode(claims(), key, algorithm="EdDSA", headers={"kid": "a"})
    assert (await known.authenticate(good)).subject == "user:olga"
    _, payload, signature = good.split(".")
    header = base64.urlsafe_b64encode(json.dumps({"alg": "EdDSA", "kid": kid, "jku": "http://127.0.0.1/"}).encode())
    with pytest.raises(NotAuthenticated):
        await known.authenticate(f"{header.rstrip(b'=').decode()}.{payload}.{signature}")


async def test_a_set_of_keys_is_used_for_the_algorithm_of_each_key(tmp_path: Path) -> None:
    private = rsa.generate_private_key(65537, 2048)
    entry = {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(private.public_key())), "kid": "r"}
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [{"kty": "oct", "k": "AAAA", "kid": "o"}, entry]}))
    known = tokens_of(settings(jwt_jwks=str(path)))
    assert known is not None
    assert (await known.authenticate(jwt.encode(claims(), private, algorithm="RS256", headers={"kid": "r"}))).tenant
    with pytest.raises(NotAuthenticated):
        await known.authenticate(jwt.encode(claims(), b"\0" * 32, algorithm="HS256", headers={"kid": "o"}))


@pytest.mark.parametrize(
    "values",
    [
        {"jwt_key": "too short"},
        {"jwt_secret": "too short"},
        {"jwt_key": SECRET},
        {"jwt_secret": SECRET, "jwt_jwks": "https://keys.example.com/jwks.json"},
        {"jwt_secret": SECRET, "jwt_algorithms": ("RS256",)},
        {"jwt_key": "-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----"},
        {"jwt_key": "-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----"},
        {"jwt_jwks": "http://keys.example.com/jwks.json"},
        {"jwt_jwks": "https://keys.example.com/jwks.json", "jwt_algorithms": ("HS256",)},
    ],
)
def test_a_weak_or_wrong_key_is_refused_at_the_start_without_being_told(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="TURNKEEP_JWT") as caught:
        tokens_of(settings(**values))
    assert "nonsense" not in str(caught.value)
    assert "too short" not in str(caught.value)


@pytest.mark.prove
async def test_no_mutated_token_is_accepted(size: Callable[[int, int], int], proof: Callable[[str, str], None]) -> None:
    source, cases, accepted = random.Random(5), size(1000, 1000), 0
    known, good = tokens(), signed()
    for _ in range(cases):
        text = mutated(good, source)
        if canonical(text) == canonical(good):
            continue
        try:
            await known.authenticate(text)
        except NotAuthenticated:
            continue
        accepted += 1
    proof("mutated tokens", f"tokens {cases} | accepted {accepted}")
    assert accepted == 0


def mutated(text: str, source: random.Random) -> str:
    letters = list(text)
    for _ in range(source.choice([1, 1, 2, 5])):
        place = source.randrange(len(letters))
        match source.randrange(4):
            case 0:
                letters[place] = source.choice("ABCabc012-_.=+/ \0é")
            case 1:
                del letters[place]
            case 2:
                letters.insert(place, source.choice("ABCabc012-_.{}"))
            case _:
                other = source.randrange(len(letters))
                letters[place], letters[other] = letters[other], letters[place]
    return "".join(letters)


def canonical(text: str) -> list[bytes]:
    """What a token says: base64 has more than one spelling for the last letter."""
    try:
        return [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in text.split(".")]
    except ValueError:
        return []


# ---------------------------------------------------------------- tickets and sessions


async def test_a_ticket_opens_one_socket_and_not_for_long() -> None:
    clock = FakeClock()
    tickets = Tickets(MemoryStore(clock=clock), clock)
    principal = Principal("acme", "user:olga", frozenset({"read"}), ("a",), clock.now() + 500)
    value, _ = await tickets.issue(principal)

    assert await tickets.redeem(value) == principal
    with pytest.raises(NotAuthenticated):
        await tickets.redeem(value)
    late, _ = await tickets.issue(principal)
    clock.advance(TICKET_LIFE)
    with pytest.raises(NotAuthenticated):
        await tickets.redeem(late)


async def test_a_session_is_no_ticket_and_a_ticket_no_session() -> None:
    tickets = Tickets(MemoryStore())
    ticket, _ = await tickets.issue(OPERATOR)
    session, _ = await tickets.begin(OPERATOR)
    with pytest.raises(NotAuthenticated):
        await tickets.redeem(session)
    with pytest.raises(NotAuthenticated):
        await tickets.of_session(ticket, None, changes=False)


async def test_a_session_changes_nothing_without_its_own_token_and_ends() -> None:
    clock = FakeClock()
    tickets = Tickets(MemoryStore(clock=clock), clock)
    session, principal = await tickets.begin(OPERATOR)
    other, _ = await tickets.begin(OPERATOR)

    assert await tickets.of_session(session, None, changes=False) == principal
    assert await tickets.of_session(session, csrf_of(session), changes=True) == principal
    for csrf in (None, "", csrf_of(other), session, "\udcff"):
        with pytest.raises(NotAllowed):
            await tickets.of_session(session, csrf, changes=True)
    await tickets.end(session)
    with pytest.raises(NotAuthenticated):
        await tickets.of_session(session, None, changes=False)
    clock.advance(9 * 3600)
    with pytest.raises(NotAuthenticated):
        await tickets.of_session(other, None, changes=False)


async def test_what_a_revoked_key_was_exchanged_for_ends_with_it() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    guard = Guard(ApiKeys(store, clock), Tickets(store, clock), clock=clock)
    value, key = await guard.keys.create()
    principal = await guard.authenticate(Credentials(bearer=value))
    ticket, _ = await guard.tickets.issue(principal)
    session, _ = await guard.tickets.begin(principal)
    await guard.keys.revoke(key.key_id)
    for shown in (Credentials(bearer=value), Credentials(ticket=ticket), Credentials(session=session)):
        with pytest.raises(NotAuthenticated):
            await guard.authenticate(shown)
    with pytest.raises(NotAuthenticated):
        await guard.revalidate(principal)


async def test_a_wrong_credential_is_refused_whatever_else_is_right() -> None:
    guard = Guard(ApiKeys(MemoryStore()), Tickets(MemoryStore()))
    session, _ = await guard.tickets.begin(OPERATOR)
    await guard.authenticate(Credentials(session=session))
    with pytest.raises(NotAuthenticated):
        await guard.authenticate(Credentials(bearer="tk_wrong", session=session))


# ---------------------------------------------------------------- what is shown


def headers(*pairs: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.encode(), value.encode("latin-1")) for name, value in pairs])


@pytest.mark.parametrize(
    "query",
    [
        {"token": "x"}, {"access_token": "x"}, {"API_KEY": "x"}, {"ticket": "x"}, {"authorization": "Bearer x"},
        {"x": "tk_0123456789abcdef_00"}, {"x": "eyJhbGciOi.eyJzdWIi.x"}, {"x": "Bearer tk_01_"},
    ],
)  # fmt: skip
def test_a_credential_in_the_address_is_refused_and_not_repeated(query: dict[str, str]) -> None:
    with pytest.raises(InvalidMessage, match="never taken from the address") as caught:
        credentials_of_request(headers(), {}, query, changes=False)
    assert not any(len(value) > 1 and value in str(caught.value) for value in query.values())


def test_one_authorization_header_counts_and_only_as_bearer() -> None:
    assert credentials_of_request(headers(("authorization", "bearer tk_1")), {}, {}, changes=False).bearer == "tk_1"
    for given in (
        [("authorization", "Basic x")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer a"), ("authorization", "Bearer b")],
        [("authorization", "Bearer " + "x" * 9000)],
    ):
        with pytest.raises(NotAuthenticated):
            credentials_of_request(headers(*given), {}, {}, changes=False)


def test_a_ticket_comes_beside_the_subprotocol_and_a_cookie_only_from_a_page() -> None:
    offered = headers(("sec-websocket-protocol", "turnkeep, ticket.abc"))
    assert credentials_of_request(offered, {}, {}, changes=False, socket=True).ticket == "abc"
    assert credentials_of_request(offered, {}, {}, changes=False).ticket is None
    cookies = {"turnkeep_session": "s"}
    assert credentials_of_request(headers(), cookies, {}, changes=False, socket=True).session is None
    assert (
        credentials_of_request(headers(("origin", "http://x")), cookies, {}, changes=False, socket=True).session == "s"
    )


# ---------------------------------------------------------------- channels


@pytest.mark.parametrize(
    ("pattern", "channel", "reaches"),
    [
        ("a", "a", True), ("a", "ab", False), ("a*", "ab", True), ("a*", "b", False), ("*", "anything", True),
        ("t*", "team", True), ("t*", "thread_1", False), ("thread*", "thread_1", False), ("thread_*", "thread_1", True),
        ("*", "thread_1", True), ("thread_1", "thread_1", True), ("a*b", "axb", False),
        ("", "", True), ("A", "a", False),
    ],
)  # fmt: skip
def test_a_pattern_reaches_what_it_names(pattern: str, channel: str, reaches: bool) -> None:
    assert Principal(channels=(pattern,)).reaches(channel) is reaches


# ---------------------------------------------------------------- hosts and origins


async def _nothing(*_: Any) -> None:
    return


def origins(*, is_open: bool = True, **values: Any) -> Origins:
    access = OpenAccess() if is_open else Guard(ApiKeys(MemoryStore()), Tickets(MemoryStore()))
    return Origins(_nothing, settings(**values), access, Trail(MemoryStore()))


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8080", "localhost:8080", "[::1]:8080", "turnkeep", "10.0.0.7:80", "chat.example.com"],
)
def test_our_own_hosts_are_answered(host: str) -> None:
    origins(is_open=False, hosts=("Chat.Example.com",), auth="on").check(headers(("host", host)))


@pytest.mark.parametrize(
    "host",
    ["evil.example.com", "127.0.0.1.evil.com", "", "a/b", "a?b", "a#b", "user@localhost", "localhost:x",
     "localhost:1:2", "chat.example.com.evil.com", "local host", "1.2.3", "[::1", "localhost\\x", "%6c", ".", "-"],
)  # fmt: skip
def test_other_hosts_are_refused(host: str) -> None:
    with pytest.raises(InvalidMessage, match="ost"):
        origins(is_open=False, hosts=("chat.example.com",), auth="on").check(headers(("host", host)))


def test_two_hosts_or_none_are_refused() -> None:
    for given in ([], [("host", "localhost"), ("host", "localhost")]):
        with pytest.raises(InvalidMessage):
            origins().check(headers(*given))


@pytest.mark.parametrize("origin", ["http://localhost:8080", "https://localhost:8080", "https://app.example.com"])
def test_our_own_pages_and_named_ones_may_call(origin: str) -> None:
    origins(origins=("https://app.example.com/",)).check(headers(("host", "localhost:8080"), ("origin", origin)))


@pytest.mark.parametrize(
    "origin",
    ["null", "", "http://evil.example.com", "http://localhost", "http://localhost:8081", "file://", "https://[", "x",
     "http://localhost:8080.evil.com", "http://localhost:8080/path", "http://u@localhost:8080", "ws://localhost:8080"],
)  # fmt: skip
def test_other_pages_may_not_call(origin: str) -> None:
    with pytest.raises(NotAllowed):
        origins().check(headers(("host", "localhost:8080"), ("origin", origin)))


@pytest.mark.parametrize(
    "host", ["evil", "turnkeep", "wpad", "10.0.0.7", "192.168.1.5:8080", "[fe80::1]", "localhost.x"]
)
def test_where_nobody_is_asked_only_the_names_of_this_machine_count(host: str) -> None:
    for auth in (None, "off"):
        with pytest.raises(InvalidMessage, match="host name"):
            origins(auth=auth).check(headers(("host", host)))


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "127.1.2.3", "localhost", "app.localhost:80", "[::1]:8080"])
def test_where_nobody_is_asked_this_machine_is_answered(host: str) -> None:
    origins().check(headers(("host", host)))


OF_PROXIES = [
    ("x-forwarded-for", "203.0.113.7"),
    ("x-forwarded-proto", "https"),
    ("x-forwarded-server", "a"),
    ("forwarded", "for=x"),
    ("via", "1.1 varnish"),
    ("x-real-ip", "203.0.113.7"),
    ("cf-connecting-ip", "203.0.113.7"),
    ("cf-ray", "x"),
    ("true-client-ip", "x"),
    ("x-client-ip", "x"),
    ("x-original-for", "x"),
    ("x-envoy-external-address", "x"),
    ("fastly-client-ip", "x"),
    ("x-azure-clientip", "x"),
    ("x-amzn-trace-id", "x"),
    ("cdn-loop", "cloudflare"),
    ("tailscale-user-login", "x"),
    ("x-cluster-client-ip", "x"),
    ("x-appengine-country", "x"),
    ("x-scheme", "https"),
]


@each_row("header", OF_PROXIES, ids=lambda header: header[0])
def test_whoever_is_behind_a_proxy_has_to_say_so(header: tuple[str, str]) -> None:
    forwarded = headers(("host", "localhost"), header)
    with pytest.raises(NotAllowed, match="TURNKEEP_AUTH"):
        origins().check(forwarded)
    origins(auth="off").check(forwarded)
    origins(is_open=False).check(forwarded)


def test_http_1_0_is_a_proxy_that_was_told_nothing() -> None:
    with pytest.raises(NotAllowed, match="proxy"):
        origins().check(headers(("host", "localhost")), "1.0")
    origins(is_open=False).check(headers(("host", "localhost")), "1.0")


def test_a_client_of_this_machine_is_no_proxy() -> None:
    usual = (
        "user-agent",
        "accept",
        "accept-encoding",
        "content-type",
        "content-length",
        "authorization",
        "x-request-id",
        "traceparent",
        "idempotency-key",
        "last-event-id",
        "origin-agent-cluster",
        "sec-fetch-site",
        "x-csrf-token",
        "sec-websocket-key",
        "connection",
        "upgrade",
        "priority",
        "dnt",
    )
    origins().check(headers(("host", "localhost"), *((name, "x") for name in usual)))


# ---------------------------------------------------------------- a door that a key locks


async def test_the_first_key_locks_an_open_door_and_none_that_is_taken_back_unlocks_it() -> None:
    clock = FakeClock()
    store = MemoryStore(clock=clock)
    keys = ApiKeys(store, clock)
    door = OpenGuard(keys, Tickets(store, clock), clock=clock)
    anybody = await door.authenticate(Credentials())
    assert "admin" in anybody.rights
    assert is_open(door)

    value, key = await ApiKeys(store, clock).create()
    clock.advance(FRESH_KEY)
    for refused in (door.authenticate(Credentials()), door.revalidate(anybody)):
        with pytest.raises(NotAuthenticated):
            await refused
    assert not is_open(door)
    assert (await door.authenticate(Credentials(bearer=value))).key == key.key_id

    await keys.revoke(key.key_id)
    clock.advance(FRESH_KEY)
    for access in (door, await access_of(settings(), store)):
        with pytest.raises(NotAuthenticated):
            await access.authenticate(Credentials())


async def test_the_token_of_a_start_opens_everything_and_what_it_was_exchanged_for_ends_with_it() -> None:
    store = MemoryStore()
    door = await access_of(settings(start_token=SECRET), store)
    assert isinstance(door, Guard)
    principal = await door.authenticate(Credentials(bearer=SECRET))
    assert "admin" in principal.rights
    assert principal.reaches("anything")
    session, _ = await door.tickets.begin(principal)
    await door.authenticate(Credentials(session=session))
    for wrong in (
        Credentials(),
        Credentials(bearer=SECRET + "x"),
        Credentials(bearer=SECRET[:-1]),
        Credentials(bearer=""),
    ):
        with pytest.raises(NotAuthenticated):
            await door.authenticate(wrong)
    next_start = await access_of(settings(start_token=SECRET[::-1]), store)
    with pytest.raises(NotAuthenticated):
        await next_start.authenticate(Credentials(session=session))


def test_a_principal_may_nothing_until_it_is_given() -> None:
    for principal in (Principal(), Principal(subject="olga", scopes=ALL_SCOPES), Principal(channels=None)):
        for scope in ALL_SCOPES:
            for channel in ("c", "thread_1", "*", None):
                with pytest.raises(NotAllowed):
                    principal.require(scope, channel)


REACHES: dict[str, tuple[set[Scope], tuple[str, ...] | None, Scope, str | None, str]] = {
    "scope and channel": ({"read"}, ("c",), "read", "c", ""),
    "all channels": ({"send"}, None, "send", "c", ""),
    "the whole tenant": ({"manage"}, None, "manage", None, ""),
    "a scope that holds it": ({"manage"}, ("c",), "send", "c", ""),
    "the admin": ({"admin"}, ("c",), "approve", "c", ""),
    "another scope": ({"read"}, ("c",), "send", "c", "no scope 'send'"),
    "another scope of the tenant": ({"read"}, None, "manage", None, "no scope 'manage'"),
    "another channel": ({"read"}, ("c",), "read", "d", "does not reach that channel"),
    "some channels, not the tenant": ({"admin"}, ("c", "*"), "admin", None, "not the whole tenant"),
    "neither": (set(), (), "read", "c", "no scope 'read'"),
}


@pytest.mark.parametrize(("scopes", "channels", "scope", "channel", "refusal"), REACHES.values(), ids=REACHES)
def test_a_credential_reaches_as_far_as_scope_and_channels_both_say(
    scopes: set[Scope], channels: tuple[str, ...] | None, scope: Scope, channel: str | None, refusal: str
) -> None:
    principal = Principal(scopes=frozenset(scopes), channels=channels)

    if not refusal:
        principal.require(scope, channel)
        return
    with pytest.raises(NotAllowed, match=refusal):
        principal.require(scope, channel)


@pytest.mark.parametrize(
    ("shown", "kind"),
    [
        (Credentials(), "nothing"),
        (Credentials(csrf="x", is_change=True), "nothing"),
        (Credentials(bearer="tk_1"), "key"),
        (Credentials(bearer="eyJ", ticket="t", session="s"), "token"),
        (Credentials(ticket="t", session="s"), "ticket"),
        (Credentials(session="s"), "session"),
        (Credentials(bearer=""), "token"),
    ],
)
def test_of_all_that_a_request_shows_one_thing_counts(shown: Credentials, kind: str) -> None:
    assert (shown.kind, shown.is_nothing) == (kind, kind == "nothing")


PLACES: list[tuple[str, ...] | None] = [None, (), ("c",), ("c*",), ("*",)]


@pytest.mark.parametrize("channels", PLACES, ids=str)
def test_what_needs_no_look_at_the_channel_is_what_is_required_of_none(channels: tuple[str, ...] | None) -> None:
    """A socket looks at the rights of its credential first: they may say no more than `require` does."""
    for count in range(len(ALL_SCOPES) + 1):
        for scopes in itertools.combinations(sorted(ALL_SCOPES), count):
            principal = Principal("t", "olga", frozenset(scopes), channels)
            for scope in ALL_SCOPES:
                assert (scope in principal.rights) == bool(HELD_BY[scope].intersection(scopes))
                with contextlib.nullcontext() if scope in principal.rights_everywhere else pytest.raises(NotAllowed):
                    principal.require(scope)


def test_a_credential_that_is_narrowed_loses_the_rights_it_had() -> None:
    operator = replace(OPERATOR, subject="olga", key="k1")
    assert (operator.user, operator.person, operator.rights) == ("olga", None, ALL_SCOPES)
    narrow = replace(operator, scopes=frozenset({"manage"}), channels=("c",), key=None)
    assert narrow.person == "olga"
    assert (sorted(narrow.rights), narrow.rights_everywhere) == (["manage", "send"], frozenset())
