"""A Dask cluster in processes of its own, for tests: run as a script, or started by `cluster`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HERE = Path(__file__).parent


@contextmanager
def cluster(workers: int = 2, threads: int = 1, *tls: str) -> Iterator[str]:
    """Have a scheduler, and workers with nannies, on loopback; yield the scheduler's address.

    Args:
      workers: How many.
      threads: Of each.
      *tls: Files: the certificate of an authority, one for all parts, and its key.
    """
    path = os.pathsep.join(filter(None, [str(_HERE), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, __file__, str(workers), str(threads), *tls],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
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


@contextmanager
def scheduler_apart() -> Iterator[tuple[str, Callable[[], None]]]:
    """Have a scheduler that can be killed, and a worker with four threads in another process.

    Yields:
      The scheduler's address, and what kills it.
    """
    address = f"tcp://127.0.0.1:{free_port()}"
    path = os.pathsep.join(filter(None, [str(_HERE), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    parts = [
        ["scheduler", "--host", address, "--no-dashboard"],
        ["worker", address, "--nthreads", "4", "--no-dashboard", "--no-nanny"],
    ]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", f"distributed.cli.dask_{name}", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        for name, *arguments in parts
    ]
    try:
        yield address, processes[0].kill
    finally:
        for process in processes:
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
