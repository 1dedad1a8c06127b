"""Questions about a table that SQL alone answers.

    Which item is the cheapest?     SELECT item FROM stock ORDER BY price ASC LIMIT 1

Each function draws a question with its solution (draft.Draft) or raises Unfit.
"""

from __future__ import annotations

from ..numbers import plain
from ..task import Move, Unfit
from ..workings import sum_up, work_out
from .draft import Draft
from .sheet import Row, Sheet


def value(sheet: Sheet) -> Draft:
    """One row's number."""
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


def count(sheet: Sheet) -> Draft:
    """How many rows meet a condition."""
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


def total(sheet: Sheet) -> Draft:
    """The sum over a group."""
    group, rows = sheet.grouped()
    numbers = [sheet.number(row) for row in rows]
    total, where = sum(numbers), sheet.of_group(group)
    return Draft(
        question=sheet.ask("total", group=where),
        answer=str(total),
        sentence=f"The total {sheet.words.noun} of the {sheet.theme.rows} {where} is {total}.",
        alone=f"{sheet.capital(where)}: {sheet.read_out(rows)}. {sum_up(numbers)}. The total is {total}.",
        closing=f"The sum over the group {group} is {total}.",
        moves=[sum_of(sheet, group, total)],
    )


def _extreme(sheet: Sheet) -> tuple[Row, str, str, str]:
    """The row with the highest or lowest number, the word for it, SQL's order, and how the rows are
    gone through."""
    high = sheet.rng.random() < 0.6
    best, said = sheet.rows[0], [f"{sheet.label(sheet.rows[0])} {sheet.number(sheet.rows[0])}"]
    for row in sheet.rows[1:]:
        better = (sheet.number(row) > sheet.number(best)) == high
        said.append(f"{sheet.label(row)} {sheet.number(row)}{', ' + ('higher' if high else 'lower') if better else ''}")
        best = row if better else best
    order = f"ORDER BY {sheet.measure.column} {'DESC' if high else 'ASC'} LIMIT 1"
    return best, sheet.words.most if high else sheet.words.least, order, "; ".join(said)


def most(sheet: Sheet) -> Draft:
    """The row with the highest or the lowest number."""
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


def second(sheet: Sheet) -> Draft:
    """The row with the second highest number."""
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


def average(sheet: Sheet) -> Draft:
    """The mean over a group; it is whole."""
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


def total_if(sheet: Sheet) -> Draft:
    """The sum over the rows that meet a condition."""
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


def group_of(sheet: Sheet) -> Draft:
    """The group of the row with the highest or the lowest number: two queries."""
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


def sum_of(sheet: Sheet, group: str, total: int, start: str = "") -> Move:
    thought = f"{start} Add up the {sheet.words.noun} where the {sheet.theme.group} is {group}.".strip()
    sql = sheet.select(f"SUM({sheet.measure.column})", f"WHERE {sheet.theme.group} = '{group}'")
    return Move(thought, "table", sql, str(total))
