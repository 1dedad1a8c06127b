"""Questions about a small table, answered with SQL and, where numbers are combined, the calculator.

Tables have 4 to 8 rows of one of the themes in table_themes.py. Trained questions take one to three
calls, "longer" ones four or five. About one trace in ten first asks for a column that does not exist,
reads the tool's error and asks again. Without tools the table stands in the question as CSV and the
thinking goes through the rows. Follow-up questions (a theme's own words) occur only in `trained`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from .. import language
from ..environments import OneTable
from ..numbers import plain
from ..phrasing import text_id
from ..task import Move, Split, Task
from ..workings import exact, sum_up, work_out
from .sheet import Row, Sheet, Unfit

_SLIP_SHARE = 0.10


@dataclass
class Draft:
    """What one kind of question yields; `moves` without slips."""

    question: str
    answer: str
    sentence: str
    alone: str
    closing: str
    others: tuple[str, ...] = ()
    moves: list[Move] = field(default_factory=list)


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


def _calculate(thought: str, a: int, op: str, b: int) -> tuple[Move, int]:
    try:
        result = exact(a, op, b)
    except ValueError:
        raise Unfit from None
    return Move(f"{thought}: {a} {op} {b}.", "calculator", {"expression": f"{a} {op} {b}"}, str(result)), result


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


def _value(sheet: Sheet) -> Draft:
    row = sheet.rng.choice(sheet.rows)
    value, noun = sheet.number(row), sheet.words.noun
    line = ",".join(str(row[c]) for c in sheet.columns)
    return Draft(
        question=sheet.ask("value", x=sheet.the(row)),
        answer=str(value),
        sentence=f"The {noun} of {sheet.the(row)} is {value}.",
        alone=f"The row is {line}. Its {sheet.measure.column} is {value}.",
        closing=f"One row fits, and its {noun} is {value}.",
        moves=[sheet.lookup(row)],
    )


def _count(sheet: Sheet) -> Draft:
    words, sql, meets, edge = sheet.condition()
    counted, said = 0, []
    for row in sheet.rows:
        fits = row in meets
        counted += fits
        said.append(f"{sheet.label(row)} {sheet.number(row)} {f'yes, {counted - 1}+1={counted}' if fits else 'no'}")
    side = "above" if ">" in sql else "below"
    thought = f"Count the rows with the {sheet.words.noun} {side} {edge}."
    return Draft(
        question=sheet.ask("count", cond=words),
        answer=str(counted),
        sentence=f"The number of {sheet.theme.rows} {sheet.who} {words} is {counted}.",
        alone=f"The {sheet.words.noun} must be {side} {edge}. {'; '.join(said)}. The count is {counted}.",
        closing=f"The count is {counted}, out of all {sheet.theme.rows}.",
        moves=[Move(thought, "table", sheet.select("COUNT(*)", f"WHERE {sql}"), str(counted))],
    )


def _total(sheet: Sheet) -> Draft:
    group, rows = sheet.grouped()
    numbers = [sheet.number(row) for row in rows]
    total, where = sum(numbers), sheet.of_group(group)
    return Draft(
        question=sheet.ask("total", group=where),
        answer=str(total),
        sentence=f"The total {sheet.words.noun} of the {sheet.theme.rows} {where} is {total}.",
        alone=f"{sheet.capital(where)}: {sheet.read_out(rows)}. {sum_up(numbers)}. The total is {total}.",
        closing=f"The sum over the group {group} is {total}.",
        moves=[_sum_of(sheet, group, total)],
    )


def _sum_of(sheet: Sheet, group: str, total: int, start: str = "") -> Move:
    thought = f"{start} Add up the {sheet.words.noun} where the {sheet.theme.group} is {group}.".strip()
    sql = sheet.select(f"SUM({sheet.measure.column})", f"WHERE {sheet.theme.group} = '{group}'")
    return Move(thought, "table", sql, str(total))


def _extreme(sheet: Sheet) -> tuple[Row, str, str, str]:
    """The row with the highest or lowest number, the word for it, SQL's order, and how the rows are gone through."""
    high = sheet.rng.random() < 0.6
    best, said = sheet.rows[0], [f"{sheet.label(sheet.rows[0])} {sheet.number(sheet.rows[0])}"]
    for row in sheet.rows[1:]:
        better = (sheet.number(row) > sheet.number(best)) == high
        said.append(f"{sheet.label(row)} {sheet.number(row)}{', ' + ('higher' if high else 'lower') if better else ''}")
        best = row if better else best
    order = f"ORDER BY {sheet.measure.column} {'DESC' if high else 'ASC'} LIMIT 1"
    return best, sheet.words.most if high else sheet.words.least, order, "; ".join(said)


def _most(sheet: Sheet) -> Draft:
    best, word, order, gone_through = _extreme(sheet)
    label, end = sheet.label(best), "highest" if "DESC" in order else "lowest"
    noun, row = sheet.words.noun, sheet.theme.row
    thought = f"The {word} {row} has the {end} {noun}: sort by it and take the first row."
    sentence = sheet.capital(f"{sheet.the(best)} is the {word} {row}.")
    if row == "train":
        sentence = f"The {word} train is the one to {label}."
    return Draft(
        question=sheet.ask("most", most=word, end=end),
        answer=label,
        others=tuple(sheet.label(row) for row in sheet.rows if row is not best),
        sentence=sentence,
        alone=f"Look for the {end} {noun}. {gone_through}. The {end} is {label} with {sheet.number(best)}.",
        closing=f"The first row in that order is {label}.",
        moves=[Move(thought, "table", sheet.select(sheet.theme.key, order), label)],
    )


def _second(sheet: Sheet) -> Draft:
    ranked = sorted(sheet.rows, key=sheet.number, reverse=True)
    label, noun = sheet.label(ranked[1]), sheet.words.noun
    sql = sheet.select(sheet.theme.key, f"ORDER BY {sheet.measure.column} DESC LIMIT 1 OFFSET 1")
    return Draft(
        question=sheet.ask("second"),
        answer=label,
        others=tuple(sheet.label(row) for row in sheet.rows if row is not ranked[1]),
        sentence=f"The second highest {noun} is that of {sheet.the(ranked[1])}.",
        alone=f"From high to low: {sheet.read_out(ranked)}. Second is {label}.",
        closing=f"After the first row comes {label}.",
        moves=[Move(f"Sort by {noun} from high to low, skip the first row and take the next.", "table", sql, label)],
    )


def _average(sheet: Sheet) -> Draft:
    group, rows = sheet.grouped()
    numbers = [sheet.number(row) for row in rows]
    total, count, where = sum(numbers), len(rows), sheet.of_group(group)
    if total % count:
        raise Unfit
    mean, noun = plain(total // count), sheet.words.noun
    counting = "; ".join(f"{sheet.label(row)} {n}, {i}+1={i + 1}" for i, (row, n) in enumerate(zip(rows, numbers)))
    sums = f"{sum_up(numbers)}. {work_out(total, '/', count)}."
    sql = sheet.select(f"AVG({sheet.measure.column})", f"WHERE {sheet.theme.group} = '{group}'")
    return Draft(
        question=sheet.ask("average", group=where),
        answer=mean,
        sentence=f"The average {noun} of the {sheet.theme.rows} {where} is {mean}.",
        alone=f"{sheet.capital(where)}: {counting}. {sums} The average is {mean}.",
        closing=f"The average over the group {group} is {mean}.",
        moves=[Move(f"Take the average of the {noun} where the {sheet.theme.group} is {group}.", "table", sql, mean)],
    )


def _total_if(sheet: Sheet) -> Draft:
    words, sql, meets, edge = sheet.condition()
    if len(meets) < 2:
        raise Unfit
    numbers = [sheet.number(row) for row in meets]
    total, side = sum(numbers), "above" if ">" in sql else "below"
    said = "; ".join(f"{sheet.label(r)} {sheet.number(r)} {'yes' if r in meets else 'no'}" for r in sheet.rows)
    query = sheet.select(f"SUM({sheet.measure.column})", f"WHERE {sql}")
    return Draft(
        question=sheet.ask("total_if", cond=words),
        answer=str(total),
        sentence=f"The total {sheet.words.noun} of these {sheet.theme.rows} is {total}.",
        alone=f"The {sheet.words.noun} must be {side} {edge}. {said}. {sum_up(numbers)}. The total is {total}.",
        closing=f"The rows {side} {edge} sum up to {total}.",
        moves=[
            Move(f"Add up the {sheet.words.noun} of the rows where it is {side} {edge}.", "table", query, str(total))
        ],
    )


def _group_of(sheet: Sheet) -> Draft:
    best, word, order, gone_through = _extreme(sheet)
    theme, group = sheet.theme, str(best[sheet.theme.group])
    end, label = "highest" if "DESC" in order else "lowest", sheet.label(best)
    present = {str(row[theme.group]) for row in sheet.rows} - {group}
    if not present:
        raise Unfit
    find = f"First find the {word} {theme.row}: the one with the {end} {sheet.words.noun}."
    look, where = f"Look for the {end} {sheet.words.noun}", sheet.where(best)
    return Draft(
        question=sheet.ask("group_of", most=word, end=end),
        answer=group,
        others=tuple(sorted(present)),
        sentence=f"The {theme.group} of the {word} {theme.row} is {group}.",
        alone=f"{look}. {gone_through}. That is {label}, and its {theme.group} is {group}.",
        closing=f"So the {theme.group} is {group}.",
        moves=[
            Move(find, "table", sheet.select(theme.key, order), label),
            Move(f"It is {label}. Now its {theme.group}.", "table", sheet.select(theme.group, where), group),
        ],
    )


def _difference(sheet: Sheet) -> Draft:
    low, high = sorted(sheet.rng.sample(sheet.rows, 2), key=sheet.number)
    a, b, noun = sheet.number(high), sheet.number(low), sheet.words.noun
    move, result = _calculate(f"{sheet.capital(sheet.the(high))} has {a}, {sheet.the(low)} {b}", a, "-", b)
    return Draft(
        question=sheet.ask("difference", x=sheet.the(high), y=sheet.the(low)),
        answer=str(result),
        sentence=f"The difference in {noun} is {result}.",
        alone=f"{sheet.says(high)} {sheet.says(low)} {work_out(a, '-', b)}. The difference is {result}.",
        closing=f"The difference is {result}. Check: {result} + {b} = {a}.",
        moves=[*sheet.lookups([high, low]), move],
    )


def _range(sheet: Sheet) -> Draft:
    low, high = (pick(sheet.rows, key=sheet.number) for pick in (min, max))
    a, b, column = sheet.number(high), sheet.number(low), sheet.measure.column
    move, result = _calculate(f"The highest is {a} and the lowest {b}", a, "-", b)
    thought = f"I need the highest and the lowest {sheet.words.noun}."
    said = f"{sheet.read_out(sheet.rows)}. The highest is {a} and the lowest {b}."
    return Draft(
        question=sheet.ask("range"),
        answer=str(result),
        sentence=f"The highest and the lowest {sheet.words.noun} differ by {result}.",
        alone=f"{said} {work_out(a, '-', b)}. They differ by {result}.",
        closing=f"They differ by {result}. Check: {result} + {b} = {a}.",
        moves=[Move(thought, "table", sheet.select(f"MAX({column}), MIN({column})"), f"{a}|{b}"), move],
    )


def _groups_apart(sheet: Sheet) -> Draft:
    members: dict[str, list[Row]] = {}
    for row in sheet.rows:
        members.setdefault(str(row[sheet.theme.group]), []).append(row)
    if len(members) < 2:
        raise Unfit
    totals = {g: sum(map(sheet.number, rows)) for g, rows in members.items()}
    low, high = sorted(sheet.rng.sample(sorted(totals), 2), key=totals.__getitem__)
    a, b = totals[high], totals[low]
    if a == b:
        raise Unfit
    move, result = _calculate(f"The group {low} has {b}. Take that from {a}", a, "-", b)
    said = [
        f"{g}: {sheet.read_out(members[g])}. "
        + (f"{sum_up(list(map(sheet.number, members[g])))}. " if len(members[g]) > 1 else "")
        for g in (high, low)
    ]
    return Draft(
        question=sheet.ask("groups_apart", group=sheet.of_group(high), group2=sheet.of_group(low)),
        answer=str(result),
        sentence=f"The difference between the two totals is {result}.",
        alone=f"{''.join(said)}{work_out(a, '-', b)}. The difference is {result}.",
        closing=f"The difference is {result}. Check: {result} + {b} = {a}.",
        moves=[
            _sum_of(sheet, high, a, "Two totals and their difference."),
            _sum_of(sheet, low, b, f"The group {high} has {a}."),
            move,
        ],
    )


def _follow_up(sheet: Sheet) -> Draft:
    row, measure = sheet.rng.choice(sheet.rows), sheet.measure
    kind, text = sheet.rng.choice(measure.follow_up)
    value = sheet.number(row)
    if value < 4:
        raise Unfit
    if kind == "times":
        n = sheet.rng.randint(2, 15)
        (a, op, b), why = (n, "*", value), f"{n} times that"
    elif kind == "minus":
        n = sheet.rng.randint(2, value - 2)
        (a, op, b), why = (value, "-", n), f"Take {n} away"
    else:
        n = value + sheet.rng.randint(3, max(9, value))
        (a, op, b), why = (n, "-", value), f"From {value} up to {n}"
    sheet.bank.used.append(f"follow_up.{text_id(text)}")
    move, result = _calculate(f"The {sheet.words.noun} is {value}. {why}", a, op, b)
    unit = "" if measure.unit == "pieces" else f" {measure.unit}"
    return Draft(
        question=language.sentence_case(text.format(x=sheet.the(row), n=n)),
        answer=str(result),
        sentence=f"That is {result}{unit}." if kind == "times" else f"It is {result}{unit}.",
        alone=f"The {sheet.words.noun} of {sheet.the(row)} is {value}. {why}. {work_out(a, op, b)}. So it is {result}.",
        closing=f"That gives {result}.",
        moves=[sheet.lookup(row), move],
    )


def _three(sheet: Sheet) -> Draft:
    rows = sheet.rng.sample(sheet.rows, 3)
    x, y, z = (sheet.number(row) for row in rows)
    n = sheet.rng.randint(2, x + y + z - 2)
    first, both = _calculate(f"{sheet.says(rows[2])} Now add them up", x, "+", y)
    second, total = _calculate(f"That is {both}. Add the third number", both, "+", z)
    third, result = _calculate(f"The sum is {total}. Take {n} away", total, "-", n)
    said = " ".join(map(sheet.says, rows))
    labels = {k: sheet.the(row) for k, row in zip("xyz", rows)}
    moves = sheet.lookups(rows)
    if len(moves) > 1:
        raise Unfit  # six calls: more than this split means
    return Draft(
        question=sheet.ask("three", n=n, **labels),
        answer=str(result),
        sentence=f"What remains is {result}.",
        alone=f"{said} {sum_up([x, y, z])}. {work_out(total, '-', n)}. What remains is {result}.",
        closing=f"That leaves {result}. Check: {result} + {n} = {total}.",
        moves=[*moves, first, second, third],
    )


def _extremes(sheet: Sheet) -> Draft:
    low, high = (pick(map(sheet.number, sheet.rows)) for pick in (min, max))
    n, m = sheet.rng.sample(range(2, 13), 2)
    column, noun = sheet.measure.column, sheet.words.noun
    first, top = _calculate(f"The highest is {high} and the lowest {low}. First {n} times {high}", n, "*", high)
    second, bottom = _calculate(f"That is {top}. Then {m} times {low}", m, "*", low)
    third, result = _calculate(f"That is {bottom}. Both together", top, "+", bottom)
    query = Move(
        f"I need the highest and the lowest {noun}.",
        "table",
        sheet.select(f"MAX({column}), MIN({column})"),
        f"{high}|{low}",
    )
    said = f"{sheet.read_out(sheet.rows)}. The highest is {high} and the lowest {low}."
    sums = f"{work_out(n, '*', high)}. {work_out(m, '*', low)}. {work_out(top, '+', bottom)}."
    return Draft(
        question=sheet.ask("extremes", n=n, m=m),
        answer=str(result),
        sentence=f"Together that is {result}.",
        alone=f"{said} {sums} Together that is {result}.",
        closing=f"Together that is {result}. Check: {result} - {bottom} = {top}.",
        moves=[query, first, second, third],
    )


def _weighted(sheet: Sheet) -> Draft:
    rows = sheet.rng.sample(sheet.rows, 2)
    x, y = (sheet.number(row) for row in rows)
    n, m = sheet.rng.sample(range(2, 13), 2)
    first, nx = _calculate(f"{sheet.says(rows[1])} First {n} times {x}", n, "*", x)
    second, my = _calculate(f"That is {nx}. Then {m} times {y}", m, "*", y)
    third, result = _calculate(f"That is {my}. Both together", nx, "+", my)
    sums = f"{work_out(n, '*', x)}. {work_out(m, '*', y)}. {work_out(nx, '+', my)}."
    return Draft(
        question=sheet.ask("weighted", n=n, m=m, x=sheet.the(rows[0]), y=sheet.the(rows[1])),
        answer=str(result),
        sentence=f"The sum is {result}.",
        alone=f"{' '.join(map(sheet.says, rows))} {sums} The sum is {result}.",
        closing=f"The sum is {result}. Check: {result} - {my} = {nx}.",
        moves=[*sheet.lookups(rows), first, second, third],
    )


_TRAINED: tuple[Callable[[Sheet], Draft], ...] = (
    *(_value, _count, _total, _most, _second, _average, _total_if, _group_of, _difference, _range, _groups_apart),
    _follow_up,  # last: it has no held-out phrasings
)
_LONGER: tuple[Callable[[Sheet], Draft], ...] = (_three, _weighted, _extremes)
