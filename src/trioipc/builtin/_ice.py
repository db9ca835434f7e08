"""ICE candidates gathered on Trio; loaded when that is awaited.

Each address of this machine gets a socket, and each server is asked from each of them that it can
be reached from. An answer counts if it comes from where the request went, and names it.
"""

from __future__ import annotations

import ipaddress
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, final

import attrs
import ifaddr
import trio

from trioipc.builtin._addresses import resolve
from trioipc.builtin._candidates import Place, Reflection, candidates_of
from trioipc.builtin._probe import IceResult, ProbeError
from trioipc.builtin._stun import binding_request, parse_response, server_of, timeouts
from trioipc.worker.request import current_request

if TYPE_CHECKING:
    from socket import AddressFamily

# RFC 8445, 14.2: new transactions begin at this pace, so that a NAT keeps up.
PACE = 0.05
# No answer to a binding request is longer; one that were would not fit its own length.
_MAX_DATAGRAM = 2048


async def resolve_ice(stun_servers: list[str], timeout: float, allow_private: bool) -> IceResult:
    """See `network.resolve_ice`."""
    servers = [server_of(uri, f"stun_servers[{i}]") for i, uri in enumerate(stun_servers)]
    progress = current_request().progress
    progress.set_total(len(servers))
    progress.set(0)
    with ExitStack() as stack:
        bases = []
        for address in host_addresses():
            base = await _open_base(stack, address)
            if base is not None:
                bases.append(base)
        gathering = _Gathering(bases, allow_private)
        with trio.move_on_after(timeout):
            await gathering.run(servers)
    progress.set(len(servers))
    # In the order of bases and servers, not in that of answers.
    reflections = [gathering.found[key] for key in sorted(gathering.found)]
    candidates = candidates_of([base.place for base in bases], reflections)
    return IceResult(candidates, bool(reflections) if servers else bool(candidates))


def host_addresses() -> list[str]:
    """Return the addresses of this machine that others may reach, IPv6 before IPv4.

    Source: RFC 8445, 5.1.1.1 (no loopback); link-local ones mean nothing without their interface.
    """
    found = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0]
            address = ipaddress.ip_address(text.partition("%")[0])
            if not (address.is_loopback or address.is_link_local or address.is_unspecified):
                found.append(str(address))
    return sorted(dict.fromkeys(found), key=lambda text: ":" not in text)


@final
@attrs.define(eq=False)
class _Base:
    """A socket of one address, and the requests that were sent from it."""

    socket: trio.socket.SocketType
    family: AddressFamily
    place: Place
    # {transaction: (where it went, where the answer goes)}
    pending: dict[bytes, tuple[Place, trio.MemorySendChannel[Place | None]]] = attrs.Factory(dict)

    async def receive(self) -> None:
        """Hand answers to those who wait for them, and drop everything else."""
        while True:
            try:
                data, source = await self.socket.recvfrom(_MAX_DATAGRAM)
            except OSError:  # what the network says of a datagram that it could not deliver
                continue
            response = parse_response(data)
            if response is None or response.transaction not in self.pending:
                continue
            place, answers = self.pending[response.transaction]
            if place != source[:2] or not self._is_of_family(response.mapped):
                continue
            del self.pending[response.transaction]
            answers.send_nowait(response.mapped)

    def _is_of_family(self, mapped: Place | None) -> bool:
        return mapped is None or (":" in mapped[0]) == (self.family == socket.AF_INET6)


async def _open_base(stack: ExitStack, address: str) -> _Base | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    opened = stack.enter_context(trio.socket.socket(family, socket.SOCK_DGRAM))
    try:
        await opened.bind((address, 0))
    except OSError:  # it has just gone, or is not ready yet
        return None
    return _Base(opened, family, opened.getsockname()[:2])


@final
@attrs.define(eq=False)
class _Gathering:
    """All servers asked from all bases."""

    _bases: list[_Base]
    _allow_private: bool
    # {(number of the base, number of the server): what it answered}
    found: dict[tuple[int, int], Reflection] = attrs.field(factory=dict, init=False)
    _pacer: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    async def run(self, servers: list[Place]) -> None:
        """Ask until each server has answered, refused or been given up."""
        async with trio.open_nursery() as receiving:
            for base in self._bases:
                receiving.start_soon(base.receive)
            async with trio.open_nursery() as asking:
                for number, server in enumerate(servers):
                    asking.start_soon(self._ask_server, number, server)
            receiving.cancel_scope.cancel()

    async def _ask_server(self, number: int, server: Place) -> None:
        try:
            addresses = await resolve(*server, socket.SOCK_DGRAM, self._allow_private)
        except ProbeError:
            addresses = []
        # The best address of each family; the others are other ways to the same server.
        best = dict(reversed(addresses))
        async with trio.open_nursery() as nursery:
            for index, base in enumerate(self._bases):
                if base.family in best:
                    place = best[base.family], server[1]
                    nursery.start_soon(self._ask, index, base, number, place)
        current_request().progress.increment()

    async def _ask(self, index: int, base: _Base, number: int, place: Place) -> None:
        mapped = await self._transact(base, place)
        if mapped is not None:
            self.found[index, number] = Reflection(base.place, place, mapped)

    async def _transact(self, base: _Base, place: Place) -> Place | None:
        """Return the address that the server saw; None if it refused, or never answered."""
        request, transaction = binding_request()
        send, receive = trio.open_memory_channel[Place | None](1)
        async with self._pacer:
            await trio.sleep(PACE)
        base.pending[transaction] = place, send
        try:
            for seconds in timeouts():
                await base.socket.sendto(request, place)
                with trio.move_on_after(seconds):
                    return await receive.receive()
        except OSError:  # there is no way to it
            pass
        finally:
            base.pending.pop(transaction, None)
        return None
