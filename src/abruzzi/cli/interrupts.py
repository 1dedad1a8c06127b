"""Ctrl-C ends the program with 130 wherever it lands: in an import, in a callback that swallows it,
at exit.

A KeyboardInterrupt alone is not enough: NumPy turns one in its import into an ImportError, a
`__del__` or a weakref's callback drops it, libraries wrap it. So the signal is remembered as well,
and one that was dropped is raised again.
Importing this module starts listening; SIGINT that was inherited as ignored (nohup, a background
job) stays ignored.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, TracebackType

from abruzzi.cli.exit_codes import INTERRUPTED

# How long after a callback dropped an interrupt it is raised again: the callback is over by then.
AGAIN_S = 0.01

_seen = False
_report_dropped = sys.unraisablehook


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


def _dropped(unraisable: sys.UnraisableHookArgs) -> None:
    """A `__del__` or a callback, from which nothing can be raised, was where the interrupt fell."""
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        _report_dropped(unraisable)
    elif hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _note)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)


def leave_at_once() -> None:
    """From here on, everything is written and SIGINT only ends what Python still does to end."""
    for number in (signal.SIGINT, getattr(signal, "SIGALRM", signal.SIGINT)):
        if signal.getsignal(number) is _note:
            signal.signal(number, lambda *_: os._exit(INTERRUPTED))


def _listen() -> None:
    try:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _note)
            sys.excepthook = _uncaught
            sys.unraisablehook = _dropped
    except ValueError:
        pass  # not the main thread: somebody uses the command line as a library


_listen()
