"""Standard streams that somebody closed (`<&-`, `>&-`): named, instead of an AttributeError of
None."""

from __future__ import annotations

import os
import sys


class ClosedError(OSError):
    """A standard stream is closed, and the command needs it."""


def occupy() -> None:
    """Put the null device where a standard stream is closed: the next file that is opened would
    take its number, and whatever is printed would go into it. Raises ClosedError where that is
    stdout."""
    for number, stream in enumerate((sys.stdin, sys.stdout, sys.stderr)):
        if stream is None:
            _null_at(number)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for as long as the program runs
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        raise ClosedError("stdout is closed, so no answer could be read; hint: > /dev/null if none is wanted")


def read_stdin() -> str:
    """All of stdin. Raises ClosedError, or ValueError for text that is not UTF-8."""
    if sys.stdin is None:
        raise ClosedError("stdin is closed, so no prompt can be read; hint: give the prompt itself, or pipe it in")
    try:
        text = sys.stdin.read()
        text.encode()  # in the C locale, bytes that are no UTF-8 come as lone surrogates
    except UnicodeError as error:
        raise ValueError("stdin is not text in UTF-8; hint: iconv -f latin1 -t utf-8") from error
    return text


def give_up_stdout() -> None:
    """Write what is left, or drop it: Python would try again at exit, and end with 120."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        _null_at(1)


def _null_at(number: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
