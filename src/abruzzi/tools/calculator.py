"""The tool `calculator`: exact arithmetic by a recursive-descent parser; nothing is ever evaluated
as code.

    sum     = product (("+" | "-") product)*
    product = unary (("*" | "/" | "//" | "%") unary)*
    unary   = ("+" | "-") unary | power
    power   = atom ["**" unary]              (to the right, and tighter than a sign before it: -2**2 = -4)
    atom    = number | name "(" sum ("," sum)* ")" | "(" sum ")"

Numbers are exact fractions: 0.1 + 0.2 is 0.3. Only square roots and fractional powers are rounded,
to 30 digits. A result that does not end is shown with ten decimals. Every quantity is limited, so
no expression, however written, takes more than milliseconds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

from abruzzi.tools.tool import ToolError, ToolOk, error
from abruzzi.types import ToolSpec

MAX_LENGTH = 1_000  # characters of an expression
MAX_DEPTH = 50  # nested parentheses, signs and powers
MAX_BITS = 1_000  # of a numerator or denominator: about 300 digits
MAX_EXPONENT = 1_000
DECIMALS = 10

_TOKEN = re.compile(r"\s*(?:(\d+\.\d*|\.\d+|\d+)|(\*\*|//|[-+*/%(),])|([A-Za-z_]\w*))")
_SPELLINGS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "^": "^"})


class Calculator:
    """The tool `calculator`: one expression in, one number out."""

    spec = ToolSpec(
        "calculator",
        "Work out an arithmetic expression exactly.",
        {
            "type": "object",
            "properties": {"expression": {"type": "string", "description": "e.g. (12 + 30) * 2"}},
            "required": ["expression"],
            "additionalProperties": False,
        },
    )

    def run(self, arguments: Mapping[str, Any]) -> ToolOk | ToolError:
        """The bare number as text, or an error that says where the expression is wrong."""
        expression = arguments["expression"]
        try:
            value = evaluate(expression)
        except CalculatorError as problem:
            return error(str(problem))
        text = show(value)
        return ToolOk(text, f"= {text}")


class CalculatorError(ValueError):
    """What is wrong with an expression, in words for its author."""


def evaluate(expression: str) -> Fraction:
    """The exact value. Raises CalculatorError."""
    if len(expression) > MAX_LENGTH:
        raise CalculatorError(f"the expression has {len(expression)} characters, more than {MAX_LENGTH}")
    return _Parser(_tokens(expression.translate(_SPELLINGS))).whole()


def show(value: Fraction) -> str:
    """An integer, or a decimal with at most ten places, rounded half to even."""
    if value.denominator == 1:
        return str(value.numerator)
    scaled = round(abs(value) * 10**DECIMALS)
    sign = "-" if value < 0 and scaled else ""
    whole, part = divmod(scaled, 10**DECIMALS)
    return f"{sign}{whole}.{part:0{DECIMALS}d}".rstrip("0").rstrip(".")


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            wrong = text[at:].lstrip()[:1]
            hint = "; write powers as **" if wrong == "^" else ""
            raise CalculatorError(f"cannot read {wrong!r} at position {len(text) - len(text[at:].lstrip()) + 1}{hint}")
        kind = "number" if match[1] else "sign" if match[2] else "name"
        tokens.append((kind, match[match.lastindex or 0]))
        at = match.end()
    return tokens


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0

    def whole(self) -> Fraction:
        if not self.tokens:
            raise CalculatorError("the expression is empty")
        value = self.sum()
        if self.at < len(self.tokens):
            raise CalculatorError(f"unexpected {self._describe()}; only numbers, + - * / // % ** ( ) and functions")
        return value

    def sum(self) -> Fraction:
        value = self.product()
        while (sign := self._take("+", "-")) is not None:
            right = self.product()
            value = _small(value + right if sign == "+" else value - right)
        return value

    def product(self) -> Fraction:
        value = self.unary()
        while (sign := self._take("*", "/", "//", "%")) is not None:
            right = self.unary()
            if sign == "*":
                value = _small(value * right)
                continue
            if right == 0:
                raise CalculatorError("division by zero")
            value = _small(
                value / right if sign == "/" else Fraction(value // right) if sign == "//" else value % right
            )
        return value

    def unary(self) -> Fraction:
        sign = self._take("+", "-")
        if sign is None:
            return self.power()
        self._enter()
        value = self.unary()
        self.depth -= 1
        return -value if sign == "-" else value

    def power(self) -> Fraction:
        base = self.atom()
        if self._take("**") is None:
            return base
        self._enter()
        exponent = self.unary()
        self.depth -= 1
        return _power(base, exponent)

    def atom(self) -> Fraction:
        if self.at >= len(self.tokens):
            raise CalculatorError("the expression ends where a number is expected")
        kind, text = self.tokens[self.at]
        if kind == "number":
            self.at += 1
            return _small(Fraction(text))
        if kind == "name":
            return self._function(text)
        if text != "(":
            raise CalculatorError(f"a number is expected, not {self._describe()}")
        self.at += 1
        self._enter()
        value = self.sum()
        self.depth -= 1
        self._close()
        return value

    def _function(self, name: str) -> Fraction:
        if name not in FUNCTIONS:
            raise CalculatorError(
                f"unknown word {name[:30]!r}; use numbers, + - * / // % ** ( ) and {', '.join(FUNCTIONS)}"
            )
        self.at += 1
        if self._take("(") is None:
            raise CalculatorError(f"{name} needs parentheses: {name}(...)")
        self._enter()
        arguments = [self.sum()]
        while self._take(",") is not None:
            arguments.append(self.sum())
        self.depth -= 1
        self._close()
        least, most, function = FUNCTIONS[name]
        if not least <= len(arguments) <= most:
            wanted = str(least) if least == most else f"{least} to {most}" if most < 99 else f"{least} or more"
            raise CalculatorError(f"{name} takes {wanted} numbers, not {len(arguments)}")
        return _small(function(*arguments))

    def _take(self, *signs: str) -> str | None:
        if self.at < len(self.tokens) and self.tokens[self.at] in [("sign", s) for s in signs]:
            self.at += 1
            return self.tokens[self.at - 1][1]
        return None

    def _close(self) -> None:
        if self._take(")") is None:
            found = self._describe() if self.at < len(self.tokens) else "the end"
            hint = "; write numbers without thousands commas" if found == "','" else ""
            raise CalculatorError(f"a closing parenthesis is missing before {found}{hint}")

    def _describe(self) -> str:
        text = self.tokens[self.at][1]
        return f"{text[:30]!r}" + ("; write numbers without thousands commas" if text == "," else "")

    def _enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise CalculatorError(f"the expression is nested deeper than {MAX_DEPTH}")


def _small(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise CalculatorError("the result is too large (about 300 digits are allowed)")
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if base == 0 and exponent < 0:
        raise CalculatorError("zero cannot be raised to a negative power")
    if exponent.denominator != 1:
        if base < 0:
            raise CalculatorError("a negative number has no fractional power")
        with localcontext(prec=40):
            if base == 0:
                return Fraction(0)
            logarithm = (Decimal(base.numerator).ln() - Decimal(base.denominator).ln()) * _decimal(exponent)
            if abs(logarithm) > MAX_BITS:
                raise CalculatorError("the result is too large (about 300 digits are allowed)")
            return _rounded(logarithm.exp())
    power = exponent.numerator
    # The size of the result is known before it is computed.
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(base) != 1 and base != 0 and (abs(power) > MAX_EXPONENT or (bits - 1) * abs(power) > MAX_BITS):
        raise CalculatorError("the result is too large (about 300 digits are allowed)")
    if base in (0, 1, -1):
        return Fraction(1) if power == 0 or (base != 0 and (base == 1 or power % 2 == 0)) else base
    return _small(base**power)


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def _rounded(value: Decimal) -> Fraction:
    with localcontext(prec=30):
        return _small(Fraction(+value))


def _sqrt(value: Fraction) -> Fraction:
    if value < 0:
        raise CalculatorError("a negative number has no square root")
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    if top * top == value.numerator and bottom * bottom == value.denominator:
        return Fraction(top, bottom)
    with localcontext(prec=40):
        return _rounded(_decimal(value).sqrt())


def _round(value: Fraction, places: Fraction = Fraction(0)) -> Fraction:
    if places.denominator != 1 or abs(places) > 50:
        raise CalculatorError("round takes a whole number of places, at most 50")
    return Fraction(round(value, int(places)))


FUNCTIONS: dict[str, tuple[int, int, Callable[..., Fraction]]] = {
    "sqrt": (1, 1, _sqrt),
    "abs": (1, 1, lambda v: Fraction(abs(v))),
    "round": (1, 2, _round),
    "floor": (1, 1, lambda v: Fraction(math.floor(v))),
    "ceil": (1, 1, lambda v: Fraction(math.ceil(v))),
    "min": (1, 99, min),
    "max": (1, 99, max),
}
