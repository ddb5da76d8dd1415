"""Requests that are not what they seem: from other pages, by other names, two in one, too large, too deep."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.attack.conftest import Tried
from tests.attack.target import Attempt, Target, opened

MESSAGE = b'{"message": "planted"}'
REFUSED = frozenset({307, 400, 401, 403, 404, 405, 411, 413, 414, 415, 417, 421, 431, 501, 505})


READING, POSTING = "GET /api/queue HTTP/1.1", "POST /api/channels/c/messages HTTP/1.1"


def statuses(heard: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3})", heard)]


def refused(  # the parts of a request
    kind: str, name: str, line: str, *headers: str, body: bytes = b"", host: str = "@HOST@"
) -> Attempt:
    """A request that is answered at most once, with a refusal. `@HOST@` is where the target is; `host` "": none."""

    async def act(target: Target) -> str | None:
        lines = [line, *([f"Host: {host}"] if host else []), *headers]
        head = "\r\n".join(lines).replace("@HOST@", target.host).encode() + b"\r\n\r\n"
        told = statuses(await target.raw(head + body))
        return None if len(told) <= 1 and set(told) <= REFUSED else f"answered {told}"

    return Attempt(kind, name, act)


def posted(kind: str, name: str, *headers: str, host: str = "@HOST@", body: bytes = MESSAGE) -> Attempt:
    """A message, as a page may send it without asking first."""
    plain = ("Content-Type: text/plain", f"Content-Length: {len(body)}")
    return refused(kind, name, POSTING, *plain, *headers, body=body, host=host)


# ---------------------------------------------------------------- other pages, other names

PAGES = (
    "https://evil.example", "null", "http://127.0.0.1:1", "http://localhost", "http://127.0.0.1.evil.example",
    "file://", "chrome-extension://abcdef", "http://[::1]", "https://127.0.0.1", "",
)  # fmt: skip

NAMES = (
    "evil.example", "127.0.0.1.", "127.0.0.1.evil.example", "me@127.0.0.1", "", "127.0.0.1, evil.example",
    "evil.example:80", "127.0.0.1:80:80", "localhost.evil.example", "[::1", "127.0.0.1/", "127.0.0.1?x",
    "127.0.0.1#x", "127.0.0.1\\x", "xn--evil-.example",
)  # fmt: skip


def from_other_pages() -> Iterator[Attempt]:
    for page in PAGES:
        origin = f"Origin: {page}"
        yield refused("page", f"reads from {page!r}", READING, origin)
        yield posted("page", f"writes from {page!r}", origin)
        asking = "Access-Control-Request-Method: POST"
        yield refused("page", f"asks first from {page!r}", "OPTIONS /api/queue HTTP/1.1", origin, asking)
    yield posted("page", "two origins", "Origin: http://@HOST@", "Origin: https://evil.example")


def by_other_names() -> Iterator[Attempt]:
    for name in NAMES:
        yield refused("name", f"reads as {name!r}", READING, host=name)
        yield posted("name", f"writes as {name!r}", host=name)
    yield posted("name", "two names", "Host: evil.example")


# ---------------------------------------------------------------- paths

PATHS = (
    "/static/../settings.py", "/static/%2e%2e/settings.py", "/static/..%2fsettings.py", "/static//etc/passwd",
    "/static/%2fetc%2fpasswd", "/static/chat/page.js%00.html", "/static/..%5c..%5csettings.py", "/static/.",
    "/../../etc/passwd", "/web/index.html", "/.env", "/.git/config", "/.turnkeep/turnkeep.db",
)  # fmt: skip


def along_paths() -> Iterator[Attempt]:
    for path in PATHS:
        yield refused("path", path, f"GET {path} HTTP/1.1")


# ---------------------------------------------------------------- two in one

CHUNKED = "Transfer-Encoding: chunked"
SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def two_in_one() -> Iterator[Attempt]:
    for name, headers, body in (
        ("two lengths", ["Content-Length: 5", f"Content-Length: {5 + len(SMUGGLED)}"], b"xxxxx" + SMUGGLED),
        ("a length with a sign", ["Content-Length: +5"], b"xxxxx" + SMUGGLED),
        ("a length in hexadecimal", ["Content-Length: 0x5"], b"xxxxx" + SMUGGLED),
        ("a length below zero", ["Content-Length: -1"], b"xxxxx" + SMUGGLED),
        ("a coding that is none", ["Transfer-Encoding: xchunked"], b"0\r\n\r\n" + SMUGGLED),
        ("two codings", ["Transfer-Encoding: chunked, identity"], b"0\r\n\r\n" + SMUGGLED),
        ("a blank before the colon", ["Transfer-Encoding : chunked"], b"0\r\n\r\n" + SMUGGLED),
        ("a null in a header", ["X-A: a\0b"], b""),
        ("a chunk of no size", [CHUNKED], b"x\r\n\r\n" + SMUGGLED),
        ("a chunk with a sign", [CHUNKED], b"-1\r\n\r\n" + SMUGGLED),
        ("a chunk that is longer than it says", [CHUNKED], b"1\r\nxx\r\n0\r\n\r\n" + SMUGGLED),
        ("a header without a colon", ["GET /healthz HTTP/1.1"], b""),
        ("a length and a coding", [CHUNKED, "Content-Length: 5"], b"0\r\n\r\n" + SMUGGLED),
        ("a length and a coding, the other way round", ["Content-Length: 5", CHUNKED], b"0\r\n\r\n" + SMUGGLED),
        ("a header that goes on", ["X-A: b\r\n c"], b""),
        ("a header that goes on after a tab", ["X-A: b\r\n\tTransfer-Encoding: chunked"], b""),
        ("a line that ends in half", ["X-A: b\nTransfer-Encoding: chunked"], b"0\r\n\r\n" + SMUGGLED),
        ("an end in halves", ["X-A: b\n\nGET /healthz HTTP/1.1\nHost: 127.0.0.1\n"], b""),
    ):
        yield refused("two in one", name, POSTING, *headers, body=body)
    for name, first in (
        ("another host in the line", "GET http://evil.example/api/queue HTTP/1.1"),
        ("no version", "GET /api/queue"),
        ("a version that is none", "GET /api/queue HTTP/9.9"),
        ("HTTP/2 with prior knowledge", "PRI * HTTP/2.0"),
        ("TRACE", "TRACE /api/queue HTTP/1.1"),
        ("CONNECT", "CONNECT 127.0.0.1:22 HTTP/1.1"),
        ("a tab in the line", "GET\t/api/queue HTTP/1.1"),
    ):
        yield refused("line", name, first, host="evil.example" if "evil" in first else "@HOST@")


# ---------------------------------------------------------------- too large, too deep


def bodies() -> Iterator[tuple[str, bytes]]:
    yield from (
        ("arrays in arrays", b'{"message":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
        ("33 levels", b'{"a":' * 33 + b"1" + b"}" * 33),
        ("NaN", b'{"message": NaN}'),
        ("infinity", b'{"window": 1e999, "message": "m"}'),
        ("a number of 400,000 digits", b'{"window": ' + b"9" * 400_000 + b', "message": "m"}'),
        ("half a surrogate pair", b'{"message_id": "\\ud800", "message": 1}'),
        ("UTF-16", '{"message": "m"}'.encode("utf-16")),
        ("a mark before it", b"\xef\xbb\xbf" + b'{"message": "m"'),
        ("overlong UTF-8", b'{"message": "\xc0\xaf"}'),
        ("9,999 keys", b"{" + b",".join(b'"k%d":1' % n for n in range(9_999)) + b"}"),
        ("too many values", b'{"message": "m", "metadata": {"a": [' + b"1," * 20_000 + b"1]}}"),
        ("quotes", b'"' * 500_000),
        ("commas", b'{"message":' + b"," * 500_000),
        ("backslashes", b'{"message":"' + b"\\" * 499_001),
        ("a gzip", b"\x1f\x8b\x08\x00" + b"\0" * 100),
        ("nothing", b""),
        ("a list", b"[]"),
        ("a text", b'"message"'),
        ("more than is read", b'{"message": "' + b"x" * 600_000 + b'"}'),
    )


def too_large() -> Iterator[Attempt]:
    for name, body in bodies():
        yield posted("body", name, body=body)
    for size in (40_000, 70_000, 1_000_000):
        yield refused("header", f"of {size} bytes", READING, f"X-Filler: {'x' * size}")
    yield refused("header", "9,000 of them", READING, *[f"X-{number}: 1" for number in range(9_000)])
    yield refused("line", "an address of 70 kB", f"GET /{'a' * 70_000} HTTP/1.1")


async def test_a_request_that_is_not_what_it_seems_is_refused(tried: Tried, caplog: pytest.LogCaptureFixture) -> None:
    """And nothing of it fills the log."""
    async with opened() as target:
        await tried(target, [*from_other_pages(), *by_other_names(), *along_paths(), *two_in_one(), *too_large()])
        assert (await target.server.queue.store.counts()).open_messages == 0
    assert not [record for record in caplog.records if record.name.startswith("uvicorn") and record.levelno >= 30]
