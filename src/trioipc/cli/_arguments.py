"""What can be asked for: the commands and their options."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, TypeAlias

import trioipc
from trioipc.cli._plan import STANDARD

if TYPE_CHECKING:
    # A private name, and the only one that it has.
    _Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

# What takes the standard input.
_STREAMING = ("hash", "compress", "decompress")

_EPILOG = """\
Files are worked on as many at a time as there are cores. One that fails does not stop the others.
Exit codes: 0 all well, 1 something failed, 2 not understood, 130 Ctrl-C.
"""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Return what the arguments say; ``command`` is which of the commands.

    Raises:
      SystemExit: with code 2 if they say nothing that is understood, after it has been told; with
        code 0 after help was given.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    files, output = getattr(options, "files", []), getattr(options, "output", None)
    if output is not None and len(files) != 1:
        parser.error("--output is for one file only")
    if STANDARD in (*files, output) and options.command not in _STREAMING:
        parser.error(f"{options.command} takes files, and no {STANDARD}")
    if files.count(STANDARD) > 1:
        parser.error(f"there is only one standard input, so only one {STANDARD}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trioipc",
        description="Hash, encrypt, compress and look at files with all cores.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"trioipc {trioipc.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_hash, _encrypt, _decrypt, _compress, _decompress, _detect, _probe, _doctor):
        add(commands)
    return parser


def _command(commands: _Commands, name: str, help: str) -> argparse.ArgumentParser:
    description = help[0].upper() + help[1:] + "."
    return commands.add_parser(name, help=help, description=description)


def _hash(commands: _Commands) -> None:
    command = _command(commands, "hash", "print check sums, which sha256sum --check reads")
    choices = ("sha256", "sha512")
    command.add_argument("-a", "--algorithm", choices=choices, default="sha256")
    _files(command, "a file, or - for the standard input")


def _encrypt(commands: _Commands) -> None:
    command = _command(commands, "encrypt", "encrypt each FILE to FILE.trioipc with a password")
    _password(command)
    _output(command)
    _files(command, "a file, which stays as it is")


def _decrypt(commands: _Commands) -> None:
    command = _command(
        commands, "decrypt", "decrypt each FILE.trioipc to FILE, once it is verified"
    )
    _password(command)
    _output(command)
    _files(command, "a file that trioipc has encrypted")


def _compress(commands: _Commands) -> None:
    command = _command(commands, "compress", "compress each FILE to FILE.gz, or what suits")
    _algorithm(command, "gzip if not given")
    command.add_argument(
        "-l",
        "--level",
        type=int,
        metavar="N",
        help="how hard to try: 0 to 9 for gzip and deflate, 0 to 11 for brotli, 1 to 19 for zstd",
    )
    _output(command, "FILE, or - for the standard output")
    _files(command, "a file, which stays as it is; or - for the standard input")


def _decompress(commands: _Commands) -> None:
    command = _command(commands, "decompress", "decompress each FILE.gz to FILE, and the like")
    _algorithm(command, "by the end of the name if not given; gzip for the standard input")
    command.add_argument(
        "--max-size",
        type=_count,
        default=math.inf,
        metavar="BYTES",
        help="refuse what becomes larger, for a few bytes may hold terabytes",
    )
    _output(command, "FILE, or - for the standard output")
    _files(command, "a file, which stays as it is; or - for the standard input")


def _detect(commands: _Commands) -> None:
    command = _command(commands, "detect", "say what kind of file each FILE is, by its content")
    _files(command, "a file")


def _probe(commands: _Commands) -> None:
    command = _command(commands, "probe", "see whether each URL answers, and how soon")
    command.add_argument(
        "--timeout", type=_seconds, default=5.0, metavar="S", help="seconds for all of them (5)"
    )
    command.add_argument("urls", nargs="+", metavar="URL", help="http or https")


def _doctor(commands: _Commands) -> None:
    _command(commands, "doctor", "show what trioipc finds on this machine, and try it")


# ---- options that several have


def _files(command: argparse.ArgumentParser, help: str) -> None:
    command.add_argument(
        "--workers", type=_count, metavar="N", help="how many files at a time; one for each core"
    )
    command.add_argument("files", nargs="+", metavar="FILE", help=help)


def _output(command: argparse.ArgumentParser, metavar: str = "FILE") -> None:
    command.add_argument("-o", "--output", metavar="FILE", help=f"where one is written: {metavar}")
    command.add_argument(
        "-f", "--force", action="store_true", help="replace files that are there already"
    )


def _password(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--password-fd",
        type=int,
        metavar="N",
        help="read the password's line from this descriptor; else it is asked for",
    )


def _algorithm(command: argparse.ArgumentParser, help: str) -> None:
    choices = ("gzip", "deflate", "brotli", "zstd")
    command.add_argument("-a", "--algorithm", choices=choices, help=help)


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be more than 0, and finite, not {value}")
    return value
