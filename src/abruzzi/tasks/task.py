"""One verifiable task: a question, the tools to answer it with, a verifier, and gold trajectories.

A gold trajectory is written by the generator as moves (a thought, then one tool call) and is
*played*: its tool results come from running the tools. The generator states beforehand what each
call must return, computed another way, so `audit.audit` compares two computations.

Four modes from one task: with or without tools, with or without thinking. Without tools the data
lies in the question, and the thinking works everything out; without thinking the calls or the
answer come bare. This file does not generate anything: see the rooms stories, tables, folders,
dates, puzzles and chains.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar, Literal, Protocol, get_args

from abruzzi.tools.tool import Tool, call_tool
from abruzzi.types import Message, ToolCall

from .numbers import numbers_in

Split = Literal["trained", "held_out", "longer"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Unfit(Exception):
    """What was drawn makes no task of the split (a rest, a number too large, too many calls): draw
    again."""


class Environment(Protocol):
    """What a task's tools work on. `open` builds it afresh and clears it away afterwards."""

    def open(self) -> AbstractContextManager[Sequence[Tool]]: ...


class Verifier(Protocol):
    """The rule for an answer that is neither one number nor one name; see verifiers.py."""

    def accepts(self, text: str) -> bool: ...

    def wrong(self) -> Sequence[str]:
        """Texts close to a right answer that must get no reward; the audit tries them."""
        ...


class Puzzle(Protocol):
    """What makes a puzzle one: that it has been solved in every possible way."""

    def faults(self, answer: str) -> list[str]:
        """What is wrong with the puzzle or the answer, found by trying everything; empty when it is
        right."""
        ...


@dataclass(frozen=True, slots=True)
class Move:
    """One step of the gold trajectory: think, then call one tool.

    expect:  what the result must contain; for the calculator it is the whole result. planted: a
    slip that the tool refuses (or that finds nothing); only thinking traces with tools show it.
    """

    thought: str
    tool: str
    arguments: Mapping[str, str]
    expect: str
    planted: bool = False


@dataclass(frozen=True)
class Task:
    """One question with its gold answer.

    templates:  ids of the phrasings used; those of held_out never occur in the other splits. steps:
    tool calls of the gold trajectory, planted slips not counted; without any, steps of thinking.
    others:     for an answer that is a name, the names that would be wrong; empty for a number.
    closing:    the last thought of the trajectory with tools. alone:      the whole thinking
    without tools. sentence:   the final answer, in every mode. verifier:   the rule for the answer;
    None for a number or a name. puzzle:     proves by trying everything that the answer is the only
    one; None where nothing is to be tried. constants:  numbers that everybody knows and the
    question need not say (60 minutes in an hour).
    """

    # Whether `gold` has trajectories with thinking; without any it is a bare answer.
    has_trajectories: ClassVar[bool] = True

    id: str
    family: str
    split: Split
    templates: tuple[str, ...]
    steps: int
    prompt: str
    prompt_without_tools: str
    answer: str
    others: tuple[str, ...]
    environment: Environment
    moves: tuple[Move, ...]
    closing: str
    alone: str
    sentence: str
    verifier: Verifier | None = None
    puzzle: Puzzle | None = None
    constants: tuple[int, ...] = ()

    def open_tools(self) -> AbstractContextManager[Sequence[Tool]]:
        """`with task.open_tools() as tools:` gives fresh tools; what they work on is removed at the
        end."""
        return self.environment.open()

    def reward(self, text: str) -> float:
        """1.0 when the final answer `text` is right, else 0.0.

        A number: the LAST number in the text must equal the gold exactly ("42.0" and "1,250" are
        read as 42 and 1250; "41, no, 42" is right and "42, not 41" wrong). A name: the gold must
        occur as a whole word, in any case of letters, and no other candidate of the task may.
        Anything else: see `verifier`."""
        if self.verifier is not None:
            return float(self.verifier.accepts(text))
        if not self.others:
            found = numbers_in(text)
            return float(bool(found) and found[-1] == Decimal(self.answer))
        return float(_mentions(text, self.answer) and not any(_mentions(text, other) for other in self.others))

    def gold(self, thinking: bool, tools: bool) -> tuple[Message, ...]:
        """The assistant and tool messages that follow the user's message, ending with the answer.

        With tools they answer `prompt`, without `prompt_without_tools`. reasoning_content is None
        unless `thinking`. Tool results come from really running the tools."""
        if not tools:
            return (self._answer(self.alone if thinking else None),)
        messages: list[Message] = []
        with self.open_tools() as opened:
            for move in self._played(thinking):
                call = ToolCall(
                    move.tool, json.dumps(move.arguments, ensure_ascii=False), id=f"call_{len(messages) // 2}"
                )
                result = call_tool(opened, call)
                thought = move.thought if thinking else None
                messages.append(Message("assistant", reasoning_content=thought, tool_calls=(call,)))
                messages.append(Message("tool", result.message, tool_call_id=call.id))
        return (*messages, self._answer(self.closing if thinking else None))

    def mistakes(self) -> tuple[int, ...]:
        """Which messages of `gold(thinking=True, tools=True)` make a planted slip.

        Training can leave their calls out of the loss: the recovery is worth learning, the slip is
        not."""
        return tuple(2 * i for i, move in enumerate(self.moves) if move.planted)

    def _played(self, thinking: bool) -> list[Move]:
        return [move for move in self.moves if thinking or not move.planted]

    def _answer(self, thought: str | None) -> Message:
        return Message("assistant", self.sentence, reasoning_content=thought)


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE) is not None
