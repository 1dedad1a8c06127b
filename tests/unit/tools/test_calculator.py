"""The calculator against Python's own Fractions on drawn expressions, and against every way to be
nasty."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abruzzi.tools import ToolError, ToolOk
from abruzzi.tools.calculator import Calculator, CalculatorError, evaluate, show

SIGNS = ["+", "-", "*", "//", "%", "**"]
FOLLOWS_PYTHON = ["2**3**2", "-2**2", "7//-2", "-7%3", "2**-1", "--3", "-+-4", "(1)(2)", "2-3-4", "100/5/2"]


def numbers() -> st.SearchStrategy[tuple[str, Fraction]]:
    whole = st.integers(0, 999).map(lambda n: (str(n), Fraction(n)))
    decimal = st.tuples(st.integers(0, 99), st.integers(0, 99)).map(
        lambda p: (f"{p[0]}.{p[1]:02d}", Fraction(p[0] * 100 + p[1], 100))
    )
    return whole | decimal


def combine(inner: st.SearchStrategy) -> st.SearchStrategy:
    """(text, value) of an operation with every operand in parentheses, so that precedence plays no
    part."""

    def binary(parts: tuple[str, tuple, tuple]) -> tuple[str, Fraction | None]:
        sign, (left, a), (right, b) = parts
        text = f"({left}) {sign} ({right})"
        if a is None or b is None or (sign in ("/", "//", "%") and b == 0):
            return text, None
        value = {
            "+": lambda: a + b,
            "-": lambda: a - b,
            "*": lambda: a * b,
            "/": lambda: a / b,
            "//": lambda: Fraction(a // b),
            "%": lambda: a % b,
        }[sign]()
        return text, value

    def unary(parts: tuple[str, tuple]) -> tuple[str, Fraction | None]:
        name, (text, a) = parts
        if name == "-":
            return f"-({text})", None if a is None else -a
        function = {"abs": abs, "floor": math.floor, "ceil": math.ceil, "round": round}[name]
        return f"{name}({text})", None if a is None else Fraction(function(a))

    return st.tuples(st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner, inner).map(binary) | st.tuples(
        st.sampled_from(["-", "abs", "floor", "ceil", "round"]), inner
    ).map(unary)


@settings(max_examples=400, deadline=None)
@given(st.recursive(numbers(), combine, max_leaves=8))
def test_drawn_expressions_give_exactly_what_fractions_give(drawn: tuple[str, Fraction | None]) -> None:
    text, value = drawn
    if value is None:
        with pytest.raises(CalculatorError, match="division by zero"):
            evaluate(text)
    else:
        assert evaluate(text) == value


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 99), st.sampled_from(["+", "-", "*", "//", "%", "**"])), min_size=1, max_size=6)
)
def test_precedence_and_associativity_are_pythons(parts: list[tuple[int, str]]) -> None:
    text = "".join(f"{n}{'' if i == len(parts) - 1 else sign}" for i, (n, sign) in enumerate(parts))
    text = text.replace("**", "**2**1+0*") if text.count("**") > 1 else text  # keep powers small
    want = eval(text)  # digits and operators that this test wrote itself
    if isinstance(want, int) and want.bit_length() < 900:
        assert evaluate(text) == want


@pytest.mark.parametrize(
    "text", ["2**3**2", "-2**2", "7//-2", "-7%3", "2**-1", "--3", "-+-4", "(1)(2)", "2-3-4", "100/5/2"]
)
def test_signs_and_powers_follow_python(text: str) -> None:
    if text == "(1)(2)":
        with pytest.raises(CalculatorError, match="unexpected"):
            evaluate(text)
    else:
        assert evaluate(text) == Fraction(eval(text))  # a fixed list


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0.1 + 0.2", "0.3"),
        ("1/3", "0.3333333333"),
        ("2/3", "0.6666666667"),
        ("-1/3", "-0.3333333333"),
        ("10/4", "2.5"),
        ("1/100000000000", "0"),
        ("5 × 3 − 2 ÷ 4", "14.5"),
        ("sqrt(2)", "1.4142135624"),
        ("sqrt(49/4)", "3.5"),
        ("8 ** (1/3)", "2"),
        ("round(2.567, 1)", "2.6"),
        ("max(3, min(9, 4), 1)", "4"),
        ("123456789 * 987654321", "121932631112635269"),
    ],
)
def test_what_the_model_reads_is_short(text: str, shown: str) -> None:
    assert Calculator().run({"expression": text}) == ToolOk(shown, f"= {shown}")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("12 + 30 marbles", "'marbles'"),
        ("1,000 + 2", "without thousands commas"),
        ("2 ^ 3", "powers as **"),
        ("(1 + 2", "closing parenthesis"),
        ("1 +", "ends where a number is expected"),
        ("9**9**9", "too large"),
        ("2**100000", "too large"),
        ("10**-100000", "too large"),
        ("0**-1", "negative power"),
        ("(-8)**0.5", "no fractional power"),
        ("sqrt(-1)", "no square root"),
        ("5 % 0", "division by zero"),
        ("min()", "number is expected"),
        ("sqrt(1, 2)", "takes 1 numbers"),
        ("round(1, 1000)", "at most 50"),
        ("__import__('os')", "cannot read"),
        ("open(1)", "unknown word 'open'"),
        ("1" * 400, "too large"),
        ("1+" * 600 + "1", "more than 1000"),
        ("(" * 60 + "1" + ")" * 60, "nested deeper"),
        ("-" * 200 + "1", "nested deeper"),
        ("*".join(["99999999"] * 100), "too large"),
    ],
)
def test_errors_say_what_to_change(text: str, says: str) -> None:
    result = Calculator().run({"expression": text})
    assert isinstance(result, ToolError) and says in result.message


@settings(max_examples=600, deadline=None)
@given(st.text(alphabet="0123456789.+-*/%(), sqrtminax**//é\n\t_", max_size=200))
def test_any_text_ends_at_once_as_a_result(text: str) -> None:
    start = time.process_time()
    assert isinstance(Calculator().run({"expression": text}), (ToolOk, ToolError))
    assert time.process_time() - start < 0.5


def test_show_rounds_half_to_even_in_the_tenth_place() -> None:
    assert show(Fraction(5, 10**11)) == "0" and show(Fraction(15, 10**11)) == "0.0000000002"
