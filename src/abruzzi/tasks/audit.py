"""Does a task's gold hold? Plays all four modes and looks for wrong results, leaps and a lax
verifier.

A leap is a number that comes from nowhere: every number in a thought, a tool call or the final
answer must occur in the question, among the task's constants or in an earlier tool result, or be
the result of an equation in the thinking whose operands are known and which is true when
recomputed. Generators are trusted with nothing but the meaning of the English: that the words ask
for what the calls compute is for a reader to judge.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal

from abruzzi.types import Message

from . import workings
from .numbers import numbers_in, plain, values_in
from .task import Move, Task

# Sized for a context of 2,048 tokens with a vocabulary of one or two thousand.
LONGEST_QUESTION = 900
LONGEST_THINKING = 1200

_ROW_LIMIT = re.compile(r"LIMIT 1(?: OFFSET 1)?")
_SLOT_LEFT_OPEN = re.compile(r"[{}<>\[\]^~]")


class GoldError(ValueError):
    """A task whose gold does not hold; says which task and why."""


def audit(task: Task) -> None:
    """Play every gold of a task and check it. Raises GoldError at the first fault found."""
    if not task.has_trajectories:
        return _check_bare(task)
    _check_texts(task)
    _check_verifier(task)
    for thinking in (False, True):
        _check_with_tools(task, task.gold(thinking, tools=True), thinking)
        _check_without_tools(task, task.gold(thinking, tools=False), thinking)


def _check_bare(task: Task) -> None:
    _demand(task, bool(task.prompt.strip()), "the question is empty")
    score = task.reward(task.answer)
    _demand(task, not task.answer or score == 1.0, f"the gold answer {task.answer!r} is scored {score}")


def _check_texts(task: Task) -> None:
    for name, text in (("prompt", task.prompt), ("prompt_without_tools", task.prompt_without_tools)):
        _demand(task, len(text) <= LONGEST_QUESTION, f"{name} has {len(text)} characters, over {LONGEST_QUESTION}")
    thoughts = " ".join(move.thought for move in task.moves) + task.closing
    for name, text in (("thinking with tools", thoughts), ("thinking without tools", task.alone)):
        _demand(task, len(text) <= LONGEST_THINKING, f"{name} has {len(text)} characters, over {LONGEST_THINKING}")
    question = task.prompt.split("\n")[0]
    for text in (question, task.sentence, task.closing, *(m.thought for m in task.moves), task.alone):
        _demand(task, "  " not in text and text == text.strip() and text != "", f"stray or missing text: {text!r}")
    for text in (question, task.sentence):
        _demand(task, not _SLOT_LEFT_OPEN.search(text), f"a slot was left open in {text!r}")
    played = sum(not move.planted for move in task.moves)
    counted = task.steps == played if task.moves else task.steps >= 1
    _demand(task, counted, f"steps={task.steps}, but {played} moves are played")
    _demand(task, bool(task.templates), "templates is empty")


def _check_verifier(task: Task) -> None:
    _demand(task, task.reward(task.sentence) == 1.0, f"the gold sentence {task.sentence!r} gets no reward")
    if task.puzzle is not None:
        faults = task.puzzle.faults(task.answer)
        _demand(task, not faults, f"the puzzle does not hold: {'; '.join(faults)}")
    if task.verifier is not None:
        _demand(task, task.reward(task.answer) == 1.0, f"the gold answer {task.answer!r} gets no reward")
        wrong = list(task.verifier.wrong())
        _demand(task, bool(wrong), "the verifier names no wrong answers to try")
    elif task.others:
        _demand(task, task.answer not in task.others, f"the answer {task.answer!r} is among the wrong candidates")
        wrong = [*task.others, f"{task.answer} or {task.others[0]}", f"{task.sentence} Or {task.others[-1]}."]
    else:
        value = Decimal(task.answer)
        others = [plain(value + 1), plain(value - 1), plain(value * 10 + 1), plain(-value - 1)]
        wrong = [*others, f"{task.sentence} No, {plain(value + 2)}.", f"{task.answer}, not {plain(value + 3)}"]
    for text in ("", "I do not know.", *wrong):
        _demand(task, task.reward(text) == 0.0, f"the verifier accepts {text!r}; the answer is {task.answer!r}")


def _check_with_tools(task: Task, messages: tuple[Message, ...], thinking: bool) -> None:
    moves = [move for move in task.moves if thinking or not move.planted]
    _demand(task, len(messages) == 2 * len(moves) + 1, f"{len(messages)} messages for {len(moves)} moves")
    known, seen, result = _given(task, task.prompt), task.prompt, ""
    for move, asked, answered in zip(moves, messages[::2], messages[1::2]):
        known = _think(task, asked.reasoning_content, known, thinking)
        call = asked.tool_calls[0]
        arguments = json.loads(call.arguments)
        _demand(task, len(asked.tool_calls) == 1 and asked.content is None, f"expected one bare call, got {asked}")
        for value in arguments.values():
            _demand_known(task, _ROW_LIMIT.sub("", value), known, f"the call {call.arguments}")
        path = arguments.get("path", "")
        _demand(task, move.planted or path in seen, f"a leap: the path {path!r} was not seen before")
        result = answered.content or ""
        _check_result(task, move, result)
        known, seen = known | values_in(result), seen + result
    last = messages[-1]
    known = _think(task, last.reasoning_content, known, thinking)
    _check_answer(task, last, known)
    if task.verifier is not None or not task.moves:
        return  # put together from several results, or from none: its numbers were checked
    in_result = _names(task, result) if task.others else Decimal(task.answer) in numbers_in(result)
    _demand(task, in_result, f"the answer {task.answer!r} does not stand in the last result {result!r}")


def _check_without_tools(task: Task, messages: tuple[Message, ...], thinking: bool) -> None:
    _demand(task, len(messages) == 1, f"expected one message without tools, got {len(messages)}")
    known = _think(task, messages[0].reasoning_content, _given(task, task.prompt_without_tools), thinking)
    if not thinking:  # the answer comes bare, and its numbers with it
        known = known | set(numbers_in(task.answer))
    _check_answer(task, messages[0], known)


def _think(task: Task, thought: str | None, known: set[Decimal], thinking: bool) -> set[Decimal]:
    """What is known after `thought`. Its arithmetic must be true and its numbers must not be
    leaps."""
    _demand(task, (thought is not None) == thinking, f"thinking={thinking}, but reasoning_content is {thought!r}")
    if thought is None:
        return known
    wrong = workings.faults(thought)
    _demand(task, not wrong, f"wrong arithmetic in {thought!r}: {wrong}")
    prose, shown = workings.without_workings(thought)
    pending = [(left, Decimal(right)) for left, right in shown]
    while pending:
        usable = known | {Decimal(0), Decimal(1)} | _digits_of(known)
        derived = [(left, right) for left, right in pending if set(numbers_in(left)) <= usable]
        _demand(task, bool(derived), f"a leap: operands of {pending} are not known in {thought!r}")
        known = known | {right for _, right in derived}
        pending = [item for item in pending if item not in derived]
    _demand_known(task, prose, known, f"the thought {thought!r}")
    return known


def _check_result(task: Task, move: Move, result: str) -> None:
    if move.planted:
        right = task.moves[task.moves.index(move) + 1]
        slipped = result != right.expect if right.tool == "calculator" else right.expect not in result
        _demand(
            task, slipped, f"the planted slip {dict(move.arguments)} returned what the right call returns: {result!r}"
        )
        return
    as_expected = result == move.expect if move.tool == "calculator" else move.expect in result
    _demand(task, as_expected, f"{dict(move.arguments)} returned {result!r}, expected {move.expect!r}")


def _check_answer(task: Task, message: Message, known: set[Decimal]) -> None:
    text = message.content or ""
    _demand(task, not message.tool_calls and task.reward(text) == 1.0, f"the last message {text!r} is not the answer")
    _demand_known(task, text, known, f"the answer {text!r}")


def _given(task: Task, question: str) -> set[Decimal]:
    return values_in(question) | {Decimal(n) for n in task.constants}


def _names(task: Task, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(task.answer)}(?!\w)", text, re.IGNORECASE) is not None


def _digits_of(known: set[Decimal]) -> set[Decimal]:
    """The parts that partial products are made of: 346 gives 300, 40, 6 and the bare digits."""
    parts: set[Decimal] = set()
    for value in known:
        figures = str(abs(int(value)))
        for place, figure in enumerate(reversed(figures)):
            parts.update((Decimal(figure), Decimal(int(figure) * 10**place), Decimal(10**place)))
    return parts


def _demand_known(task: Task, text: str, known: set[Decimal], where: str) -> None:
    unknown = [plain(n) for n in numbers_in(text) if n not in known]
    _demand(task, not unknown, f"a leap: {', '.join(unknown)} in {where} was not given, found or worked out before")


def _demand(task: Task, holds: bool, fault: str) -> None:
    if not holds:
        raise GoldError(f"task {task.id} (seed in its id): {fault}")
