"""Ctrl-C ends the program with 130 wherever it lands: in an import, in a callback that swallows it,
at exit.

A KeyboardInterrupt alone is not enough: NumPy turns one in its import into an ImportError, a
`__del__` or a weakref's callback drops it, libraries wrap it. So the signal is remembered as well.
Importing this module starts listening; SIGINT that was inherited as ignored (nohup, a background
job) stays ignored.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, TracebackType

from abruzzi.cli.exit_codes import INTERRUPTED

_seen = False


def seen() -> bool:
    """Whether SIGINT came since the program began."""
    return _seen


def _note(number: int, frame: FrameType | None) -> None:
    global _seen
    _seen = True
    raise KeyboardInterrupt


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """In front of `main`, while modules load, nobody catches it."""
    if _seen:
        os._exit(INTERRUPTED)
    sys.__excepthook__(kind, error, trace)


def leave_at_once() -> None:
    """From here on, everything is written and SIGINT only ends what Python still does to end."""
    if signal.getsignal(signal.SIGINT) is _note:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))


def _listen() -> None:
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _note)
            sys.excepthook = _uncaught
    except ValueError:
        pass  # not the main thread: somebody uses the command line as a library


_listen()
