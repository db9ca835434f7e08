"""Keep files encrypted in a folder, under a password; a bar shows how far each one is.

    python encrypt_with_progress.py seal VAULT FILE ...
    python encrypt_with_progress.py open VAULT TO

VAULT is a folder with a salt, from which and from the password all keys come, and a .sealed file
for each FILE. TO is the folder where they are decrypted to. The password is asked for, or read from
the standard input if that is no terminal.

Needs rich: pip install rich
"""

from __future__ import annotations

import getpass
import secrets
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import rich.progress
import trio
from cryptography.exceptions import InvalidTag

import trioipc
from trioipc.progress import rich_task

Work = Callable[[trioipc.WorkerBridge, rich.progress.Progress, bytes, Path, Path], Awaitable[None]]

SALT = "salt"
SEALED = ".sealed"


async def seal(
    bridge: trioipc.WorkerBridge, bars: rich.progress.Progress, key: bytes, file: Path, vault: Path
) -> None:
    """Encrypt one file. The name is authenticated, so that no two can be swapped."""
    written = await bridge.crypto.encrypt_file(
        file,
        key,
        format="chunked",
        associated_data=file.name.encode(),
        destination=vault / (file.name + SEALED),
        on_progress=rich_task(bars, file.name),
    )
    bars.print(f"sealed {file.name}: {written.ciphertext.size} bytes")


async def unseal(
    bridge: trioipc.WorkerBridge, bars: rich.progress.Progress, key: bytes, file: Path, to: Path
) -> None:
    """Decrypt one file, which appears when all of it has been verified, and not before."""
    name = file.name.removesuffix(SEALED)
    try:
        written = await bridge.crypto.decrypt_file(
            file,
            key,
            None,
            format="chunked",
            associated_data=name.encode(),
            destination=to / name,
            on_progress=rich_task(bars, name),
        )
    except InvalidTag:
        bars.print(f"{name}: wrong password, or not what was sealed")
    else:
        bars.print(f"opened {name}: {written.size} bytes")


def salt_of(vault: Path) -> bytes:
    """Return the salt of a vault; make both if there is none."""
    vault.mkdir(exist_ok=True)
    if not (vault / SALT).exists():
        (vault / SALT).write_bytes(secrets.token_bytes(16))
    return (vault / SALT).read_bytes()


async def main(work: Work, files: list[Path], to: Path, password: str, salt: bytes) -> None:
    """Work on all files at once; the bridge lets as many begin as there are cores."""
    async with trioipc.open_worker_bridge() as bridge:
        key = await bridge.crypto.derive_key(password, salt)
        with rich.progress.Progress() as bars:
            async with trio.open_nursery() as nursery:
                for file in files:
                    nursery.start_soon(work, bridge, bars, key, file, to)


if __name__ == "__main__":
    if len(sys.argv) < 4 or sys.argv[1] not in ("seal", "open"):
        sys.exit(__doc__)
    vault, *others = (Path(argument) for argument in sys.argv[2:])
    vault_salt = salt_of(vault)
    ask = getpass.getpass if sys.stdin.isatty() else input
    secret = ask("Password: ")
    if sys.argv[1] == "seal":
        trio.run(main, seal, others, vault, secret, vault_salt)
    else:
        others[0].mkdir(exist_ok=True)
        trio.run(main, unseal, sorted(vault.glob("*" + SEALED)), others[0], secret, vault_salt)
