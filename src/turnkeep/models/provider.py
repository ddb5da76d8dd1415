"""Where a provider is and how to get in: the settings of one address and one key, as a value."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from urllib.parse import urlencode, urlsplit, urlunsplit

from turnkeep.errors import ConfigurationError
from turnkeep.lean_dataclass import dataclass

OPENAI = "https://api.openai.com/v1"
ANTHROPIC = "https://api.anthropic.com/v1"


FIRST_EVENT = 60.0
FIRST_LOCAL_EVENT = 240.0
"""A model server of one's own loads a model when it is asked, and reads a long prompt at the pace
of its machine; one that is hung up on begins again from nothing. A run has five minutes in all.
"""


def patience_with(base_url: str) -> float:
    """Seconds to wait for the first event of a server: longer where it is in our own network."""
    host = urlsplit(base_url).hostname or ""
    try:
        is_near = ipaddress.ip_address(host).is_private
    except ValueError:
        is_near = "." not in host or host.endswith((".local", ".lan", ".internal", ".home.arpa", ".localhost"))
    return FIRST_LOCAL_EVENT if is_near else FIRST_EVENT


@dataclass(frozen=True, slots=True)
class Provider:
    """One address and the credentials for it. Nothing secret shows in its `repr`.

    `headers` are sent with every request and win over ours. `ca_file` is trusted besides the
    system's authorities. `capabilities` overrides what we believe the server takes (names of
    `Capabilities`, and `server` for an entry of its table). Timeouts in seconds: `connect_timeout`
    until the connection stands, `first_event_timeout` until anything is answered, `idle_timeout`
    between two arrivals; comments and pings count as arrivals. `dial` makes connections that are
    open already, where the server is reached by no address. Raises ConfigurationError for an
    address or a header that cannot be used.
    """

    base_url: str = OPENAI
    api_key: str = field(default="", repr=False)
    organisation: str | None = None
    project: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    proxy: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    connect_timeout: float = 10.0
    first_event_timeout: float = FIRST_EVENT
    idle_timeout: float = 30.0
    is_simulated: bool = False
    dial: Callable[[], Awaitable[socket.socket]] | None = field(default=None, repr=False)
    capabilities: Mapping[str, bool | str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not _is_address(self.base_url):
            raise ConfigurationError("the base url of the model server must look like https://host/v1, without a user")
        ours = {"api key": self.api_key, "organisation": self.organisation or "", "project": self.project or ""}
        for name, value in {**self.headers, **ours}.items():
            # A line break would be a header of its own.
            if not (name + value).isprintable() or not (name + value).isascii():
                raise ConfigurationError(f"the {name!r} for the model server must be one line of ASCII characters")

    @property
    def host(self) -> str:
        """Host name, with the port where it is not the scheme's own."""
        parts = urlsplit(self.base_url)
        return parts.netloc.lower()

    @property
    def site(self) -> str:
        """Host and path of the base URL: what was sealed or signed here can be read here, whatever
        the key.
        """
        return self.host + urlsplit(self.base_url).path.rstrip("/")

    @property
    def name(self) -> str:
        """Host plus a digest of the credentials: circuits and pace go by it. Never the key."""
        if not (secrets := self.secrets):
            return self.host
        # The same key has another quota in another organisation or project.
        marks = (self.organisation or "", self.project or "", *secrets)
        return f"{self.host}#{hashlib.sha256(chr(0).join(marks).encode()).hexdigest()[:12]}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must never show up in a message or a log."""
        return tuple(value for value in (self.api_key, *sorted(self.headers.values())) if value)

    def root_url(self, path: str) -> str:
        """The address of what a server offers beside its API: beneath the base
        URL without its ``/v1``.
        """
        parts = urlsplit(self.base_url)
        return urlunsplit(parts._replace(path=parts.path.rstrip("/").removesuffix("/v1") + path, query="", fragment=""))

    def url(self, path: str, **query: str) -> str:
        """The address of one operation; a query of the base url (`?api-version=…`) is kept."""
        parts = urlsplit(self.base_url)
        whole_query = "&".join(filter(None, (parts.query, urlencode(query))))
        return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, query=whole_query, fragment=""))


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return (
            # A password in the address would show in every sentence that names the host.
            parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        )
    except ValueError:
        return False
