"""A cluster whose parts are on hosts of their own, as far as their networks go, and are lost.

Network namespaces stand for the hosts. They can be made by root only, so elsewhere this is skipped.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

import cluster_jobs
import jobs
from cluster import settings
from helpers import wait_until
from trioipc import WorkerCrashedError, open_worker_pool
from trioipc.dask import DaskEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

# Of those that are for tests of network devices (RFC 2544), and so of no host here.
_NETWORK = "198.18.77"
_BRIDGE = "tipc-bridge"
# A host that does not answer is missed after this, which is the least that Dask takes.
_MISSED = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s"}


def ip(*arguments: str) -> None:
    """Set something of the network."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@attrs.define
class Hosts:
    """Namespaces with a process in each."""

    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = attrs.field(factory=dict)

    def add(self, name: str, *command: str) -> None:
        """Make one, and start a program of Dask's there."""
        number = len(self.processes) + 2
        ip("netns", "add", f"tipc-{name}")
        ip("link", "add", f"tipc-{name}", "type", "veth", "peer", "eth0", "netns", f"tipc-{name}")
        ip("link", "set", f"tipc-{name}", "master", _BRIDGE, "up")
        for setting in (
            ("addr", "add", f"{_NETWORK}.{number}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
        ):
            ip("-n", f"tipc-{name}", *setting)
        self.processes[name] = subprocess.Popen(
            ["ip", "netns", "exec", f"tipc-{name}", sys.executable, "-m", *command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self.environment,
            start_new_session=True,
        )

    def cut_off(self, name: str) -> None:
        """Let nothing more through to one, or from it."""
        ip("link", "set", f"tipc-{name}", "down")

    def kill(self, name: str) -> None:
        """Kill all processes of one, also those that these were just starting."""
        while pids := self._pids(name):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.processes[name].wait()

    def _pids(self, name: str) -> list[int]:
        command = ["ip", "netns", "pids", f"tipc-{name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return [int(pid) for pid in done.stdout.split()]

    def close(self) -> None:
        """Leave nothing of it."""
        for name in self.processes:
            self.kill(name)
            ip("link", "del", f"tipc-{name}")  # which would take its time otherwise
            ip("netns", "del", f"tipc-{name}")
        ip("link", "del", _BRIDGE)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    """Provide a scheduler on one host, and workers on three others."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces are made by root, with the program ip")
    known = subprocess.run(["ip", "addr"], capture_output=True, text=True, check=True).stdout
    if f" {_NETWORK}." in known:
        pytest.skip(f"the network {_NETWORK}.0 is somebody's here")
    try:
        ip("link", "add", _BRIDGE, "type", "bridge")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network can be made here: {error.stderr.decode().strip()}")
    with settings() as environment:
        hosts = Hosts(environment | _MISSED)
        try:
            ip("addr", "add", f"{_NETWORK}.1/24", "dev", _BRIDGE)
            ip("link", "set", _BRIDGE, "up")
            program = "distributed.cli.dask_scheduler"
            hosts.add("scheduler", program, "--host", f"{_NETWORK}.2", "--no-dashboard")
            for name in ("first", "second", "third"):
                address = f"tcp://{_NETWORK}.2:8786"
                options = ("--nthreads", "1", "--no-dashboard")
                hosts.add(name, "distributed.cli.dask_worker", address, *options)
            yield hosts
        finally:
            hosts.close()


async def test_hosts_are_lost(hosts: Hosts, tmp_path: Path) -> None:
    """One is cut off and one killed: what may run twice runs on the third, the rest has crashed."""
    go = tmp_path / "go"
    got: list[int] = []
    lost: list[WorkerCrashedError] = []

    async def may_run_twice() -> None:
        got.append(await pool.run(cluster_jobs.wait_for, str(go), idempotent=True))

    async def may_not() -> None:
        try:
            await pool.run(cluster_jobs.wait_for, str(go))
        except WorkerCrashedError as error:
            lost.append(error)

    engine = DaskEngine(f"tcp://{_NETWORK}.2:8786")
    async with open_worker_pool(6, engine=engine) as pool, trio.open_nursery() as nursery:
        async with trio.open_nursery() as first:
            for _ in range(3):  # so that all three are there
                first.start_soon(pool.run, jobs.sleep, 1.0)
        nursery.start_soon(may_run_twice)
        nursery.start_soon(may_run_twice)
        nursery.start_soon(may_not)
        await wait_until(lambda: sum(_has_begun(pool)) == 3)
        hosts.cut_off("first")
        hosts.kill("second")
        with trio.fail_after(60):
            while pool.statistics().restarts.get("crashed", 0) < 2:
                await trio.sleep(0.01)
        go.touch()
    assert len(got) == 2
    assert len(set(got)) == 1
    assert len(lost) <= 1
    assert all("left the cluster" in str(error) for error in lost)
    assert pool.statistics().total_tasks_processed == 6


def _has_begun(pool: object) -> list[bool]:
    workers = pool._dispatcher.team.workers  # type: ignore[attr-defined]
    return [
        worker.endpoint.look(request._slot, request._generation).started
        for worker in workers
        for request in worker.held.values()
    ]
