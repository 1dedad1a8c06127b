"""The table of checks is the decorated functions themselves: each named once, in order, none
forgotten."""

from __future__ import annotations

import pkgutil
from types import ModuleType

from abruzzi.verify import checks
from abruzzi.verify.checks import CHECKS, SUBJECTS, in_order
from abruzzi.verify.probe import Check, Probe, check


def module(name: str, **values: object) -> ModuleType:
    made = ModuleType(name)
    vars(made).update(values)
    return made


@check("late", "Comes last", last=True)
def goodbye(p: Probe) -> None: ...


@check("early", "Comes first", required=True, judges="model", suites=("full",))
def hello(p: Probe) -> None: ...


def test_a_decorated_function_is_a_check_of_its_name() -> None:
    assert isinstance(hello, Check) and callable(hello.run)
    assert (hello.name, hello.group, hello.title) == ("hello", "early", "Comes first")
    assert (hello.required, hello.judges, hello.suites, hello.last) == (True, "model", ("full",), False)
    assert (goodbye.required, goodbye.judges, goodbye.suites, goodbye.last) == (
        False,
        "server",
        ("quick", "full"),
        True,
    )


def test_checks_run_as_they_stand_and_the_last_ones_behind_all_others() -> None:
    first, second = module("first", goodbye=goodbye, SHORT="x", hello=hello), module("second", again=hello)
    assert in_order(first, second) == (hello, hello, goodbye)
    last = [c.last for c in CHECKS]
    assert last == sorted(last) and last.count(True) >= 10 and CHECKS[-1].name == "alive"
    assert CHECKS[0].name == "models"


def test_no_file_of_checks_is_forgotten_and_no_check_is_twice() -> None:
    there = {name for _, name, _ in pkgutil.iter_modules(checks.__path__)}
    assert there == {subject.__name__.rpartition(".")[2] for subject in SUBJECTS}
    names = [c.name for c in CHECKS]
    assert len(set(names)) == len(names)
    assert all(in_order(subject) for subject in SUBJECTS)
