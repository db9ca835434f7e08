"""A Dask cluster in processes of its own, for tests: run as a script, or started by `cluster`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from attrs import define, field

if TYPE_CHECKING:
    from collections.abc import Iterator

_HERE = Path(__file__).parent


# Dask's own clusters let a worker go for good that is away 15 s after one of its name was lost, be
# it because it was killed again and is just being restarted. Here they are killed often.
_SETTINGS = {"DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1h"}


@contextmanager
def settings() -> Iterator[dict[str, str]]:
    """Yield the environment of what is to find the modules of the tests, and to leave nothing."""
    path = os.pathsep.join(filter(None, [str(_HERE), os.environ.get("PYTHONPATH")]))
    with TemporaryDirectory(prefix="tipc-dask-", ignore_cleanup_errors=True) as folder:
        mine = {"PYTHONPATH": path, "DASK_TEMPORARY_DIRECTORY": folder}
        yield {**os.environ, **_SETTINGS, **mine}


@contextmanager
def cluster(workers: int = 2, threads: int = 1, *tls: str) -> Iterator[str]:
    """Have a scheduler, and workers with nannies, on loopback; yield the scheduler's address.

    Args:
      workers: How many.
      threads: Of each.
      *tls: Files: the certificate of an authority, one for all parts, and its key.
    """
    with settings() as environment:
        process = subprocess.Popen(
            [sys.executable, __file__, str(workers), str(threads), *tls],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()
            process.wait(30)
            process.stdout.close()


@define
class Apart:
    """A scheduler and workers, in processes that can be killed one by one."""

    _environment: dict[str, str]
    address: str = field(factory=lambda: f"tcp://127.0.0.1:{free_port()}")
    processes: list[subprocess.Popen[bytes]] = field(factory=list)

    def start(self, part: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a program of Dask's."""
        process = subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{part}", *arguments, "--no-dashboard"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment,
        )
        self.processes.append(process)
        return process

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        """Start the scheduler; return when it listens."""
        process = self.start("scheduler", "--host", self.address)
        _, host, port = self.address.replace("//", "").split(":")
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(ConnectionRefusedError), socket.create_connection((host, int(port))):
                return process
            time.sleep(0.02)
        raise TimeoutError(f"no scheduler listens at {self.address}")

    def start_worker(
        self, threads: int = 1, name: str = "one", *, nanny: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start a worker, in the process itself or as the child of a nanny there."""
        kind = "--nanny" if nanny else "--no-nanny"
        return self.start("worker", self.address, "--nthreads", str(threads), "--name", name, kind)


@contextmanager
def apart() -> Iterator[Apart]:
    """Have a cluster of processes of one's own; it has none yet."""
    with settings() as environment:
        parts = Apart(environment)
        try:
            yield parts
        finally:
            for process in parts.processes:
                process.kill()
                process.wait()


def free_port() -> int:
    """Return the number of a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main(workers: int, threads: int, *tls: str) -> None:
    """Be a cluster until nobody holds the other end of the standard input."""
    from distributed import LocalCluster, Security

    security: Any = None
    if tls:
        authority, certificate, key = tls
        parts = ("client", "scheduler", "worker")
        files = {f"tls_{part}_cert": certificate for part in parts}
        files |= {f"tls_{part}_key": key for part in parts}
        security = Security(tls_ca_file=authority, require_encryption=True, **files)
    with LocalCluster(
        n_workers=workers,
        threads_per_worker=threads,
        dashboard_address=":0",
        silence_logs=50,
        security=security,
    ) as local:
        print(local.scheduler_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
