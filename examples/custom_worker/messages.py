"""What a client and its worker say to each other. Both import this, and nothing else of the other.

Frozen classes that pickle: a message is a value, checked when it is made.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Add:
    """Put a document into the index."""

    name: str
    text: str


@attrs.frozen
class Search:
    """Ask which documents have all of these words."""

    words: tuple[str, ...]
    limit: int = attrs.field(default=10, validator=attrs.validators.ge(1))


@attrs.frozen
class Hit:
    """One document that has them."""

    name: str
    times: int
    """How often it has them, all together."""


@attrs.frozen
class Found:
    """The answer to a `Search`, the best first."""

    hits: tuple[Hit, ...]
    documents: int
    """How many there were to choose from."""
