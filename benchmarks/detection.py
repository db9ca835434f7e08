"""Measure how often the file types that are found by content are right.

    python -m benchmarks.detection FOLDER... [--wrong]

The folders hold files that others have collected; what their names end with is taken for the truth.
Only types that have a signature count: a name that ends with txt promises nothing. Good ones are
the fixtures of other libraries, as their source distributions hold them (``pip download --no-deps
--no-binary :all: filetype puremagic rarfile tinytag python-pptx``, and unpack them).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from trioipc.builtin._detect import HEAD, detect, extension_of
from trioipc.builtin._kinds import KINDS, TYPE_OF_EXTENSION

if TYPE_CHECKING:
    from collections.abc import Iterator

# Types whose files begin with what their author liked.
_NO_SIGNATURE = {*list(KINDS)[list(KINDS).index("txt") :], "sh"}


def samples(folders: list[Path]) -> Iterator[tuple[Path, str]]:
    """Yield files, each content once, and the type that their names say."""
    seen = set()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            kind = TYPE_OF_EXTENSION.get(extension_of(path.name))
            if kind is None or kind in _NO_SIGNATURE or not path.is_file():
                continue
            with path.open("rb") as file:
                head = file.read(HEAD)
            if head and head not in seen:
                seen.add(head)
                yield path, kind


def measure(folders: list[Path], show: bool) -> Counter[str]:
    """Count what is right, wrong and not said."""
    counts: Counter[str] = Counter()
    for path, kind in samples(folders):
        with path.open("rb") as file:
            found, _, confidence = detect(file.read(HEAD), None)
        said = "none" if confidence == "low" else "right" if found == kind else "wrong"
        counts[said] += 1
        if show and said != "right":
            print(f"    {said}: {found} for {path}")
    return counts


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="Measure how good the detection of types is.")
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--wrong", action="store_true", help="show what is not right")
    arguments = parser.parse_args()
    for name in ("alone", "with pure-magic-rs"):
        if name == "alone":
            sys.modules["pure_magic_rs"] = None  # type: ignore[assignment] # as if there were none
        else:
            del sys.modules["pure_magic_rs"]
        counts = measure(arguments.folders, arguments.wrong)
        high = counts["right"] + counts["wrong"]
        precision = counts["right"] / high if high else 0.0
        print(
            f"{name}: {counts.total()} files, {counts['right']} right, {counts['wrong']} wrong, "
            f"{counts['none']} not said; {precision:.1%} of what is said is right"
        )


if __name__ == "__main__":
    main()
