"""Questions about a small table, answered with SQL and, where numbers are combined, the calculator.

    In how many years will Priya be 52 years old?
        table: SELECT age FROM athletes WHERE athlete = 'Priya'     -> 44
        calculator: 52 - 44                                         -> 8

Tables have 4 to 8 rows of one of the themes in words/tables/themes/; queries.py and combinations.py
ask. Trained questions take one to three calls, "longer" ones four or five. About one trace in ten
first asks for a column that does not exist, reads the tool's error and asks again. Without tools
the table stands in the question as CSV and the thinking goes through the rows. Follow-up questions
(a theme's own words) occur only in `trained`.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from .. import language
from ..environments import OneTable
from ..task import Move, Split, Task, Unfit
from . import combinations, queries
from .draft import Draft
from .sheet import Sheet

_SLIP_SHARE = 0.10


def make(split: Split, seed: int, id: str) -> Task:
    """A question about a table. Same arguments, same task."""
    rng = random.Random(f"table_questions/{split}/{seed}")
    while True:
        try:
            return _make(split, rng, id)
        except Unfit:
            continue


def _make(split: Split, rng: random.Random, id: str) -> Task:
    kinds = _LONGER if split == "longer" else _TRAINED if split == "trained" else _TRAINED[:-1]
    sheet = Sheet(rng, split == "held_out")
    draft = rng.choice(kinds)(sheet)
    moves = _with_slip(draft.moves, sheet) if rng.random() < _SLIP_SHARE else draft.moves
    table, columns = sheet.name, language.listed(list(sheet.columns))
    introduction = sheet.bank.draw("intro").format(table=table, columns=columns)
    parts = [introduction, draft.question] if rng.random() < 0.7 else [draft.question, introduction]
    environment = OneTable(table, sheet.columns, tuple(tuple(row[c] for c in sheet.columns) for row in sheet.rows))
    return Task(
        id=id,
        family="table_questions",
        split=split,
        templates=tuple(sheet.bank.used),
        steps=len(draft.moves),
        prompt=" ".join(parts),
        prompt_without_tools=f"{draft.question}\n\nTable {table}:\n{environment.as_text()}",
        answer=draft.answer,
        others=draft.others,
        environment=environment,
        moves=tuple(moves),
        closing=draft.closing,
        alone=draft.alone,
        sentence=draft.sentence,
    )


def _with_slip(moves: list[Move], sheet: Sheet) -> list[Move]:
    """The first query with a column name that was guessed, then the right one."""
    first, wrong, right = moves[0], sheet.measure.wrong, sheet.measure.column
    slipped = first.arguments["sql"].replace(right, wrong)
    if slipped == first.arguments["sql"] or wrong in sheet.columns:
        return moves
    remark = f"There is no column {wrong}. The {sheet.words.noun} is in the column {right}."
    return [
        Move(first.thought, "table", {"sql": slipped}, "", planted=True),
        Move(remark, first.tool, first.arguments, first.expect),
        *moves[1:],
    ]


_TRAINED: tuple[Callable[[Sheet], Draft], ...] = (
    *(queries.value, queries.count, queries.total, queries.most, queries.second, queries.average),
    *(queries.total_if, queries.group_of, combinations.difference, combinations.spread, combinations.groups_apart),
    combinations.follow_up,  # last: it has no held-out phrasings
)
_LONGER: tuple[Callable[[Sheet], Draft], ...] = (combinations.three, combinations.weighted, combinations.extremes)
