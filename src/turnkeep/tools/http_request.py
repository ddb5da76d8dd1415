"""Tools that are one HTTP request: fixed host, checked address, no redirects, bounded answer.

The model fills in values only: each goes, encoded, into one segment of the path, one query field or
one field of the JSON body. Scheme, host and port are the configuration's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote, urlencode

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from turnkeep.errors import ConfigurationError, ToolFailed
from turnkeep.lean_dataclass import dataclass
from turnkeep.tools.addresses import AddressRefused, Network, checked_sockets
from turnkeep.tools.tool import RunTool, ToolContext

ANSWER_CAP = 1024 * 1024
TIMEOUT = 10.0

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
_PLACE = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolEndpoint:
    """Where a declared HTTP tool goes and what it sends.

    `secrets` are values that must not come back in an answer. `resolver` is for tests.
    """

    url: str
    method: Method = "GET"
    query: Mapping[str, str]
    headers: Mapping[str, str]
    json: Mapping[str, Any] | None = None
    networks: Sequence[Network] = ()
    secrets: Sequence[str] = ()
    timeout: float = TIMEOUT
    idempotent: bool = False
    resolver: AbstractResolver | None = None

    @property
    def places(self) -> set[str]:
        """The parameters that are filled in somewhere."""
        texts = [self.url, *self.query.values(), *_texts(self.json)]
        return {name for text in texts for name in _PLACE.findall(text)}


def endpoint_checked(endpoint: ToolEndpoint, hosts: Sequence[str]) -> ToolEndpoint:
    """The endpoint, if its address is fixed and on the list. Raises `ConfigurationError`."""
    # a pattern and no parser: parsers differ about users, tabs and backslashes, and the one that
    # checks has to agree with the one that connects
    split = re.fullmatch(r"(https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[^\s\\#]*)?", endpoint.url)
    if split is None:
        raise ConfigurationError(
            f"url {endpoint.url[:200]!r} must be http(s)://host[:port]/path with a host in plain ASCII, no user, no"
            " fragment and no {…} before the path"
        )
    scheme, host = split[1], split[2].lower().rstrip(".")
    if host not in {name.lower().rstrip(".") for name in hosts}:
        raise ConfigurationError(f"host {host!r} is not in `hosts`; add it there if the tools may reach it")
    if scheme == "http" and not endpoint.networks:
        raise ConfigurationError(f"url {endpoint.url[:200]!r} must be https; http is for hosts in your own `networks`")
    return endpoint


def request_tool(endpoint: ToolEndpoint) -> RunTool:
    """What the tool does with arguments that fit its parameters."""

    async def run(arguments: Mapping[str, Any], context: ToolContext) -> str:
        headers = dict(endpoint.headers)
        if endpoint.idempotent and context.idempotency_key:
            headers["Idempotency-Key"] = context.idempotency_key
        status, text = await _exchange(
            endpoint, _address(endpoint, arguments), headers=headers, body=_body(endpoint, arguments)
        )
        # services repeat what they were sent: in error pages, in `url` fields
        for secret in endpoint.secrets:
            text = text.replace(secret, "***")
        if not 200 <= status < 300:
            raise ToolFailed(_refusal(status, text))
        return text

    return run


async def answer_of(response: aiohttp.ClientResponse, cap: int = ANSWER_CAP) -> bytes:
    """The body, at most `cap` bytes. Raises `ToolFailed` for a longer one."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(65536):
        body += chunk
        if len(body) > cap:
            raise ToolFailed(f"the answer is longer than {cap} bytes; ask for less")
    return bytes(body)


async def _exchange(endpoint: ToolEndpoint, url: URL, *, headers: Mapping[str, str], body: Any) -> tuple[int, str]:
    # plain http only within named networks: elsewhere anybody on the way could read and change it
    factory = checked_sockets(endpoint.networks, public=url.scheme == "https")
    # nothing is shared between calls: each resolves anew and is checked on the socket that it uses
    connector = aiohttp.TCPConnector(
        socket_factory=factory, resolver=endpoint.resolver, use_dns_cache=False, force_close=True
    )
    timeout = aiohttp.ClientTimeout(total=endpoint.timeout)
    try:
        # unpacking is off: 50 MB of zeros come as 50 kB of gzip, and the cap counts what arrives.
        # No redirects: they would lead where the configuration does not.
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session,
            session.request(
                endpoint.method,
                url,
                headers={"Accept-Encoding": "identity", **headers},
                json=body,
                allow_redirects=False,
            ) as response,
        ):
            return response.status, _text(await answer_of(response), response)
    except TimeoutError:
        raise ToolFailed(f"the service gave no answer within {endpoint.timeout:g} seconds") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise ToolFailed(_connection_failure(error)) from None


def _connection_failure(error: Exception) -> str:
    cause = getattr(error, "os_error", error)
    if isinstance(cause, AddressRefused):
        return f"the service cannot be reached: {cause}"
    return f"the service cannot be reached ({type(error).__name__})"


def _refusal(status: int, text: str) -> str:
    if 300 <= status < 400:
        return f"the service answered with a redirect ({status}), which is not followed"
    return f"the service answered with status {status}: {' '.join(text.split())[:500]}"


def _text(body: bytes, response: aiohttp.ClientResponse) -> str:
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise ToolFailed("the service sent a compressed answer, which was not asked for")
    try:
        return body.decode(response.charset or "utf-8")
    except (UnicodeDecodeError, LookupError):
        raise ToolFailed(f"the service sent {len(body)} bytes that are no text ({response.content_type})") from None


def _address(endpoint: ToolEndpoint, arguments: Mapping[str, Any]) -> URL:
    """The URL with the arguments in it. Fields whose parameter was left out are left out."""
    path = _PLACE.sub(lambda match: _segment(arguments.get(match[1]), match[1]), endpoint.url)
    if any(segment in (".", "..") for segment in path.partition("?")[0].split("/")):
        raise ToolFailed("the arguments would lead to another address")
    fields = [(name, _fill(text, arguments)) for name, text in endpoint.query.items()]
    query = urlencode([(name, value) for name, value in fields if value is not None])
    address = f"{path}{'&' if '?' in path else '?'}{query}" if query else path
    return URL(address, encoded=True)


def _segment(value: Any, name: str) -> str:
    """One segment of a path.

    Slashes are refused even encoded: some servers decode them before they route.
    """
    text = _to_text(value)
    if not text or "/" in text or "\\" in text:
        raise ToolFailed(f"{name} must not be empty or have a slash")
    return quote(text, safe="", errors="replace")


def _fill(text: str, arguments: Mapping[str, Any]) -> str | None:
    if any(arguments.get(name) is None for name in _PLACE.findall(text)):
        return None
    return _PLACE.sub(lambda match: _to_text(arguments[match[1]]), text).encode("utf-8", "replace").decode("utf-8")


def _to_text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _body(endpoint: ToolEndpoint, arguments: Mapping[str, Any]) -> Any:
    return None if endpoint.json is None else _with_values(endpoint.json, arguments)


def _with_values(node: Any, arguments: Mapping[str, Any]) -> Any:
    """The JSON template with values: a text ``{name}`` becomes the argument, with its type."""
    if isinstance(node, Mapping):
        return {name: _with_values(child, arguments) for name, child in node.items()}
    if isinstance(node, list):
        return [_with_values(child, arguments) for child in node]
    if isinstance(node, str):
        whole = _PLACE.fullmatch(node)
        return arguments.get(whole[1]) if whole else _fill(node, arguments)
    return node


def _texts(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        return [text for child in node.values() for text in _texts(child)]
    if isinstance(node, list):
        return [text for child in node for text in _texts(child)]
    return [node] if isinstance(node, str) else []
