"""Names looked up, and addresses judged before anything is sent to them; loaded when awaited."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import trio

from trioipc.builtin._probe import ProbeError

if TYPE_CHECKING:
    from socket import AddressFamily, SocketKind

# RFC 6052: what a translator makes of an IPv4 address.
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_private(host: str) -> bool:
    """Say whether an IP address is anything but one of the public internet.

    Also where an IPv6 address only wraps an IPv4 one. Source: the IANA special-purpose registries.
    """
    address = _unwrapped(ipaddress.ip_address(host.partition("%")[0]))
    return address.is_multicast or not address.is_global


def _unwrapped(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address


async def resolve(
    host: str, port: int, kind: SocketKind, allow_private: bool
) -> list[tuple[AddressFamily, str]]:
    """Look a name up.

    Returns:
      The addresses, best first, in a form that leads nowhere else when it is looked up again.

    Raises:
      ProbeError: if there is none, or a single one of them is private and must not be.
    """
    try:
        found = await trio.socket.getaddrinfo(host, port, type=kind)
    except (OSError, UnicodeError) as error:  # of IDNA, for labels that are too long
        raise ProbeError("name") from error
    addresses: list[tuple[AddressFamily, str]] = list(
        dict.fromkeys((family, _text(place)) for family, _, _, _, place in found)
    )
    if not addresses:
        raise ProbeError("name")
    if not allow_private and any(is_private(address) for _, address in addresses):
        raise ProbeError("private")
    return addresses


def _text(place: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> str:
    host = str(place[0])
    scope = place[3] if len(place) == 4 else 0
    return f"{host}%{scope}" if scope and "%" not in host else host
