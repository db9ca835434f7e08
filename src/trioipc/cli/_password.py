"""Passwords: asked for on the terminal, or read from a descriptor; never an argument.

Arguments are seen by everybody who lists processes, and kept by the shell.
"""

from __future__ import annotations

import getpass
import os
import unicodedata
import warnings

from trioipc.builtin._kdf import MAX_INPUT_SIZE
from trioipc.cli._errors import UsageError


def password_from(descriptor: int | None, *, twice: bool) -> str:
    """Return a password, in the form in which keys are derived from it.

    Args:
      descriptor: Where its line is read from; None to ask for it on the terminal.
      twice: Whether to ask again, since a slip would lock its owner out.

    Raises:
      UsageError: if there is none, or the two are not the same.
    """
    password = _ask(twice) if descriptor is None else _first_line(descriptor)
    if not password:
        raise UsageError("the password is empty")
    # The same letters are typed as other code points on other systems (RFC 8265, section 4.2).
    return unicodedata.normalize("NFC", password)


def _ask(twice: bool) -> str:
    with warnings.catch_warnings():
        # Rather than read it from stdin, or show it.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            password = getpass.getpass("Password: ")
            if twice and getpass.getpass("Once more: ") != password:
                raise UsageError("the two passwords are not the same")
        except (getpass.GetPassWarning, EOFError):
            raise UsageError(
                "there is no terminal to ask for the password: use --password-fd"
            ) from None
    return password


def _first_line(descriptor: int) -> str:
    read = b""
    try:
        while b"\n" not in read and len(read) <= MAX_INPUT_SIZE:
            more = os.read(descriptor, 4096)
            if not more:
                break
            read += more
    except OSError as error:
        reason = error.strerror
        raise UsageError(
            f"no password could be read from descriptor {descriptor}: {reason}"
        ) from None
    line = read.partition(b"\n")[0].removesuffix(b"\r")
    if len(line) > MAX_INPUT_SIZE:
        raise UsageError(f"a password has at most {MAX_INPUT_SIZE} bytes")
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise UsageError("a password must be UTF-8") from None
