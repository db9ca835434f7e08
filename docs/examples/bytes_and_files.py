"""Have a bridge seal, cut and recognise what is in memory, and write what is to stay."""

import os
import tempfile
from pathlib import Path

import trio

import trioipc
from trioipc import chunks, timeouts

SOURCE = b"%PDF-1.7\n" + bytes(range(256)) * 16384  # 4 MiB and nine bytes


async def seal(bridge: trioipc.WorkerBridge, folder: Path) -> None:
    """Encrypt bytes, then into a file, with a key that a password gives."""
    key = await bridge.crypto.derive_key("correct horse", os.urandom(16))
    sealed: trioipc.Encrypted[memoryview] = await bridge.crypto.encrypt_file(SOURCE, key)
    opened = await bridge.crypto.decrypt_file(sealed.ciphertext, key, sealed.nonce)
    print("opened:", opened == SOURCE)
    filed = await bridge.crypto.encrypt_file(SOURCE, key, destination=folder / "sealed")
    written: trioipc.WrittenFile = filed.ciphertext
    print(f"{written.path.name}: {written.size - len(SOURCE)} bytes more, for the tag")


async def cut(bridge: trioipc.WorkerBridge) -> None:
    """Cut it into chunks and put them together; one that is in the wrong place is named."""
    cut = await bridge.file.chunk_file(SOURCE, chunks.FINE)
    merged = await bridge.file.merge_chunks(cut.chunks, cut.metadata)
    print(f"{cut.metadata.chunk_count} chunks, together: {merged == SOURCE}")
    try:
        await bridge.file.merge_chunks([*cut.chunks[1::-1], *cut.chunks[2:]], cut.metadata)
    except trioipc.ChunkError as error:
        print("not where it belongs: chunk", error.index)


async def look(bridge: trioipc.WorkerBridge) -> None:
    """Say what it is, and what its hash is."""
    kind: trioipc.FileType = await bridge.file.detect_type(SOURCE)
    print(f"{kind.mime_type}, confidence {kind.confidence}")
    hashed: trioipc.FileHash = await bridge.file.hash_file(
        SOURCE, "SHA-512", timeout=timeouts.NORMAL
    )
    print(hashed.algorithm, hashed.hash[:16])


async def main(folder: str) -> None:
    """Do all of it on one worker."""
    async with trioipc.open_worker_bridge(1) as bridge:
        print("works in a", bridge.placed.kind)
        await seal(bridge, Path(folder))
        await cut(bridge)
        await look(bridge)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        trio.run(main, folder)
