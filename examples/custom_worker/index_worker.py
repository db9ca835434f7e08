"""A worker that keeps an index of documents in its memory, and answers messages about it.

Each function below is an operation: its payload is the message, its result the answer.
"""

from __future__ import annotations

import collections
import re

from messages import Add, Found, Hit, Search

from trioipc import current_request, operation

# {document: how often it has each word}; this process's own, from one message to the next
_documents: dict[str, collections.Counter[str]] = {}


@operation  # adding the same document twice changes nothing, but the index is gone after a crash
def add(message: Add) -> int:
    """Index a document; return how many there are now."""
    words = re.findall(r"\w+", message.text.lower())
    _documents[message.name] = collections.Counter(words)
    return len(_documents)


@operation
def search(message: Search) -> Found:
    """Look for words."""
    request = current_request()
    request.progress.set_total(len(_documents))
    hits = []
    for name, counts in _documents.items():
        request.checkpoint()
        times = [counts[word.lower()] for word in message.words]
        if times and all(times):
            hits.append(Hit(name, sum(times)))
        request.progress.increment()
    hits.sort(key=lambda hit: (-hit.times, hit.name))
    return Found(tuple(hits[: message.limit]), len(_documents))
