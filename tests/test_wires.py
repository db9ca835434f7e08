"""Who may be a worker: a child of this process that knows the token and speaks our protocol."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

import pytest
import trio

from trioipc import WorkerStartError
from trioipc.pool.engines import _wires
from trioipc.pool.engines._wires import Listener, listen
from trioipc.protocol._codec import VERSION
from trioipc.worker._wires import HELLO

if TYPE_CHECKING:
    from collections.abc import Callable

# Connects to an address, says what it is told in two halves, and waits until it is dropped.
CHILD = textwrap.dedent(
    """
    import os, socket, sys
    control = socket.socket(socket.AF_UNIX)
    control.connect(bytes.fromhex(sys.argv[1]).decode())
    hello = bytes.fromhex(sys.argv[2].replace("PID", os.getpid().to_bytes(8, "little").hex()))
    control.sendall(hello[:20])
    control.sendall(hello[20:])
    if sys.argv[3] == "close":
        control.shutdown(socket.SHUT_WR)
    control.recv(1)
    """
)


def start_child(listener: Listener, hello: str, how: str = "wait") -> subprocess.Popen[bytes]:
    """Start a child that says something to the listener."""
    address = listener.address.encode().hex()
    return subprocess.Popen([sys.executable, "-c", CHILD, address, hello, how])


def hello_of(token: bytes, *, protocol: int = VERSION, pid: int | None = None) -> str:
    """Write what a child says, in hex; its pid is its own if none is given."""
    said = HELLO.pack(token, pid or 0, protocol, b"1.2.3").hex()
    if pid:
        return said
    at = 2 * len(token)  # behind the token; a pid has 16 digits
    return said[:at] + "PID" + said[at + 16 :]


async def ended(child: subprocess.Popen[bytes]) -> int:
    """Wait until a child that was dropped has ended."""
    with trio.fail_after(20):
        return await trio.to_thread.run_sync(child.wait)


async def test_a_child_with_the_token_is_let_in() -> None:
    """Its pid is that of the kernel and its own word."""
    with listen() as listener:
        child = start_child(listener, hello_of(listener.token))
        with trio.fail_after(20):
            control, pid = await listener.accept()
        assert pid == child.pid
        control.close()
        await ended(child)


@pytest.mark.parametrize(
    ("make_hello", "how"),
    [
        (lambda token: hello_of(secrets.token_bytes(32)), "wait"),
        (lambda token: hello_of(token, pid=os.getpid()), "wait"),
        (lambda token: hello_of(token)[:60], "close"),
    ],
    ids=["another token", "another pid", "half a word"],
)
async def test_others_are_dropped(make_hello: Callable[[bytes], str], how: str) -> None:
    """Whoever says something else is dropped, and the next one is let in."""
    accepted = []

    async def accept(listener: Listener) -> None:
        accepted.append(await listener.accept())

    with listen() as listener:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(accept, listener)
                await ended(start_child(listener, make_hello(listener.token), how))
                right = start_child(listener, hello_of(listener.token))
        ((control, pid),) = accepted
        assert pid == right.pid
        control.close()
        await ended(right)


async def test_one_who_is_silent_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while; a worker says hello at once."""
    monkeypatch.setattr(_wires, "_HELLO_SECONDS", 0.05)
    with listen() as listener:
        silent = start_child(listener, "")
        with trio.move_on_after(20) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listener.accept)
                await ended(silent)
                nursery.cancel_scope.cancel()
        assert not scope.cancelled_caught


async def test_no_child_of_ours_is_dropped_unheard() -> None:
    """A process that we have not started cannot get in, whatever it knows; here it is ourselves."""
    with listen() as listener, trio.socket.socket(trio.socket.AF_UNIX) as stranger:
        await stranger.connect(listener.address)
        await stranger.send(HELLO.pack(listener.token, os.getpid(), VERSION, b""))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.accept)
            with trio.fail_after(5), pytest.raises(ConnectionResetError):
                await stranger.recv(1)
            nursery.cancel_scope.cancel()


async def test_another_protocol_is_a_start_error() -> None:
    """It names both versions."""
    with listen() as listener:
        child = start_child(listener, hello_of(listener.token, protocol=99))
        with trio.fail_after(20), pytest.raises(WorkerStartError, match=r"protocol 99 .*1\.2\.3"):
            await listener.accept()
        await ended(child)


def test_a_watcher_ends_a_process_whose_parent_is_gone() -> None:
    """Where the kernel does not: a thread sees the pipe close, also beside a busy loop."""
    code = textwrap.dedent(
        """
        import sys, threading
        from trioipc.worker._orphan import _die_by_watching
        threading.Thread(target=_die_by_watching, args=(int(sys.argv[1]),), daemon=True).start()
        print("busy", flush=True)
        while True:
            pass
        """
    )
    ours, theirs = os.pipe()
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(ours)], pass_fds=[ours], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"busy\n"
        os.close(ours)
        os.close(theirs)
        assert child.wait(timeout=10) == 1
