"""STUN: the samples of RFC 5769, hostile datagrams, and servers that others wrote."""

from __future__ import annotations

import os
import random
import shutil
import socket
import struct
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from aioice import stun
from aioice.candidate import Candidate, candidate_priority
from hypothesis import given
from hypothesis import strategies as st

from trioipc.builtin import _ice, network
from trioipc.builtin._candidates import Reflection, candidates_of, priority_of
from trioipc.builtin._stun import (
    Response,
    binding_request,
    parse_response,
    server_of,
    timeouts,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from trioipc.builtin._probe import IceResult

# They take a second or two.
MUTANTS = 100_000

TRANSACTION = bytes.fromhex("b7e7a701bc34d686fa87dfae")

# RFC 5769, 2.1, 2.2 and 2.3.
REQUEST = bytes.fromhex(
    "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74"
    "002400046e0001ff80290008932ff9b151263b36000600096576746a3a68367659202020"
    "000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
)
IPV4 = bytes.fromhex(
    "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7"
    "80280004c07d4c96"
)
IPV6 = bytes.fromhex(
    "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220"
    "002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf1"
    "1784c97c8292c275bfe3ed4180280004c8fb0b4c"
)


def message(
    kind: int = 0x0101,
    attributes: bytes = b"",
    *,
    cookie: int = 0x2112A442,
    length: int | None = None,
    transaction: bytes = TRANSACTION,
) -> bytes:
    """Write a message by hand."""
    size = len(attributes) if length is None else length
    return struct.pack("!HHI", kind, size, cookie) + transaction + attributes


def attribute(kind: int, value: bytes, length: int | None = None) -> bytes:
    """Write an attribute by hand."""
    size = len(value) if length is None else length
    return struct.pack("!HH", kind, size) + value + bytes(-len(value) % 4)


def mapped(host: str, port: int, transaction: bytes = TRANSACTION) -> bytes:
    """Write an XOR-MAPPED-ADDRESS by hand."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    pad = struct.pack("!I", 0x2112A442) + transaction
    packed = socket.inet_pton(family, host)
    xored = bytes(a ^ b for a, b in zip(packed, pad, strict=False))
    return attribute(0x0020, struct.pack("!xBH", 2 if ":" in host else 1, port ^ 0x2112) + xored)


GOOD = message(attributes=mapped("192.0.2.1", 32853))
ERROR = message(0x0111, attribute(0x0009, b"\0\0\4\x14Bad"))


# ---- published samples


def test_the_responses_of_rfc_5769() -> None:
    """Both addresses come out."""
    assert parse_response(IPV4) == Response(TRANSACTION, ("192.0.2.1", 32853), None)
    expected = "2001:db8:1234:5678:11:2233:4455:6677", 32853
    assert parse_response(IPV6) == Response(TRANSACTION, expected, None)


def test_the_request_of_rfc_5769_answers_nothing() -> None:
    """It is well-formed, and of no use here."""
    assert stun.parse_message(REQUEST).message_class is stun.Class.REQUEST
    assert parse_response(REQUEST) is None


@pytest.mark.parametrize("sample", [IPV4, IPV6])
def test_no_flipped_bit_of_a_sample_changes_what_is_read(sample: bytes) -> None:
    """Its fingerprint covers all of it; a length that hides the fingerprint hides nothing else."""
    for index in range(len(sample) * 8):
        changed = bytearray(sample)
        changed[index // 8] ^= 1 << index % 8
        assert parse_response(bytes(changed)) in (None, parse_response(sample))


def test_a_request_is_a_binding_request() -> None:
    """By somebody else's codec, and each has its own transaction."""
    requests = [binding_request() for _ in range(20)]
    assert len({transaction for _, transaction in requests}) == 20
    for data, transaction in requests:
        parsed = stun.parse_message(data)
        assert parsed.message_method is stun.Method.BINDING
        assert parsed.message_class is stun.Class.REQUEST
        assert parsed.transaction_id == transaction == data[8:20]
        assert list(parsed.attributes) == ["FINGERPRINT"]
        assert data[4:8] == bytes.fromhex("2112a442")


def test_the_timeouts_of_rfc_8489() -> None:
    """Sent at 0, 500, 1500, 3500, 7500, 15500 and 31500 ms, given up at 39500 ms (6.2.1)."""
    waits = list(timeouts())
    sent = [sum(waits[:number]) for number in range(len(waits) + 1)]
    assert sent == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 39.5]


# ---- what is no answer


def test_those_written_by_hand_are_good() -> None:
    """What follows is wrong for the reason that it names."""
    assert parse_response(GOOD) == Response(TRANSACTION, ("192.0.2.1", 32853), None)
    assert parse_response(ERROR) == Response(TRANSACTION, None, 420)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        GOOD[:19],
        bytes(20),
        bytes(65535),
        GOOD + b"\0\0\0\0",
        GOOD[:-4],
        GOOD + b"\0",
        message(attributes=mapped("192.0.2.1", 1), cookie=0x2112A443),
        message(0x4101, mapped("192.0.2.1", 1)),
        message(0x8101, mapped("192.0.2.1", 1)),
        message(0xC101, mapped("192.0.2.1", 1)),
        message(0x0001, mapped("192.0.2.1", 1)),  # a request
        message(0x0011, mapped("192.0.2.1", 1)),  # an indication
        message(0x0103, mapped("192.0.2.1", 1)),  # to an allocation
        message(0x0FFF, mapped("192.0.2.1", 1)),
        message(),
        message(attributes=mapped("192.0.2.1", 1), length=0),
        message(attributes=mapped("192.0.2.1", 1), length=0xFFFF),
        message(attributes=mapped("192.0.2.1", 0)),
        message(attributes=mapped("0.0.0.0", 1)),
        message(attributes=mapped("224.0.0.1", 1)),
        message(attributes=mapped("::", 1)),
        message(attributes=mapped("192.0.2.1", 1) * 2),
        message(attributes=mapped("192.0.2.1", 1) + attribute(0x7FFF, b"")),
        message(attributes=attribute(0x0001, b"\0\1\0\1\xc0\0\2\1")),  # MAPPED-ADDRESS alone
        message(attributes=attribute(0x0020, b"\0\3\0\1\xc0\0\2\1")),
        message(attributes=attribute(0x0020, b"\0\2\0\1\xc0\0\2\1")),
        message(attributes=attribute(0x0020, b"\0\1\0\1")),
        message(attributes=attribute(0x0020, b"")),
        message(attributes=attribute(0x0020, b"\0\1\0\1\xc0\0\2\1", 12)),
        message(attributes=attribute(0x0020, b"\0\1\0\1\xc0\0\2\1", 0xFFFF)),
        message(attributes=mapped("192.0.2.1", 1) + attribute(0x8028, bytes(4))),
        message(attributes=mapped("192.0.2.1", 1) + attribute(0x8022, b"\xff\xff\xff\xff")),
        message(0x0111),
        message(0x0111, attribute(0x0009, b"")),
        message(0x0111, attribute(0x0009, b"\0\0\2\0")),
        message(0x0111, attribute(0x0009, b"\0\0\7\0")),
        message(0x0111, attribute(0x0009, b"\0\0\4\0\xff")),
    ],
)
def test_what_is_no_answer(data: bytes) -> None:
    """Each is dropped, without a word."""
    assert parse_response(data) is None


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    """Nothing is raised, alone or behind a header that is right."""
    assert parse_response(data) is None
    parse_response(message(attributes=data))


@pytest.mark.slow
def test_mutants() -> None:
    """Whatever is changed, nothing is raised, and what is accepted holds what it must."""
    random_ = random.Random(5769)
    seeds = [IPV4, IPV6, REQUEST, GOOD, ERROR, message(attributes=mapped("2001:db8::1", 7))]
    accepted = 0
    for _ in range(MUTANTS):
        data = mutant(random_, random_.choice(seeds))
        response = parse_response(data)
        if response is None:
            continue
        accepted += 1
        assert data[0] < 0x40
        assert data[4:8] == bytes.fromhex("2112a442")
        assert int.from_bytes(data[2:4], "big") == len(data) - 20
        assert response.transaction == data[8:20]
        assert (response.mapped is None) is (response.error is not None)
    assert MUTANTS // 100 < accepted < MUTANTS // 2


def mutant(random_: random.Random, seed: bytes) -> bytes:
    """Change something, often so that the length is right again."""
    data = bytearray(seed)
    for _ in range(random_.randint(1, 4)):
        place = random_.randrange(len(data) + 1)
        match random_.randrange(5):
            case 0 if place < len(data):
                data[place] ^= 1 << random_.randrange(8)
            case 1 if place < len(data):
                data[place] = random_.randrange(256)
            case 2:
                del data[place : place + random_.randint(1, 8)]
            case 3:
                data[place:place] = random_.randbytes(random_.randint(1, 8))
            case 4:
                start = random_.randrange(len(data) + 1)
                data[place:place] = data[start : start + random_.randint(1, 24)]
    if len(data) >= 20 and random_.random() < 0.7:
        data[2:4] = (len(data) - 20 & 0xFFFF).to_bytes(2, "big")
    return bytes(data)


# ---- names of servers


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("stun:stun.example.org", ("stun.example.org", 3478)),
        ("stun:stun.example.org:19302", ("stun.example.org", 19302)),
        ("STUN:192.0.2.1:1", ("192.0.2.1", 1)),
        ("stun:[2001:db8::1]", ("2001:db8::1", 3478)),
        ("stun:[::1]:65535", ("::1", 65535)),
    ],
)
def test_server_names(uri: str, expected: tuple[str, int]) -> None:
    """By RFC 7064."""
    assert server_of(uri, "it") == expected


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "stun.example.org",
        "stun:",
        "stun:host:",
        "stun:host:0",
        "stun:host:65536",
        "stun:host:-1",
        "stun:host\n",
        "stun:ho st",
        "stun://host",
        "stun:user@host",
        "stun:host?transport=udp",
        "stuns:host",
        "turn:host",
        "stun:::1",
        "stun:[::1",
        "stun:h\u00f6st",
        "stun:host:\u0661",
    ],
)
def test_names_of_no_server(uri: str) -> None:
    """A ValueError that says what would be right."""
    with pytest.raises(ValueError, match="it must be stun:host or stun:host:port"):
        server_of(uri, "it")


# ---- candidates


def test_priorities_are_those_of_rfc_8445() -> None:
    """As somebody else counts them, and none twice."""
    assert priority_of("host", 0) == candidate_priority(1, "host") == 2130706431
    assert priority_of("srflx", 0) == candidate_priority(1, "srflx") == 1694498815
    assert priority_of("host", 3) == candidate_priority(1, "host", 65532)


def test_candidates() -> None:
    """Alike ones have one foundation; what is the same is there once; the best comes first."""
    bases = [("2001:db8::1", 1000), ("10.0.0.1", 1001), ("10.0.0.1", 1002)]
    one, two = ("192.0.2.10", 3478), ("192.0.2.20", 3478)
    found = candidates_of(
        bases,
        [
            Reflection(bases[0], one, bases[0]),  # no NAT
            Reflection(bases[1], one, ("203.0.113.5", 5001)),
            Reflection(bases[1], two, ("203.0.113.5", 5001)),  # the same once more
            Reflection(bases[2], one, ("203.0.113.5", 5002)),
            Reflection(bases[2], two, ("203.0.113.5", 5003)),  # a NAT that tells servers apart
        ],
    )
    assert [(c.type, c.host, c.port, c.related_host, c.related_port) for c in found] == [
        ("host", "2001:db8::1", 1000, None, None),
        ("host", "10.0.0.1", 1001, None, None),
        ("host", "10.0.0.1", 1002, None, None),
        ("srflx", "203.0.113.5", 5001, "10.0.0.1", 1001),
        ("srflx", "203.0.113.5", 5002, "10.0.0.1", 1002),
        ("srflx", "203.0.113.5", 5003, "10.0.0.1", 1002),
    ]
    foundations = [c.foundation for c in found]
    assert foundations[1] == foundations[2]
    assert foundations[3] == foundations[4]
    assert len(set(foundations)) == 4
    priorities = [c.priority for c in found]
    assert priorities == sorted(set(priorities), reverse=True)
    for c in found:
        line = Candidate(
            c.foundation,
            c.component,
            c.transport,
            c.priority,
            c.host,
            c.port,
            c.type,
            c.related_host,
            c.related_port,
        ).to_sdp()
        again = Candidate.from_sdp(line)
        assert (again.foundation, again.priority, again.host) == (c.foundation, c.priority, c.host)


def test_addresses_of_this_machine() -> None:
    """None of those that mean nothing to others; each can be bound to."""
    for address in _ice.host_addresses():
        assert not address.startswith(("127.", "::1", "fe80"))
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as opened:
            opened.bind((address, 0))


# ---- servers that others wrote


def coturn(port: int) -> list[str]:
    """Return how to run coturn, STUN only, on loopback."""
    return (
        f"turnserver -n --stun-only -L 127.0.0.1 -L ::1 -p {port} --no-tls --no-dtls --no-cli "
        "--pidfile /dev/null --log-file stdout"
    ).split()


async def aioice_server(address: str, sockets: list[Any]) -> None:
    """Answer by aioice's codec."""
    (opened,) = sockets
    while True:
        data, source = await opened.recvfrom(2048)
        request = stun.parse_message(data)
        reply = stun.Message(
            stun.Method.BINDING,
            stun.Class.RESPONSE,
            request.transaction_id,
            {"SOFTWARE": "test", "XOR-MAPPED-ADDRESS": source[:2]},
        )
        reply.add_fingerprint()
        await opened.sendto(bytes(reply), source)


@asynccontextmanager
async def udp(
    serve: Callable[..., Awaitable[None]], address: str = "127.0.0.1", count: int = 1
) -> AsyncIterator[list[int]]:
    """Serve UDP on ports of loopback."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    async with trio.open_nursery() as nursery:
        sockets = [trio.socket.socket(family, socket.SOCK_DGRAM) for _ in range(count)]
        try:
            for opened in sockets:
                await opened.bind((address, 0))
            nursery.start_soon(serve, address, sockets)
            yield [opened.getsockname()[1] for opened in sockets]
            nursery.cancel_scope.cancel()
        finally:
            for opened in sockets:
                opened.close()


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gather from loopback, which nobody does elsewhere."""
    monkeypatch.setattr(_ice, "host_addresses", lambda: ["::1", "127.0.0.1"])


async def ask(*servers: str, timeout: float = 5.0, allow_private: bool = True) -> IceResult:
    """Gather candidates."""
    with trio.fail_after(timeout + 2):
        return await network.resolve_ice(list(servers), timeout, allow_private)


def check_without_nat(result: IceResult) -> None:
    """Without a NAT each address is its own reflection, and that is not told twice."""
    assert result.success
    assert [(c.type, c.host) for c in result.candidates] == [("host", "::1"), ("host", "127.0.0.1")]


@asynccontextmanager
async def open_coturn() -> AsyncIterator[list[str]]:
    """Run coturn, and say how it is reached. Requests are repeated until it is ready."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    process = await trio.lowlevel.open_process(
        coturn(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield [f"stun:127.0.0.1:{port}", f"stun:[::1]:{port}", f"stun:localhost:{port}"]
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


@asynccontextmanager
async def open_aioice() -> AsyncIterator[list[str]]:
    """Run servers of aioice's codec, and say how they are reached."""
    async with udp(aioice_server) as (four,), udp(aioice_server, "::1") as (six,):
        yield [f"stun:127.0.0.1:{four}", f"stun:[::1]:{six}"]


@pytest.mark.parametrize(
    "open_server", [open_aioice, *([open_coturn] if shutil.which("turnserver") else [])]
)
async def test_servers_of_others(loopback: None, open_server: Any) -> None:
    """They answer by IPv4 and by IPv6; coturn among them, where it is installed."""
    async with open_server() as servers:
        for server in servers:
            check_without_nat(await ask(server, timeout=20))


# ---- rude servers


def replying(
    *replies: Callable[[bytes, str, int], bytes], pause: float = 0.0
) -> Callable[..., Awaitable[None]]:
    """Answer each request with all of these, in this order."""

    async def serve(address: str, sockets: list[Any]) -> None:
        while True:
            data, source = await sockets[0].recvfrom(2048)
            for reply in replies:
                await sockets[0].sendto(reply(data[8:20], *source[:2]), source)
                await trio.sleep(pause)

    return serve


def nat(transaction: bytes, host: str, port: int) -> bytes:
    """Answer as a server on the other side of a NAT."""
    seen = "2001:db8::5" if ":" in host else "203.0.113.5"
    return message(attributes=mapped(seen, 4242, transaction), transaction=transaction)


def other(transaction: bytes, host: str, port: int) -> bytes:
    """Answer with another address."""
    seen = "2001:db8::66" if ":" in host else "203.0.113.66"
    return message(attributes=mapped(seen, 6666, transaction), transaction=transaction)


def swapped(transaction: bytes, host: str, port: int) -> bytes:
    """Answer with an address of the other family."""
    seen = "203.0.113.66" if ":" in host else "2001:db8::66"
    return message(attributes=mapped(seen, 6666, transaction), transaction=transaction)


def refused(transaction: bytes, host: str, port: int) -> bytes:
    """Refuse."""
    return message(0x0111, attribute(0x0009, b"\0\0\4\x14Bad"), transaction=transaction)


def reflexive(result: IceResult) -> list[tuple[str, int, str | None]]:
    """Return what servers saw."""
    return [(c.host, c.port, c.related_host) for c in result.candidates if c.type == "srflx"]


NAT = [("203.0.113.5", 4242, "127.0.0.1")]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_behind_a_nat(loopback: None, address: str) -> None:
    """What the server sees is a candidate, with the address that it belongs to."""
    async with udp(replying(nat), address) as (port,):
        result = await ask(f"stun:[::1]:{port}" if ":" in address else f"stun:127.0.0.1:{port}")
    seen = "2001:db8::5" if ":" in address else "203.0.113.5"
    assert reflexive(result) == [(seen, 4242, address)]
    base = next(c for c in result.candidates if c.host == address)
    assert result.candidates[-1].related_port == base.port
    assert result.success


@pytest.mark.parametrize(
    "wrong",
    [
        lambda transaction, host, port: b"",
        lambda transaction, host, port: bytes(2000),
        lambda transaction, host, port: bytes(65000),
        lambda transaction, host, port: b"SSH-2.0-OpenSSH",
        lambda transaction, host, port: other(bytes(12), host, port),
        lambda transaction, host, port: other(transaction[::-1], host, port),
        lambda transaction, host, port: b"\x41" + other(transaction, host, port)[1:],
        lambda transaction, host, port: other(transaction, host, port)[:-4],
        lambda transaction, host, port: other(transaction, host, port) + bytes(4),
        lambda transaction, host, port: (
            other(transaction, host, port)[:4] + bytes(4) + other(transaction, host, port)[8:]
        ),
        lambda transaction, host, port: message(
            attributes=mapped("203.0.113.66", 6666, transaction), kind=1, transaction=transaction
        ),
        swapped,
    ],
)
async def test_wrong_answers_are_waited_past(loopback: None, wrong: Any) -> None:
    """What is wrong is dropped, and the right answer after it is taken."""
    async with udp(replying(wrong, nat)) as (port,):
        result = await ask(f"stun:127.0.0.1:{port}")
    assert reflexive(result) == NAT


async def test_the_first_answer_counts(loopback: None) -> None:
    """What comes after it changes nothing."""
    async with udp(replying(nat, nat, other)) as (port,):
        assert reflexive(await ask(f"stun:127.0.0.1:{port}")) == NAT


async def test_an_answer_from_elsewhere_is_none(loopback: None) -> None:
    """Also if it knows the transaction."""

    async def serve(address: str, sockets: list[Any]) -> None:
        while True:
            data, source = await sockets[0].recvfrom(2048)
            await sockets[1].sendto(other(data[8:20], *source[:2]), source)
            await sockets[0].sendto(nat(data[8:20], *source[:2]), source)

    async with udp(serve, count=2) as (port, _):
        assert reflexive(await ask(f"stun:127.0.0.1:{port}")) == NAT


@pytest.mark.slow
async def test_a_lost_request_is_sent_again(loopback: None) -> None:
    """The same one, half a second later."""
    seen: list[bytes] = []

    async def serve(address: str, sockets: list[Any]) -> None:
        while True:
            data, source = await sockets[0].recvfrom(2048)
            seen.append(data)
            if len(seen) == 2:
                await sockets[0].sendto(nat(data[8:20], *source[:2]), source)

    async with udp(serve) as (port,):
        start = trio.current_time()
        assert reflexive(await ask(f"stun:127.0.0.1:{port}")) == NAT
        assert 0.5 <= trio.current_time() - start < 2
    assert len(seen) == 2
    assert seen[0] == seen[1]


async def test_servers_that_do_not_answer(loopback: None) -> None:
    """The call ends in time, without them, and says so; the machine's own addresses are there."""

    async def mute(address: str, sockets: list[Any]) -> None:
        await trio.sleep_forever()

    async with udp(mute) as (port,), udp(replying(nat)) as (good,):
        start = trio.current_time()
        alone = await ask(f"stun:127.0.0.1:{port}", timeout=0.4)
        assert 0.4 <= trio.current_time() - start < 0.9
        assert (alone.success, len(alone.candidates)) == (False, 2)
        both = await ask(f"stun:127.0.0.1:{port}", f"stun:127.0.0.1:{good}", timeout=0.4)
        assert (both.success, reflexive(both)) == (True, NAT)


async def test_servers_that_refuse(loopback: None) -> None:
    """An error is an answer, which need not be waited past, and no success."""
    async with udp(replying(refused)) as (port,):
        start = trio.current_time()
        result = await ask(f"stun:127.0.0.1:{port}")
        assert trio.current_time() - start < 2
    assert (result.success, len(result.candidates)) == (False, 2)


async def test_a_flood(loopback: None) -> None:
    """A server that never stops talking nonsense does not hold the call up."""

    async def serve(address: str, sockets: list[Any]) -> None:
        _, source = await sockets[0].recvfrom(2048)
        while True:
            await sockets[0].sendto(os.urandom(100), source)
            await trio.lowlevel.checkpoint()

    async with udp(serve) as (port,):
        start = trio.current_time()
        result = await ask(f"stun:127.0.0.1:{port}", timeout=0.5)
        assert trio.current_time() - start < 1
    assert not result.success


async def test_two_servers_of_one_nat(loopback: None) -> None:
    """They see the same, which is one candidate."""
    async with udp(replying(nat)) as (one,), udp(replying(nat)) as (two,):
        result = await ask(f"stun:127.0.0.1:{one}", f"stun:127.0.0.1:{two}")
    assert reflexive(result) == NAT


async def test_without_servers(loopback: None) -> None:
    """The addresses of the machine, at once."""
    result = await ask()
    assert [(c.type, c.host) for c in result.candidates] == [("host", "::1"), ("host", "127.0.0.1")]
    assert all(c.port for c in result.candidates)
    assert result.success


async def test_without_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No success, whatever servers there are; an address that is gone is as good as none."""
    for addresses in ([], ["192.0.2.99", "2001:db8::99"]):
        monkeypatch.setattr(_ice, "host_addresses", lambda found=addresses: found)
        for servers in ((), ("stun:127.0.0.1:9",)):
            result = await ask(*servers)
            assert (result.success, result.candidates) == (False, ())


async def test_private_servers_are_not_asked(loopback: None) -> None:
    """If they must not be."""
    asked = 0

    async def serve(address: str, sockets: list[Any]) -> None:
        nonlocal asked
        await sockets[0].recvfrom(2048)
        asked += 1

    async with udp(serve) as (port,):
        result = await ask(f"stun:127.0.0.1:{port}", allow_private=False)
    assert (result.success, asked) == (False, 0)


async def test_a_server_there_is_no_way_to(loopback: None) -> None:
    """From loopback nothing can be sent elsewhere, and that is seen at once."""
    start = trio.current_time()
    result = await ask("stun:198.51.100.1")
    assert trio.current_time() - start < 2
    assert (result.success, len(result.candidates)) == (False, 2)


async def test_names_that_lead_nowhere(loopback: None) -> None:
    """A server without an address has not answered."""
    assert not (await ask(f"stun:{'a' * 70}.example")).success
