"""Generators of the library `reasoning-gym` (https://github.com/open-thought/reasoning-gym) as
tasks.

    task = make("chain_sum", seed=7)
    task = make("chain_sum", seed=7, config={"max_terms": 3})
    task.reward("1234")                   # the generator's own score, from 0 to 1; often partial

The library comes with `pip install abruzzi[tasks]` and is imported when the first task is made. Its
generators give a question, an answer and a score: so a task has no tools, no thinking and no
phrasings held out.

Some generators hand the answer to `eval` or to sympy's `parse_expr`, which evaluates code as well.
There an answer is scored only if it is plain arithmetic or a plain list (`harmless`); anything else
gets 0.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from abruzzi.types import Message

from .environments import NoTools
from .task import Task

PREFIX = "reasoning_gym/"
LONGEST_ANSWER = 2_000  # characters of an answer that a generator would evaluate

_EVALUATES = re.compile(r"\b(?:eval|exec|parse_expr|sympify)\(")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_MATHEMATICS = {"sin", "cos", "tan", "exp", "log", "ln", "sqrt", "pi", "Abs", "asin", "acos", "atan"}
_LARGEST_POWER = 100


@dataclass(frozen=True)
class GymTask(Task):
    """A task whose reward is the score function of its generator."""

    has_trajectories: ClassVar[bool] = False

    dataset: Any = field(default=None, repr=False, compare=False)
    entry: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    evaluates: bool = False

    def reward(self, text: str) -> float:
        """The generator's score of `text`, or of what stands in its last <answer>...</answer>."""
        tagged = _TAGGED.findall(text)
        answer = (tagged[-1] if tagged else text).strip()
        if not answer or (self.evaluates and not harmless(answer)):
            return 0.0
        try:
            return min(1.0, max(0.0, float(self.dataset.score_answer(answer, self.entry))))
        except Exception:  # the border to a verifier that is not ours: what it cannot read is not an answer
            return 0.0

    def gold(self, thinking: bool, tools: bool) -> tuple[Message, ...]:
        """The bare answer. Raises ValueError for thinking, and where the generator knows no
        answer."""
        if thinking:
            raise ValueError(f"{self.family} has no gold thinking; expected thinking=False")
        if not self.answer:
            raise ValueError(f"{self.family} gives a score but no gold answer; hint: use it for rewards only")
        return (Message("assistant", self.sentence),)


def generators() -> Sequence[str]:
    """The names of all generators, sorted. Raises ValueError when the library is not installed."""
    return sorted(_library().DATASETS)


def make(generator: str, seed: int, config: Mapping[str, Any] | None = None, id: str | None = None) -> GymTask:
    """One task of a generator; the same arguments give the same task.

    config: the generator's own settings. Raises ValueError for an unknown generator or setting
    (with the nearest name), for a setting that the generator refuses, and when the library is not
    installed."""
    factory = _library()
    if generator not in factory.DATASETS:
        raise ValueError(
            f"reasoning-gym has no generator {generator!r}; expected one of its {len(factory.DATASETS)}"
            f"{_nearest(generator, factory.DATASETS)}"
        )
    kind, settings = factory.DATASETS[generator]
    known = [f.name for f in fields(settings) if f.name not in ("seed", "size")]
    for key in config or {}:
        if key not in known:
            expected = ", ".join(known)
            raise ValueError(f"{generator} has no setting {key!r}; expected one of {expected}{_nearest(key, known)}")
    try:
        dataset = factory.create_dataset(generator, seed=seed, size=1, **(config or {}))
    except (AssertionError, ValueError, TypeError) as error:
        raise ValueError(f"{generator} refuses the settings {dict(config or {})}: {error or 'out of range'}") from error
    entry = dataset[0]
    answer = "" if entry["answer"] is None else str(entry["answer"])
    return GymTask(
        id=id or f"{PREFIX}{generator}-trained-{seed}",
        family=PREFIX + generator,
        split="trained",
        templates=(generator,),
        steps=1,
        prompt=entry["question"],
        prompt_without_tools=entry["question"],
        answer=answer,
        others=(),
        environment=NoTools(),
        moves=(),
        closing="",
        alone="",
        sentence=answer,
        dataset=dataset,
        entry=entry,
        evaluates=_EVALUATES.search(inspect.getsource(inspect.getmodule(kind) or kind)) is not None,
    )


def harmless(answer: str) -> bool:
    """Whether evaluating `answer` can do no more than arithmetic: no call but of mathematics, no
    attribute, no large power, no product of lists. Text that is no expression at all must hold no
    call either."""
    if len(answer) > LONGEST_ANSWER or "__" in answer:
        return False
    try:
        tree = ast.parse(answer, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return not re.search(r"\w\s*[(\[]|\.\s*[A-Za-z_]|[!:;@`]|\*\*", answer)
    return _harmless(tree.body)


def _harmless(node: ast.expr) -> bool:
    if isinstance(node, ast.List | ast.Tuple):
        return all(map(_harmless, node.elts))
    word = isinstance(node, ast.Name) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    return word or _arithmetic(node)


def _arithmetic(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float)
    if isinstance(node, ast.Name):
        return len(node.id) == 1 or node.id in _MATHEMATICS
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub | ast.UAdd) and _arithmetic(node.operand)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        nested = any(isinstance(inner, ast.Pow) for side in (node.left, node.right) for inner in ast.walk(side))
        numbers = [inner.value for inner in ast.walk(node.right) if isinstance(inner, ast.Constant)]
        grows = any(isinstance(inner, ast.Mult | ast.Add) for inner in ast.walk(node.right))
        small = all(isinstance(n, int | float) and n <= _LARGEST_POWER for n in numbers) and not grows
        return small and not nested and _arithmetic(node.left) and _arithmetic(node.right)
    if isinstance(node, ast.BinOp):
        plain = isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div)
        return plain and _arithmetic(node.left) and _arithmetic(node.right)
    if isinstance(node, ast.Call):
        named = isinstance(node.func, ast.Name) and node.func.id in _MATHEMATICS
        return named and not node.keywords and all(map(_arithmetic, node.args))
    return False


def _library() -> Any:
    try:
        return importlib.import_module("reasoning_gym.factory")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"tasks of reasoning-gym need the library, and the module {error.name!r} is missing; "
            "hint: pip install 'abruzzi[tasks]'"
        ) from error


def _nearest(given: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    near = difflib.get_close_matches(given, list(known), n=1)
    return f"; hint: did you mean {near[0]!r}?" if near else ""
