"""Every parser of input from outside, under a fuzzer that is led by coverage: typed errors alone, and none is slow.

Inputs are mutated from sound ones and from whatever reached a line of ours that none had reached before. What it has
found stands below as named cases.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import jwt
import pytest
from starlette.datastructures import Headers

from tests.conftest import FULL
from turnkeep.auth.api_keys import ApiKeys
from turnkeep.auth.guard import Guard
from turnkeep.auth.jwks import Jwks
from turnkeep.auth.limits import Limits
from turnkeep.auth.principals import OPERATOR, Credentials, Principal, credentials_of_request
from turnkeep.auth.tickets import Tickets
from turnkeep.auth.tokens import tokens_of
from turnkeep.composition import policies, run_rules
from turnkeep.doors.error_answers import status_of
from turnkeep.doors.server import secrets_in
from turnkeep.doors.socket.socket_actions import read_action, read_dialect, read_position
from turnkeep.doors.socket.sockets import shown_in
from turnkeep.errors import AnswerMalformed, ConfigurationError, NotAuthenticated, TurnkeepError
from turnkeep.inputs import read_channel, read_json, read_message
from turnkeep.messages import Address
from turnkeep.models.reading import Framer
from turnkeep.pricing.catalog import Catalog
from turnkeep.pricing.prices import PriceBook
from turnkeep.settings import Settings
from turnkeep.store.memory import MemoryStore
from turnkeep.tools.tool_file import load_tools
from turnkeep.usage import Usage
from turnkeep.wording import sentences

SECRET = "v7Qm2ZrT9xKfW4bLcN8sYd3HgPe6RjUa5oXi0tMzBwEk1yVh"
SLOWEST = 0.05
"""Seconds of computing that one input may take."""
LONGEST = 512_000
WHERE = Address("default", "assistant", "c")
OURS = str(Path(sys.modules["turnkeep"].__file__ or "").parent)

Read = Callable[[bytes], object]


class Refused(Exception):
    """the parser has said, in an error of its own kind, what is wrong"""


def done(coroutine: Coroutine[Any, Any, object]) -> object:
    """The result of what never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as stopped:
        return stopped.value
    raise AssertionError("it waits for something")


def refusal(error: TurnkeepError, statuses: set[int]) -> Refused:
    """It says that the input is wrong, and in no other way."""
    if status_of(error) not in statuses:
        raise AssertionError(f"this is no refusal of an input: {error.code}")
    return Refused()


# ---------------------------------------------------------------- what reads


def read_stream(data: bytes) -> object:
    framer, step = Framer(limit=100_000), 1 + data[0] % 97 if data else 1
    try:
        return [framer.push(data[start : start + step]) for start in range(0, min(len(data), 20_000), step)]
    except AnswerMalformed as error:
        raise Refused from error


def read_frame(data: bytes) -> object:
    try:
        request = read_json(data, limit=LONGEST)
        name, request, _ = read_action(request)
        read_position(request)
        read_dialect(request, Principal())
        return name, read_channel(request), read_message(request, WHERE, limit=256_000)
    except TurnkeepError as error:
        raise refusal(error, {400, 413}) from error


def read_first_frame(data: bytes) -> object:
    try:
        return shown_in(data.decode("utf-8", "replace"))
    except NotAuthenticated as error:
        raise Refused from error


class Readers:
    """Parsers that stand on something that is made first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        store = MemoryStore()
        self._tokens = tokens_of(Settings.load(jwt_secret=SECRET))
        self._jwks = Jwks("/nowhere", frozenset({"EdDSA", "RS256"}), ttl=600.0)
        self._guard = Guard(ApiKeys(store), Tickets(store), self._tokens)
        self.key: str = done(self._guard.keys.create())[0]  # type: ignore[index]
        self.ticket: str = done(self._guard.tickets.issue(OPERATOR))[0]  # type: ignore[index]

    def token(self, data: bytes) -> object:
        assert self._tokens is not None
        try:
            return done(self._tokens.authenticate(data.decode("utf-8", "replace")))
        except NotAuthenticated as error:
            raise Refused from error

    def credential(self, data: bytes) -> object:
        """As a header, a subprotocol, a cookie and a part of the address: keys, tickets and sessions."""
        text = data.decode("latin-1")
        headers = Headers({"authorization": text, "sec-websocket-protocol": text})
        ways: list[Callable[[], Credentials]] = [
            lambda: credentials_of_request(headers, {}, {}, changes=True, socket=True),
            lambda: credentials_of_request(
                Headers({"sec-websocket-protocol": text}), {}, {}, changes=True, socket=True
            ),
            lambda: credentials_of_request(Headers({}), {"turnkeep_session": text}, {}, changes=False),
            lambda: credentials_of_request(headers, {}, {"q": text}, changes=True),
            lambda: Credentials(session=text, csrf=text, is_change=True),
        ]
        known = [self._known(way) for way in ways]
        if not any(known):
            raise Refused
        return known

    def _known(self, way: Callable[[], Credentials]) -> bool:
        try:
            return done(self._guard.authenticate(way())) is not None
        except TurnkeepError as error:
            refusal(error, {400, 401, 403})
            return False

    def keys(self, data: bytes) -> object:
        try:
            return self._jwks._of(data)
        except (ValueError, RecursionError) as error:
            raise Refused from error

    def environment(self, data: bytes) -> object:
        """One variable and its value; what is read must also be understood by those who use it."""
        name, _, value = data.replace(b"\0", b"").decode("utf-8", "replace").partition("=")
        names = [alias for one in Settings.model_fields.values() for alias in one.validation_alias.choices]  # type: ignore[union-attr]
        name = name if name in names else str(names[len(name) % len(names)])
        os.environ[name] = value
        try:
            return self._used(Settings.load())
        except ConfigurationError as error:
            raise Refused from error
        finally:
            del os.environ[name]

    def dotenv(self, data: bytes) -> object:
        (self.folder / ".env").write_bytes(data[:20_000])
        try:
            return self._used(Settings.load())
        except ConfigurationError as error:
            raise Refused from error
        finally:
            (self.folder / ".env").unlink()

    def _used(self, settings: Settings) -> object:
        Limits(settings).check_rate(OPERATOR, WHERE)
        return list(secrets_in(settings)), settings.store_url, policies(settings), run_rules(settings)

    def tools(self, data: bytes) -> object:
        path = self.folder / "tools.toml"
        path.write_bytes(data[:20_000])
        try:
            load_tools(path, {"SECRET": "wary-secret"}).close()
        except ConfigurationError as error:
            raise Refused from error
        return path

    def prices(self, data: bytes) -> object:
        path = self.folder / ("prices.json" if data[:1] == b"{" else "prices.toml")
        path.write_bytes(data[:20_000])
        try:
            Catalog.load(path)
            book = PriceBook(path)
            return book.cost(Usage(requests=1, input_tokens=10, output_tokens=3), "my-model")
        except ConfigurationError as error:
            raise Refused from error

    def wording(self, data: bytes) -> object:
        path = self.folder / "sentences.toml"
        path.write_bytes(data[:20_000])
        try:
            return sentences(path)(NotAuthenticated())
        except ConfigurationError as error:
            raise Refused from error


# ---------------------------------------------------------------- what is sound


TOOLS = b"""
hosts = ["api.example.com"]
[databases.shop]
url = "sqlite:///shop.db"
[[tools]]
kind = "http"
name = "stock"
description = "How many there are."
url = "https://api.example.com/{item}"
query = { q = "{item}", n = "{n}" }
headers = { Authorization = "Bearer ${SECRET}" }
[tools.parameters]
item = { type = "string", description = "which", enum = ["a", "b"] }
n = { type = "integer", optional = true }
[[tools]]
kind = "sql"
name = "orders"
description = "Orders."
database = "shop"
query = "SELECT 1 AS a WHERE :n > 1"
parameters = { n = { type = "number" } }
[[tools]]
kind = "mcp"
name = "more"
command = ["true"]
"""
PRICES = b"""
default = "my-model"
[encodings]
"my-" = "o200k_base"
[models."my-model"]
context = 32_768
[prices."my-model"]
input = 0.5
output = 1.5
cached = 0.1
"""


def seeds(readers: Readers) -> dict[str, tuple[Read, list[bytes]]]:
    claims = {"sub": "olga", "aud": "turnkeep", "exp": time.time() + 9_000, "channels": ["a*"], "scope": "send"}
    token = jwt.encode(claims, SECRET, algorithm="HS256", headers={"kid": "a"})
    frames = [
        {"action": "subscribe", "channel": "c", "offset": 3, "epoch": "e", "text": "delta", "events": "all", "id": 1},
        {"channel": "c", "message_id": "m", "message": "hello", "window": 1.5, "on_busy": "collect", "flush": True},
        {"action": "message", "channel": "c",
         "content": [{"type": "text", "text": "a"}, {"type": "image", "image_url": "b"}],
         "metadata": {"a": "b"}, "not_before": 1e9, "max_wait": 3, "instructions": "be brief"},
        {"channel": "subscription", "payload": {"action": "subscribe", "channel": "c"}},
    ]  # fmt: skip
    variables = [
        *(
            'TURNKEEP_WEIGHTS={"a": 2}',
            "TURNKEEP_CHANNEL_RATE=20/10",
            "REDIS_URL=redis://u:p@h:1/0",
            "TURNKEEP_WINDOW=2",
        ),
        *('TURNKEEP_HOSTS=["a"]', "TURNKEEP_FAILPOINTS=claimed:0.1", "TURNKEEP_STORE=sqlite:x", "OPENAI_API_KEY=sk-x"),
        *('TURNKEEP_JWT_ALGORITHMS=["RS256"]', 'TURNKEEP_AMQP_TENANTS={"/": "t"}', "TURNKEEP_JWT_JWKS=https://h/j"),
        *("WEBSOCKET_URL=ws://h:1/ws", "TURNKEEP_LEASE=30"),
    ]
    okp = {"kty": "OKP", "crv": "Ed25519", "kid": "a", "use": "sig", "alg": "EdDSA"}
    okp["x"] = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    keys = {
        "keys": [
            okp,
            {"kty": "RSA", "kid": "b", "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx", "e": "AQAB"},
        ]
    }
    streams = [b"event: a\ndata: {}\n\n: ping\r\nid: 7\rretry: 9\ndata\n\n", b"\xef\xbb\xbfdata: x\n\n"]
    credentials = [f"Bearer {readers.key}", f"ticket.{readers.ticket}", f"Bearer {token}", "tk_0_0"]
    return {
        "framer": (read_stream, streams),
        "envelope": (read_frame, [json.dumps(frame).encode() for frame in frames]),
        "first frame": (read_first_frame, [b'{"action": "auth", "token": "x", "ticket": "y"}']),
        "token": (readers.token, [token.encode(), jwt.encode(claims, "", algorithm="none").encode()]),
        "credential": (readers.credential, [one.encode() for one in credentials]),
        "key set": (readers.keys, [json.dumps(keys).encode()]),
        "environment": (readers.environment, [one.encode() for one in variables]),
        "env file": (readers.dotenv, ["\n".join(variables).encode(), b"export A='b # c'\n# d\nTURNKEEP_PORT=\"80\"\n"]),
        "tools": (readers.tools, [TOOLS]),
        "prices": (readers.prices, [PRICES, b'{"prices": {"my-model": {"input": 1, "output": 2.5}}}']),
        "sentences": (readers.wording, [b'timeout = "Too long."\nnot_authenticated = "Who are you?"\n']),
    }


# ---------------------------------------------------------------- the fuzzer


ODD = [
    *(b"", b"\0", b"\xff", b"\xed\xa0\x80", "😀".encode(), b"[", b"]", b"{", b"}", b'"', b"\\", b"\\u0000", b"\\ud800"),
    *(
        b":",
        b",",
        b"=",
        b"\n",
        b"\r\n",
        b"\n\n",
        b"'''",
        b'"""',
        b"${A}",
        b"%",
        b"*",
        b"..",
        b"../",
        b"-1",
        b"0",
        b"1e999",
    ),
    *(b"NaN", b"inf", b"9" * 30, b"1_0", b"0x1", b"true", b"null", b"[[a]]", b"[a]", b"a.b", b"{}", b"2026-11-21"),
    *(b"://", b"[::1", b"@", b"?"),
]


def mutated(source: random.Random, corpus: list[bytes]) -> bytes:
    data = source.choice(corpus)
    for _ in range(source.choice([1, 1, 2, 3, 6])):
        place, end = sorted((source.randrange(len(data) + 1), source.randrange(len(data) + 1)))
        match source.randrange(7):
            case 0:
                data = data[:place] + bytes([source.randrange(256)]) + data[place + 1 :]
            case 1 | 2:
                data = data[:place] + source.choice(ODD) + data[place:]
            case 3:
                data = data[:place] + data[end:]
            case 4:
                data = data[:end] + data[place:end] * source.choice([1, 2, 30]) + data[end:]
            case 5:
                data = data[:place] + source.choice(corpus)[place:]
            case _:
                data = data[:place] + source.choice(ODD) * source.choice([2, 40, 3_000]) + data[place:]
    return data[:LONGEST]


@dataclass
class Findings:
    inputs: int = 0
    refused: int = 0
    slowest: float = 0.0
    lines: set[tuple[str, int]] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)


def fuzzed(read: Read, corpus: list[bytes], count: int, source: random.Random) -> Findings:
    found, corpus = Findings(), list(corpus)
    for data in corpus:
        tried(read, data, found, corpus, leads=True)
    for number in range(count):
        tried(read, mutated(source, corpus), found, corpus, leads=number % 2 == 0)
    return found


def tried(read: Read, data: bytes, found: Findings, corpus: list[bytes], *, leads: bool) -> None:
    found.inputs += 1
    begun = time.thread_time()
    outcome = outcome_of(read, data)
    took = time.thread_time() - begun
    for _ in range(3):  # what an input needs is the least of its times: the collector may have come by
        if took > SLOWEST:
            begun = time.thread_time()
            outcome_of(read, data)
            took = min(took, time.thread_time() - begun)
    found.slowest = max(found.slowest, took)
    found.refused += outcome == "refused"
    if took > SLOWEST:
        found.slow.append(f"{took * 1000:.0f} ms for {len(data)} bytes: {data[:200]!r}")
    if outcome not in ("refused", "read"):
        found.faults.append(f"{outcome} for {len(data)} bytes: {data[:300]!r}")
    elif leads and len(data) < 20_000:
        before = len(found.lines)
        found.lines |= lines_of(read, data)
        if len(found.lines) > before:
            corpus.append(data)


def outcome_of(read: Read, data: bytes) -> str:
    try:
        read(data)
    except Refused:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]}"
    return "read"


def lines_of(read: Read, data: bytes) -> set[tuple[str, int]]:
    """The lines of ours that this input reaches."""
    lines: set[tuple[str, int]] = set()

    def line(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            lines.add((frame.f_code.co_filename, frame.f_lineno))
        return line

    def call(frame: FrameType, _: str, __: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(OURS) else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        outcome_of(read, data)
    finally:
        sys.settrace(before)
    return lines


NAMES = ("framer", "envelope", "first frame", "token", "credential", "key set", "environment", "env file", "tools",
         "prices", "sentences")  # fmt: skip
SLOW_TO_TRY = ("environment", "env file", "tools", "prices", "sentences")
"""They read files, or all settings: fewer inputs."""


FOUND = [
    ("tools", b"hosts = [" + b"9" * 5_000 + b"]"),
    ("tools", b"a = " + b"[" * 5_000),
    ("sentences", b"timeout = " + b"9" * 5_000),
    ("sentences", b"timeout = " + b"[" * 5_000),
    ("sentences", b"a" + b".ba" * 3_000 + b" = 1"),
    ("tools", b"[a" + b" . ba" * 3_000 + b"]"),
    ("prices", b"default = " + b"9" * 5_000),
    ("prices", b"default = " + b"[" * 5_000),
    ("prices", b"{" + b'"a":[' * 5_000),
    ("environment", b"TURNKEEP_WEIGHTS=" + b"[" * 100_000),
    ("environment", b"TURNKEEP_CHANNEL_RATE=1/inf"),
    ("environment", b"TURNKEEP_CHANNEL_RATE=" + b"9" * 400),
    ("environment", b"TURNKEEP_STORE=redis://[::1"),
    ("environment", b"TURNKEEP_INSTRUCTIONS=look at http://[docs"),
    ("environment", b"TURNKEEP_INSTRUCTIONS=ws:[a]//h:1=ws://h"),
    ("env file", b"TURNKEEP_INSTRUCTIONS=gr\xfc\xdf dich"),
    ("envelope", b'{"channel": "c", "message": "x", "x": 18446744073709551616}'),
    ("envelope", b'{"channel": "c", "message": "x", "x": ' + b"[]," * 160_000 + b"[]}"),
    ("envelope", b'{"channel": "c", "message": "x", "x": [' + b'"",' * 160_000 + b'""]}'),
    ("envelope", b'{"channel": "c", "message": "x", "x": [' + b"{}," * 160_000 + b"{}]}"),
    ("envelope", b"[" * 512_000),
    ("envelope", b"[" * 256_000 + b"]" * 256_000),
    ("envelope", (b"[" * 31 + b"]" * 31 + b",") * 8_000),
    ("envelope", b'"' * 512_000),
    ("envelope", b'"\\' * 250_000),
    ("envelope", b'{"a":' * 32 + b"1" + b"}" * 32),
    ("key set", b'{"keys": [1, null, [], {"kty": ["RSA"]}]}'),
    ("key set", b"[" * 200_000),
    ("credential", b"Bearer " + b"a." * 4_000),
    ("token", b"a." * 4_000),
    ("framer", b"event: " * 2_000 + b"\r" * 6_000),
]
"""What was found by this, and what is as large as can be."""


@pytest.fixture
def readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Readers:
    monkeypatch.chdir(tmp_path)
    return Readers(tmp_path)


@pytest.mark.prove  # there it is read in time, too
@pytest.mark.parametrize(("name", "data"), FOUND, ids=[f"{name} {place}" for place, (name, _) in enumerate(FOUND)])
def test_what_was_found_stays_found(name: str, data: bytes, readers: Readers) -> None:
    read, _ = seeds(readers)[name]
    found = Findings()
    tried(read, data, found, [], leads=False)
    assert found.faults == []
    if FULL:
        assert found.slow == []


@pytest.mark.slow  # every line is traced
@pytest.mark.prove
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_whatever_comes_in_is_read_or_refused_in_time(
    name: str, readers: Readers, size: Callable[[int, int], int], proof: Callable[[str, str], None]
) -> None:
    read, corpus = seeds(readers)[name]
    count = size(5, 5_000) if name in SLOW_TO_TRY else size(40, 20_000)
    found = fuzzed(read, corpus, count, random.Random(name))
    figures = f"inputs {found.inputs} | refused {found.refused} | lines of ours {len(found.lines)}"
    proof(
        f"fuzz {name}",
        f"{figures} | errors of another type {len(found.faults)} | slowest {found.slowest * 1000:.1f} ms",
    )
    assert found.faults == [], "\n".join(found.faults[:5])
    if FULL:
        assert found.slow == [], "\n".join(found.slow[:5])
