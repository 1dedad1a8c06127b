"""Arithmetic worked out digit by digit, in one compact notation: what thinking without a tool looks
like.

    347 + 286: 7+6=13 write 3 carry 1; 4+8+1=13 write 3 carry 1; 3+2+1=6 -> 633
    503 - 286: 13-6=7 borrow 1; 10-8-1=1 borrow 1; 5-2-1=2 -> 217
    347 * 6: 7*6=42 write 2 carry 4; 4*6+4=28 write 8 carry 2; 3*6+2=20 -> 2082
    2082 / 6: 20/6=3 rest 2; 28/6=4 rest 4; 42/6=7 rest 0 -> 347

Every small step needs only facts of the times table or sums below 20 and what stands directly
before it, which is what a tiny model can learn. Columns go from right to left, division from left
to right. A multiplier of several digits is split into partial products ("347 * 26" = "347 * 20" +
"347 * 6"). A division that leaves a rest says so at the end: "905 / 60: 90/60=1 rest 30; 305/60=5
rest 5 -> 15 rest 5". Facts with single digits stand alone: "7 + 6 = 13". Only whole numbers; a
division must be exact and a difference not negative. `faults` reads such text again, independently
of the functions that write it.
"""

from __future__ import annotations

import ast
import operator
import re
from fractions import Fraction

_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_WORKING = re.compile(r"(?<![\d.])(\d+ [-+*/] \d+): ([^:>]*?)-> (\d+)(?!\d| rest)")
_WITH_REST = re.compile(r"(?<![\d.])(\d+) / (\d+): [^:>]*?-> (\d+) rest (\d+)")
_REST = re.compile(r"(?<![\d.])(\d+)/(\d+)=(\d+) rest (\d+)")
_EQUATION = re.compile(
    r"(?<![\w.])(\d[\d.]*(?: ?[-+*/] ?\d[\d.]*)+) ?= ?(-?\d+(?:\.\d+)?)(?: write (\d) carry (\d+))?(?! rest)"
)


def work_out(a: int, op: str, b: int) -> str:
    """`a op b` worked out, ending in "-> result" or "= result". op is one of + - * /.

    Raises ValueError for a negative number, a negative difference or a division with a rest."""
    if a < 0 or b < 0:
        raise ValueError(f"cannot work out {a} {op} {b}: expected numbers from 0 up")
    result = exact(a, op, b)
    if (a < 10 and b < 10) or (op in "*/" and (a == 0 or b == 1)):
        return f"{a} {op} {b} = {result}"
    if op == "+":
        return f"{a} + {b}: {_columns_added(a, b)} -> {result}"
    if op == "-":
        return f"{a} - {b}: {_columns_subtracted(a, b)} -> {result}"
    if op == "*":
        return _multiplied(a, b)
    return f"{a} / {b}: {_divided(a, b)} -> {result}"


def divide(a: int, b: int) -> str:
    """`a / b` with its rest, worked out, ending in "-> quotient rest r"; the rest may be 0.

    Raises ValueError for a negative number, a divisor below 2 or one that is larger than `a`."""
    if b < 2 or a < b:
        raise ValueError(f"cannot divide {a} by {b} with a rest; expected 2 <= {b} <= {a}")
    return f"{a} / {b}: {_divided(a, b)} -> {a // b} rest {a % b}"


def sum_up(numbers: list[int]) -> str:
    """Several numbers added from left to right; one alone needs no working."""
    total, parts = numbers[0], []
    for n in numbers[1:]:
        parts.append(work_out(total, "+", n))
        total += n
    return ". ".join(parts)


def exact(a: int, op: str, b: int) -> int:
    """The whole result of `a op b`. Raises ValueError when there is none or it is negative."""
    if op == "+":
        return a + b
    if op == "*":
        return a * b
    if op == "-" and a >= b:
        return a - b
    if op == "/" and b and a % b == 0:
        return a // b
    raise ValueError(f"{a} {op} {b} has no whole result from 0 up; hint: choose other numbers")


def faults(text: str) -> list[str]:
    """What is wrong in the arithmetic that `text` shows: every equation and every working is
    recomputed."""
    found = [
        f"'{head}: ... -> {result}' is wrong" for head, _, result in _WORKING.findall(text) if not _equal(head, result)
    ]
    for a, b, quotient, rest in (*_REST.findall(text), *_WITH_REST.findall(text)):
        if int(b) == 0 or divmod(int(a), int(b)) != (int(quotient), int(rest)):
            found.append(f"'{a}/{b}={quotient} rest {rest}' is wrong")
    for left, right, written, carried in _EQUATION.findall(text):
        if not _equal(left, right):
            found.append(f"'{left} = {right}' is wrong")
        elif written and divmod(int(right), 10) != (int(carried), int(written)):
            found.append(f"'{right} write {written} carry {carried}' is wrong")
    return found


def without_workings(text: str) -> tuple[str, list[tuple[str, str]]]:
    """`text` with each working or equation replaced by "#", and what was taken out as (left side,
    result).

    A division with a rest gives two results."""
    taken: list[tuple[str, str]] = []

    def take(match: re.Match[str]) -> str:
        taken.append((match.group(1), match.group(match.re.groups if match.re is _WORKING else 2)))
        return "#"

    def take_both(match: re.Match[str]) -> str:
        a, b, quotient, rest = match.groups()
        taken.extend(((f"{a} / {b}", quotient), (f"{a} / {b}", rest)))
        return "#"

    return _EQUATION.sub(take, _WORKING.sub(take, _WITH_REST.sub(take_both, text))), taken


def evaluate(expression: str) -> Fraction:
    """The exact value of digits and + - * / ( ). Raises ValueError for anything else."""
    try:
        return _value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ZeroDivisionError) as error:
        raise ValueError(f"cannot evaluate {expression!r}: {error}; expected digits and + - * / ( )") from None


def _equal(expression: str, result: str) -> bool:
    try:
        return evaluate(expression) == Fraction(result)
    except ValueError:  # a division by zero, or a number with a leading zero: certainly no right arithmetic
        return False


def _columns_added(a: int, b: int) -> str:
    columns, carry = [], 0
    width = max(len(str(a)), len(str(b)))
    for place in range(width):
        digits = [str(n)[-1 - place] for n in (a, b) if place < len(str(n))]
        terms = [*digits, *(["1"] if carry else [])]
        total = sum(map(int, terms))
        equation = f"{'+'.join(terms)}={total}" if len(terms) > 1 else terms[0]
        carry = total // 10
        columns.append(f"{equation} write {total % 10} carry 1" if carry and place < width - 1 else equation)
    return "; ".join(columns)


def _columns_subtracted(a: int, b: int) -> str:
    columns, borrowed = [], 0
    for place in range(len(str(a))):
        top = int(str(a)[-1 - place])
        terms = [str(b)[-1 - place]] if place < len(str(b)) else []
        terms += ["1"] if borrowed else []
        borrowed = 1 if top < sum(map(int, terms)) else 0
        shown = top + 10 * borrowed
        equation = f"{'-'.join([str(shown), *terms])}={shown - sum(map(int, terms))}" if terms else str(shown)
        columns.append(equation + (" borrow 1" if borrowed else ""))
    return "; ".join(columns)


def _multiplied(a: int, b: int) -> str:
    if len(str(b)) > len(str(a)):  # the shorter factor is the multiplier: fewer partial products
        return f"{a} * {b} is {b} * {a}. {_multiplied(b, a)}"
    places = [(int(digit), len(str(b)) - 1 - i) for i, digit in enumerate(str(b)) if digit != "0"]
    if len(places) == 1 and places[0][1] == 0:
        return _times_digit(a, b)
    parts, products = [], []
    for digit, place in places:
        product = a * digit * 10**place
        if place and digit == 1:
            parts.append(f"{a} * {10**place} = {product}")
        elif place:
            parts.append(f"{_times_digit(a, digit)}, so {a} * {digit * 10**place} = {product}")
        else:
            parts.append(_times_digit(a, digit))
        products.append(product)
    if len(products) > 1:
        parts.append(sum_up(products))
        parts.append(f"So {a} * {b} = {a * b}")
    return ". ".join(parts)


def _times_digit(a: int, digit: int) -> str:
    if a < 10 or digit == 1:
        return f"{a} * {digit} = {a * digit}"
    columns, carry = [], 0
    figures = str(a)[::-1]
    for place, figure in enumerate(figures):
        total = int(figure) * digit + carry
        equation = f"{figure}*{digit}{f'+{carry}' if carry else ''}={total}"
        carry = total // 10
        columns.append(
            f"{equation} write {total % 10} carry {carry}" if carry and place < len(figures) - 1 else equation
        )
    return f"{a} * {digit}: {'; '.join(columns)} -> {a * digit}"


def _divided(a: int, b: int) -> str:
    columns, rest = [], 0
    for figure in str(a):
        rest = rest * 10 + int(figure)
        if rest < b and not columns:
            continue  # leading zeros of the quotient are not written
        columns.append(f"{rest}/{b}={rest // b} rest {rest % b}")
        rest %= b
    return "; ".join(columns)


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return Fraction(str(node.value))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    raise ValueError(f"cannot evaluate {ast.dump(node)}; expected digits and + - * / ( )")
