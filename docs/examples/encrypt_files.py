"""Hash and encrypt files in worker processes, and show how far it is.

    python encrypt_files.py [--to FOLDER] FILE_OR_FOLDER ...

FOLDER gets each file encrypted, the key, and a list of hashes and nonces.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

import trio

import trioipc

LINE_SECONDS = 0.1


class Board:
    """What is done of how much, over all files."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done: dict[Path, int] = {}
        self.latest = 0.0  # by how many seconds the event loop was late at most

    def report(self, file: Path, progress: trioipc.Progress) -> None:
        """Take in how far one file is."""
        self.done[file] = progress.value

    async def show(self) -> None:
        """Draw a line that lives, and see whether the event loop does too."""
        while True:
            if sys.stderr.isatty():
                share = sum(self.done.values()) / max(self.total, 1)
                bar = "#" * round(30 * share)
                print(f"\r[{bar:<30}] {share:4.0%} ", end="", file=sys.stderr, flush=True)
            due = time.perf_counter() + LINE_SECONDS
            await trio.sleep(LINE_SECONDS)
            self.latest = max(self.latest, time.perf_counter() - due)


async def protect(
    bridge: trioipc.WorkerBridge, board: Board, file: Path, key: bytes, target: Path
) -> dict[str, object]:
    """Hash one file, encrypt it, and say what is needed to get it back."""
    digest = await bridge.crypto.hash_file(file)
    encrypted = await bridge.crypto.encrypt_file(
        file, key, destination=target, on_progress=lambda p: board.report(file, p)
    )
    print(f"{digest}  {file}")
    return {"file": str(file), "sha256": digest, "nonce": encrypted.nonce.hex()}


async def main(files: list[Path], folder: Path) -> None:
    """Work on all files at once, as many at a time as there are cores."""
    key = new_key(folder / "key")
    board = Board(sum(file.stat().st_size for file in files))
    found: dict[str, dict[str, object]] = {}

    async def one(number: int, file: Path) -> None:
        name = f"{number:04}-{file.name}.encrypted"
        found[name] = await protect(bridge, board, file, key, folder / name)

    start = time.perf_counter()
    async with trioipc.open_worker_bridge() as bridge, trio.open_nursery() as showing:
        showing.start_soon(board.show)
        async with trio.open_nursery() as nursery:
            for number, file in enumerate(files):
                nursery.start_soon(one, number, file)
        showing.cancel_scope.cancel()
    (folder / "list.json").write_text(json.dumps(dict(sorted(found.items())), indent=2) + "\n")
    print(
        f"{len(files)} files, {board.total / 2**20:.1f} MiB, hashed and encrypted to {folder} "
        f"in {time.perf_counter() - start:.2f} s; the event loop was never more than "
        f"{board.latest * 1000:.0f} ms late"
    )


def new_key(path: Path) -> bytes:
    """Make a key, and write it to a file that only its owner can read."""
    key = secrets.token_bytes(32)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(key)
    return key


def all_files(paths: list[Path]) -> list[Path]:
    """Return the files, and those in the folders."""
    found = []
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        found += [file for file in inside if file.is_file()]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Hash and encrypt files in worker processes.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE_OR_FOLDER")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="a new one if not given")
    options = parser.parse_args()
    to = options.to or Path(tempfile.mkdtemp(prefix="encrypted-"))
    to.mkdir(exist_ok=True)
    trio.run(main, all_files(options.paths), to)
