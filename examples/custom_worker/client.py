"""Index some documents in a worker of one's own, and search them.

python client.py WORD ...
"""

from __future__ import annotations

import sys
from typing import cast

import attrs
import trio
from messages import Add, Found, Search

import trioipc

DOCUMENTS = {
    "fox": "The quick brown fox jumps over the lazy dog.",
    "dogs": "A lazy dog and another dog, lazy as well.",
    "sun": "The sun shone, having no alternative, on the nothing new.",
}


@attrs.frozen
class Index:
    """The worker, as something with methods: who calls them need not know of messages."""

    _worker: trioipc.Worker
    _protocol: trioipc.IPCProtocol = attrs.field(
        factory=lambda: trioipc.IPCProtocol(default_timeout=5)
    )

    async def add(self, name: str, text: str) -> int:
        """Index a document; return how many there are now."""
        return cast("int", await self._ask("add", Add(name, text)))

    async def search(self, *words: str) -> Found:
        """Find the documents that have all of these words."""
        return cast("Found", await self._ask("search", Search(words)))

    async def _ask(self, type: str, payload: object) -> object:
        return await self._protocol.request(self._worker, type, "custom", payload)


async def main(words: list[str]) -> None:
    """Have one worker for as long as the block lasts."""
    async with trioipc.open_worker("index_worker") as worker:
        index = Index(worker)
        for name, text in DOCUMENTS.items():
            print("documents:", await index.add(name, text))
        found = await index.search(*words)
        for hit in found.hits:
            print(f"{hit.name}: {hit.times}")
        print(f"{len(found.hits)} of {found.documents}")
        try:
            await index._ask("forget", None)
        except trioipc.OperationNotFoundError as error:
            print(error)


if __name__ == "__main__":
    trio.run(main, sys.argv[1:])
