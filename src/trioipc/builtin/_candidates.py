"""ICE candidates from what was found out: priorities, foundations, and which are one too many.

Source: RFC 8445, 5.1.1.3 (foundations), 5.1.2.1 (priorities) and 5.1.3 (redundant ones).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import attrs

from trioipc.builtin._probe import IceCandidate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Place = tuple[str, int]

COMPONENT = 1
_TYPE_PREFERENCES = {"host": 126, "srflx": 100}


@final
@attrs.frozen
class Reflection:
    """How a server sees one of the bases."""

    base: Place
    server: Place
    mapped: Place


def priority_of(type: Literal["host", "srflx"], rank: int) -> int:
    """Return the priority of the candidate that is number ``rank`` of its type, from 0."""
    return (_TYPE_PREFERENCES[type] << 24) + ((0xFFFF - rank) << 8) + (256 - COMPONENT)


def candidates_of(
    bases: Sequence[Place], reflections: Iterable[Reflection]
) -> tuple[IceCandidate, ...]:
    """Return the candidates, best first.

    Args:
      bases: Addresses and ports of this machine, best first.
      reflections: What the servers answered, best first.
    """
    foundations: dict[tuple[str, ...], str] = {}

    def foundation(*alike: str) -> str:
        return foundations.setdefault(alike, str(len(foundations) + 1))

    found = [
        IceCandidate(
            foundation("host", host),
            COMPONENT,
            "udp",
            priority_of("host", rank),
            host,
            port,
            "host",
            None,
            None,
        )
        for rank, (host, port) in enumerate(bases)
    ]
    # An address that is that of its own base, as without a NAT, is one candidate and not two.
    seen = {(base, base) for base in bases}
    rank = 0
    for reflection in reflections:
        if (reflection.mapped, reflection.base) in seen:
            continue
        seen.add((reflection.mapped, reflection.base))
        found.append(
            IceCandidate(
                foundation("srflx", reflection.base[0], reflection.server[0]),
                COMPONENT,
                "udp",
                priority_of("srflx", rank),
                *reflection.mapped,
                "srflx",
                *reflection.base,
            )
        )
        rank += 1
    return tuple(found)
