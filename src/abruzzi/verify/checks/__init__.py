"""The checks of `abruzzi verify`, one file a subject: each a function under `@check`, in the order
in which they run.

A new check is a decorated function in one of these files. A new file is also a name in SUBJECTS.
"""

from __future__ import annotations

from types import ModuleType

from abruzzi.verify.checks import answers, crowd, errors, k2vv, logprobs, schemas, streams, tools
from abruzzi.verify.probe import Check

SUBJECTS = (answers, logprobs, streams, tools, schemas, k2vv, crowd, errors)


def in_order(*subjects: ModuleType) -> tuple[Check, ...]:
    """The checks of these modules as they stand in them, those marked `last` behind all others."""
    found = [value for subject in subjects for value in vars(subject).values() if isinstance(value, Check)]
    return (*(check for check in found if not check.last), *(check for check in found if check.last))


CHECKS = in_order(*SUBJECTS)
