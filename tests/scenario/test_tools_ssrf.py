"""No declared HTTP tool reaches an address that its configuration did not open.

A victim listens on 127.0.0.1 and counts every connection, whatever is spoken. Another server on 127.0.0.2 stands for
the outside world: the only network that the tools may reach.
"""

import asyncio
import itertools
import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.rows import each_row
from turnkeep.errors import ConfigurationError, ToolError
from turnkeep.tools import ToolContext
from turnkeep.tools.addresses import may_reach, networks_of
from turnkeep.tools.http_request import ToolEndpoint, endpoint_checked, request_tool

OPEN = networks_of(["127.0.0.2/32"])


@dataclass
class Listener:
    """Counts connections, remembers request lines, answers with what it is told to."""

    port: int = 0
    requests: list[str] = field(default_factory=list)
    connections: int = 0
    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfine"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        line = await reader.readline()
        self.requests.append(line.decode("latin-1").strip())
        writer.write(self.answer)
        await writer.drain()
        writer.close()


@pytest.fixture
async def victim() -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    yield listener
    server.close()
    await server.wait_closed()


@pytest.fixture
async def world() -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.start_server(listener.serve, "127.0.0.2", 0)
    listener.port = server.sockets[0].getsockname()[1]
    yield listener
    server.close()
    await server.wait_closed()


class Names(AbstractResolver):
    """Resolves every name to the next of these lists of addresses."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = itertools.cycle(answers)

    async def resolve(self, host: str, port: int = 0, family: int = socket.AF_INET) -> list[ResolveResult]:
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": 0,
            }
            for address in next(self._answers)
        ]

    async def close(self) -> None:
        pass


async def attempt(url: str, *, hosts: Sequence[str] = (), times: int = 1, **options: Any) -> list[str]:
    """What a tool with this URL gives or says; hosts are allowed as the URL writes them."""
    named = hosts or re.findall(r"^\w+://(?:[^/@]*@)?(\[[^\]]*\]|[^/:?#\\]*)", url)
    options = {"query": {}, "headers": {}, "networks": OPEN, "timeout": 5.0, **options}
    arguments = options.pop("arguments", {})
    said = []
    try:
        run = request_tool(endpoint_checked(ToolEndpoint(url=url, **options), named))
    except ConfigurationError as error:
        return [str(error)]
    for _ in range(times):
        try:
            said.append(await run(arguments, ToolContext()))
        except ToolError as error:
            said.append(str(error))
    return said


ADDRESSES = [
    "127.0.0.1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "2130706433",
    "0177.0.0.1",
    "0x7f.0.0.1",
    "0x7f000001",
    "017700000001",
    "127.1",
    "127.0.1",
    "0",
    "0.0.0.0",
    "127.0.0.1.",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:7F00:0001]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "[::127.0.0.1]",
    "[::7f00:1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b:1::7f00:1]",
    "[2002:7f00:1::]",
    "[fe80::1]",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "localhost%00.example.com",
    "127.0.0.1%2f@example.com",
    "example.com@127.0.0.1",
    "127.0.0.1#@example.com",
    "example.com\\@127.0.0.1",
    "example.com&@127.0.0.1",
    "{host}",
    "127.0.0.1 example.com",
    "127.0.0.1\texample.com",
    "",
]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_no_way_to_write_an_address_reaches_the_victim(scheme: str, address: str, victim: Listener) -> None:
    await attempt(f"{scheme}://{address}:{victim.port}/", arguments={"host": "127.0.0.1"})

    assert victim.connections == 0


FORMS = [
    "file:///etc/passwd",
    "ftp://127.0.0.1:PORT/",
    "gopher://127.0.0.1:PORT/_GET",
    "unix:///run/docker.sock",
    "ws://127.0.0.1:PORT/",
    "//127.0.0.1:PORT/",
    "data:text/plain,x",
    "http:127.0.0.1:PORT",
    "http:///127.0.0.1:PORT/",
    "http://127.0.0.1:PORT",
    "HTTP://127.0.0.1:PORT/",
    "http://user:password@127.0.0.1:PORT/",
    "http://127.0.0.1:PORT/#fragment",
    "http://127.0.0.1:0PORT/",
    " http://127.0.0.1:PORT/",
]


@pytest.mark.parametrize("url", FORMS)
async def test_no_other_scheme_or_form_reaches_the_victim(url: str, victim: Listener) -> None:
    await attempt(url.replace("PORT", str(victim.port)), hosts=["127.0.0.1", ""])

    assert victim.connections == 0


async def test_a_host_that_is_not_listed_is_refused_when_the_file_is_read() -> None:
    with pytest.raises(ConfigurationError, match="not in `hosts`"):
        endpoint_checked(ToolEndpoint(url="https://other.example/", query={}, headers={}), ["api.example"])


REDIRECTS = [301, 302, 303, 307, 308]
TARGETS = ["http://127.0.0.1:PORT/", "//127.0.0.1:PORT/", "http://[::ffff:127.0.0.1]:PORT/"]


@pytest.mark.parametrize("status", REDIRECTS)
@pytest.mark.parametrize("target", TARGETS)
async def test_redirects_are_not_followed(status: int, target: str, victim: Listener, world: Listener) -> None:
    world.answer = moved(status, target, victim)

    said = await attempt(f"http://127.0.0.2:{world.port}/")

    assert world.connections == 1
    assert victim.connections == 0
    assert "redirect" in said[0]


def moved(status: int, target: str, victim: Listener) -> bytes:
    location = target.replace("PORT", str(victim.port))
    return f"HTTP/1.1 {status} Moved\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


REBINDING = {
    "to the victim": [["127.0.0.1"]],
    "to the victim mapped": [["::ffff:127.0.0.1"]],
    "to the victim translated": [["64:ff9b::7f00:1"]],
    "to everything": [["0.0.0.0"], ["::"]],
    "to the victim the second time": [["127.0.0.2"], ["127.0.0.1"]],
    "to both": [["127.0.0.2", "127.0.0.1"], ["127.0.0.1", "127.0.0.2"]],
    "to the machine's metadata": [["169.254.169.254"], ["fd00:ec2::254"], ["168.63.129.16"]],
    "to private networks": [["10.0.0.1"], ["192.168.1.1"], ["172.16.0.1"], ["100.64.0.1"], ["fc00::1"]],
}


@pytest.mark.parametrize("answers", REBINDING.values(), ids=REBINDING.keys())
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_names_that_resolve_elsewhere_do_not_lead_to_the_victim(
    scheme: str, answers: list[list[str]], victim: Listener
) -> None:
    said = await attempt(f"{scheme}://api.example:{victim.port}/", resolver=Names(*answers), times=6)

    assert victim.connections == 0
    assert all("cannot be reached" in one for one in said)


async def test_the_address_that_was_checked_is_the_one_that_is_used(victim: Listener, world: Listener) -> None:
    names = Names(["127.0.0.1", "127.0.0.2"])

    said = await attempt(f"http://api.example:{world.port}/", resolver=names)

    assert said == ["fine"]
    assert world.connections == 1
    assert victim.connections == 0


VALUES = [
    "../../admin",
    "..",
    ".",
    "..;/admin",
    "%2e%2e",
    "%2e%2e%2fadmin",
    "..%2fadmin",
    "..\\admin",
    "/admin",
    "//127.0.0.1/",
    "@127.0.0.1",
    "?admin=1",
    "#fragment",
    "a?b=c&d=e#f",
    "x HTTP/1.1\r\nHost: 127.0.0.1\r\nX: y",
    "x\r\n\r\nGET /admin HTTP/1.1",
    "\x00",
    "é",
    "\ud800",
    "http://127.0.0.1/",
    "x" * 3000,
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
async def test_a_value_stays_in_its_place(value: str, victim: Listener, world: Listener) -> None:
    said = await attempt(
        f"http://127.0.0.2:{world.port}/items/{{item}}",
        query={"also": "{item}"},
        arguments={"item": value},
    )

    assert victim.connections == 0
    assert world.connections in (0, 1)
    for line in world.requests:
        assert re.fullmatch(r"GET /items/[A-Za-z0-9._~%-]+\?also=[A-Za-z0-9._~%+*-]+ HTTP/1\.1", line), line
        assert "/../" not in line
        assert "admin" not in line.split("/items/")[0]
    if world.connections == 0:
        assert "item must not be" in said[0] or "another address" in said[0]


async def test_the_proxies_of_the_environment_are_not_used(
    victim: Listener, world: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{victim.port}")

    said = await attempt(f"http://127.0.0.2:{world.port}/")

    assert said == ["fine"]
    assert victim.connections == 0


@pytest.mark.prove
async def test_all_of_it_against_one_victim(
    victim: Listener, world: Listener, proof: Callable[[str, str], None]
) -> None:
    port, attempts = victim.port, 0
    for scheme in ("http", "https"):
        for address in ADDRESSES:
            await attempt(f"{scheme}://{address}:{port}/", arguments={"host": "127.0.0.1"})
        for answers in REBINDING.values():
            await attempt(f"{scheme}://api.example:{port}/", resolver=Names(*answers), times=6)
        attempts += len(ADDRESSES) + len(REBINDING)
    for url in FORMS:
        await attempt(url.replace("PORT", str(port)), hosts=["127.0.0.1", ""])
    for status, target in itertools.product(REDIRECTS, TARGETS):
        world.answer = moved(status, target, victim)
        await attempt(f"http://127.0.0.2:{world.port}/")
    for value in VALUES:
        await attempt(f"http://127.0.0.2:{world.port}/items/{{item}}", arguments={"item": value})
    attempts += len(FORMS) + len(REDIRECTS) * len(TARGETS) + len(VALUES)

    hits = victim.connections
    await attempt(f"http://127.0.0.1:{port}/", networks=networks_of(["127.0.0.1/32"]))
    proof("SSRF", f"attempts {attempts} | hits {hits} | hits where the network is opened {victim.connections - hits}")
    assert (hits, victim.connections) == (0, 1)


def test_without_the_check_the_victim_is_hit() -> None:
    """The corpus can fail: this network would open the victim."""
    assert may_reach("127.0.0.1", networks_of(["127.0.0.0/8"]))
    assert may_reach("::ffff:127.0.0.1", networks_of(["127.0.0.1/32"]))


async def test_an_opened_network_is_reached(victim: Listener) -> None:
    said = await attempt(f"http://127.0.0.1:{victim.port}/", networks=networks_of(["127.0.0.1/32"]))

    assert said == ["fine"]
    assert victim.connections == 1


PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "93.184.216.34",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    "2002:808:808::",
    "64:ff9b::808:808",
]

NOT_PUBLIC = [
    "0.0.0.0",
    "0.1.2.3",
    "10.1.2.3",
    "100.64.0.1",
    "127.0.0.1",
    "127.255.255.254",
    "169.254.169.254",
    "168.63.129.16",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.1",
    "192.0.2.1",
    "192.168.0.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:7f00:1",
    "::10.0.0.1",
    "64:ff9b::a00:1",
    "64:ff9b:1::1",
    "2002:a00:1::",
    "2001::1",
    "2001:0:4136:e378:8000:63bf:f5ff:fffe",
    "2001:db8::1",
    "100::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "localhost",
    "",
    "127.1",
    "0x7f000001",
    "2130706433",
    "8.8.8.8 ",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_reached(address: str) -> None:
    assert may_reach(address, ())
    assert not may_reach(address, (), public=False)


@each_row("address", NOT_PUBLIC)
def test_other_addresses_may_not_be_reached(address: str) -> None:
    assert not may_reach(address, ())
    assert not may_reach(address, OPEN)


def test_a_network_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="networks"):
        networks_of(["10.0.0.0/33"])


def test_plain_http_is_for_named_networks_only() -> None:
    with pytest.raises(ConfigurationError, match="must be https"):
        endpoint_checked(ToolEndpoint(url="http://api.example/", query={}, headers={}), ["api.example"])
