"""What is answered to what is no request, or none that is read here: in the form of all other errors, at
both doors and in the lobby alike.
"""

from __future__ import annotations

from http import HTTPStatus

import orjson

from turnkeep.lean_dataclass import dataclass

LARGEST_HEAD = 32_768
"""Bytes of a request line and headers."""
MOST_HEADERS = 128
"""Headers of a request; a socket's are read by a parser that takes no more."""
LONGEST_UPGRADE_LINE = 8_190
"""Bytes of a line of an upgrade to a socket, but for its end, for the same reason."""


@dataclass(frozen=True, slots=True)
class RequestRefusal:
    """An answer after which the connection is closed. `retry_after`: seconds, where coming back may help;
    `allow`: the method that is taken.
    """

    status: HTTPStatus
    code: str
    sentence: str
    retry_after: int | None = None
    allow: str | None = None

    @property
    def body(self) -> bytes:
        error: dict[str, object] = {"code": self.code, "message": self.sentence}
        if self.retry_after is not None:
            error |= {"retryable": True, "retry_after": self.retry_after}
        return orjson.dumps({"error": error})

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        again = [] if self.retry_after is None else [(b"retry-after", b"%d" % self.retry_after)]
        methods = [] if self.allow is None else [(b"allow", self.allow.encode())]
        return [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(self.body)),
            (b"connection", b"close"),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
            *again,
            *methods,
        ]

    @property
    def message(self) -> bytes:
        """All of it, as it goes over the line."""
        line = b"HTTP/1.1 %d %b\r\n" % (self.status, self.status.phrase.encode())
        return line + b"".join(b"%b: %b\r\n" % header for header in self.headers) + b"\r\n" + self.body


NO_REQUEST = RequestRefusal(HTTPStatus.BAD_REQUEST, "malformed_request", "this is no request of HTTP/1.1")
OLD_UPGRADE = RequestRefusal(
    HTTPStatus.BAD_REQUEST, "malformed_request", "a socket is opened with HTTP/1.1, a proxy on the way speaks 1.0"
)
METHOD_NOT_TAKEN = RequestRefusal(
    HTTPStatus.METHOD_NOT_ALLOWED, "method_not_allowed", "a socket is opened with GET, and nothing else becomes one",
    allow="GET",
)  # fmt: skip
REQUEST_TIMED_OUT = RequestRefusal(
    HTTPStatus.REQUEST_TIMEOUT, "request_timed_out", "the request did not arrive in time, send it again", 0
)
ADDRESS_TOO_LONG = RequestRefusal(
    HTTPStatus.REQUEST_URI_TOO_LONG, "address_too_long", "the address is longer than is read here, shorten it"
)
HEAD_TOO_LARGE = RequestRefusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "head_too_large",
    f"the headers are more than is read here, send less: {MOST_HEADERS} with {LARGEST_HEAD} bytes at most, "
    f"{LONGEST_UPGRADE_LINE} in one of them where a socket is opened",
)
CODING_NOT_TAKEN = RequestRefusal(
    HTTPStatus.NOT_IMPLEMENTED,
    "coding_not_taken",
    "a body is sent with its length, or in chunks; no other coding is taken",
)
NO_ROOM = RequestRefusal(
    HTTPStatus.SERVICE_UNAVAILABLE, "no_room", "there are too many connections, come back a little later", 5
)
AMBIGUOUS_LENGTH = RequestRefusal(
    HTTPStatus.BAD_REQUEST,
    "ambiguous_length",
    "say the length of the body by Content-Length or by Transfer-Encoding, not both",
)
VERSION_NOT_TAKEN = RequestRefusal(
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
    "http_version_not_taken",
    "this version of HTTP is not spoken here, use 1.1",
)


def handshake_refusal(status: int, reason: str) -> RequestRefusal:
    """What the parser of sockets does not take of a head that is a request. The `reason` is its own."""
    kind = HTTPStatus.UPGRADE_REQUIRED if status == HTTPStatus.UPGRADE_REQUIRED else HTTPStatus.BAD_REQUEST
    text = reason.encode("ascii", "backslashreplace").decode()  # a header may hold bytes that are no text
    return RequestRefusal(kind, "malformed_request", f"no socket is opened: {text}")
