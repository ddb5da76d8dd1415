"""Which addresses a tool may connect to: public ones, and those of networks that are configured.

The check is made where the socket is made, on the very address that is connected to. A name that
resolves to something else a moment later, an address written in another way or a mapped one cannot
get around it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from turnkeep.errors import ConfigurationError

IpAddress = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
SocketFactory = Callable[[Any], socket.socket]

# RFC 6052. Its local twin 64:ff9b:1::/48 (RFC 8215) needs no line: it lies outside of 2000::/3.
_NAT64 = IPv6Network("64:ff9b::/96")
_NOT_PUBLIC_4 = tuple(
    IPv4Network(name)
    for name in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # public by number, but answered by the machine's own host (Azure)
    )
)
_PUBLIC_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(IPv6Network(name) for name in ("2001::/23", "2001:db8::/32", "3fff::/20"))
"""The registries of special addresses (RFC 6890 and after), in full: what Python's `is_global` says
differs between its releases. In IPv6 what is not given out yet is not public; of 6to4 the address
inside counts too, see `_forms`.
"""


class AddressRefused(OSError):
    """the address is not public and no named network holds it"""


def networks_of(names: Sequence[str]) -> tuple[Network, ...]:
    """Networks in the form ``10.0.0.0/8``. Raises `ConfigurationError`."""
    try:
        return tuple(ip_network(name) for name in names)
    except ValueError as error:
        raise ConfigurationError(f"networks: {error}; write them like 10.0.0.0/8") from None


def checked_sockets(networks: Sequence[Network], *, public: bool) -> SocketFactory:
    """Makes aiohttp's sockets, for addresses in these networks only, and public ones if asked."""

    def make(info: Any) -> socket.socket:
        family, kind, protocol, _, socket_address = info
        if not may_reach(str(socket_address[0]), networks, public=public):
            raise AddressRefused("the address is not public and in no network that the tool may reach")
        return socket.socket(family, kind, protocol)

    return make


def may_reach(host: str, networks: Sequence[Network], *, public: bool = True) -> bool:
    """Whether an address in numbers may be connected to. What is no address may not."""
    try:
        # a zone (`%eth0`) names an interface of this machine; the question is about the address
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return False
    forms = _forms(address)
    if any(form in network for form in forms for network in networks if form.version == network.version):
        return True
    return public and all(_is_public(form) for form in forms)


def _forms(address: IpAddress) -> list[IpAddress]:
    """The address and those written inside it; of a mapped or translated one only the inner."""
    if isinstance(address, IPv4Address):
        return [address]
    # a translator forwards to the address inside, so a private one behind its prefix
    # would be reached
    last = IPv4Address(int(address) & 0xFFFFFFFF)
    if address.ipv4_mapped or address in _NAT64:
        return [last]
    return [address, *([address.sixtofour] if address.sixtofour else []), *(address.teredo or ())]


def _is_public(address: IpAddress) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    # ISATAP (RFC 5214) hides an IPv4 address behind any prefix, a public one too; the mask makes
    # its two forms, local and universal, one
    is_isatap = int(address) >> 32 & 0xFDFFFFFF == 0x00005EFE
    return address in _PUBLIC_6 and not is_isatap and not any(address in network for network in _NOT_PUBLIC_6)
