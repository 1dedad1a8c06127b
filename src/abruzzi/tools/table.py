"""The tool `table`: SQL queries on small tables. SQLite in memory, read-only from the moment it is
filled.

The authorizer lets SELECT, reads of these tables and a list of harmless functions pass and refuses
the rest: no ATTACH, PRAGMA, extension, write, recursion. Time, rows, and characters are limited,
and a cut is always said.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
import re
import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any

from abruzzi.tools.tool import ToolError, ToolOk, error
from abruzzi.types import ToolSpec

MAX_ROWS = 50
MAX_CHARS = 4_000
MAX_SECONDS = 2.0
MAX_VALUE = 100_000  # bytes of one string or blob that a query may make
FUNCTIONS = frozenset(
    [
        *("abs", "avg", "coalesce", "count", "group_concat", "ifnull", "iif", "instr", "length", "like", "lower"),
        *("max", "min", "nullif", "round", "substr", "substring", "sum", "total", "trim", "ltrim", "rtrim", "upper"),
        *("typeof", "date", "time", "datetime", "julianday", "strftime", "sign", "floor", "ceil", "ceiling", "mod"),
        *("sqrt", "power", "pow", "row_number", "rank", "dense_rank", "lag", "lead", "first_value", "last_value"),
    ]
)
_NAME = re.compile(r"[A-Za-z_]\w*")
_SELECT = re.compile(r"\s*(select|with|values)\b", re.IGNORECASE)
Value = str | int | float | None


class Table:
    """The tool `table` over one or more tables. Close it, or let it go."""

    def __init__(self, tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Value]]]]) -> None:
        """tables: name -> (column names, rows). Raises ValueError for odd names and ragged rows."""
        # The agent may run tools in another thread than the one that built them; calls never
        # overlap.
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self.schema = {name: tuple(columns) for name, (columns, _) in tables.items()}
        for name, (columns, rows) in tables.items():
            self._fill(name, columns, rows)
        self._db.commit()
        self._db.execute("PRAGMA query_only = ON")
        self._db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
        self._db.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 10_000)
        self._db.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, 100)
        self._db.setlimit(sqlite3.SQLITE_LIMIT_COMPOUND_SELECT, 10)
        self._db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
        self._db.set_authorizer(self._authorize)
        self.spec = ToolSpec(
            "table",
            f"Query with SQL (SELECT only): {self.describe()}.",
            {
                "type": "object",
                "properties": {"sql": {"type": "string"}},
                "required": ["sql"],
                "additionalProperties": False,
            },
        )

    @classmethod
    def from_rows(cls, name: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> Table:
        """One table."""
        return cls({name: (columns, rows)})

    @classmethod
    def from_csv(cls, text: str, name: str = "data") -> Table:
        """One table from CSV with a header line; columns of numbers become numbers.

        Raises ValueError with the line number for an empty or ragged file."""
        text = text.removeprefix("\ufeff")
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
        try:
            lines = [line for line in reader if line]
        except csv.Error as problem:
            raise ValueError(f"CSV line {reader.line_num}: {problem}; hint: is it a table of text?") from problem
        if not lines:
            raise ValueError("the CSV is empty; expected a header line with column names")
        columns = [_column(c, i) for i, c in enumerate(lines[0])]
        for number, line in enumerate(lines[1:], 2):
            if len(line) != len(columns):
                raise ValueError(f"CSV line {number} has {len(line)} values; expected {len(columns)} as in the header")
        converted = [_typed(list(column)) for column in zip(*lines[1:])]
        rows = list(zip(*converted)) if converted else []
        return cls({_column(name, 0): (columns, rows)})

    def describe(self) -> str:
        """`name(column, column)` for every table."""
        return ", ".join(f"{name}({', '.join(columns)})" for name, columns in self.schema.items())

    def run(self, arguments: Mapping[str, Any]) -> ToolOk | ToolError:
        """The value of a one-by-one result, else a header line and one line per row."""
        if not _SELECT.match(arguments["sql"]):
            return error(f"write one SELECT. Tables: {self.describe()}")
        deadline = time.monotonic() + MAX_SECONDS
        self._db.set_progress_handler(lambda: time.monotonic() > deadline, 1000)
        cursor = self._db.cursor()
        try:
            cursor.execute(arguments["sql"])
            if cursor.description is None:
                return error(f"the query gives no rows; write one SELECT. Tables: {self.describe()}")
            rows = cursor.fetchmany(MAX_ROWS + 1)
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError) as problem:
            return error(self._explain(problem, deadline))
        finally:
            cursor.close()
            self._db.set_progress_handler(None, 0)
        return _shown([d[0] for d in cursor.description], rows)

    def close(self) -> None:
        """Free the memory."""
        self._db.close()

    def _fill(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        for word in (name, *columns):
            if not _NAME.fullmatch(word):
                raise ValueError(f"{word!r} is not a usable name; expected letters, digits and underscores")
        if not columns or len({c.lower() for c in columns}) != len(columns):
            raise ValueError(f"table {name!r} needs columns with different names, got {list(columns)}")
        quoted = ", ".join(f'"{c}"' for c in columns)
        self._db.execute(f'CREATE TABLE "{name}" ({quoted})')
        for row in rows:
            if len(row) != len(columns):
                raise ValueError(f"table {name!r}: a row has {len(row)} values; expected {len(columns)}")
        self._db.executemany(f'INSERT INTO "{name}" VALUES ({", ".join("?" * len(columns))})', rows)

    def _authorize(self, action: int, first: str | None, second: str | None, *_: object) -> int:
        known = {name.lower() for name in self.schema}
        if action == sqlite3.SQLITE_SELECT:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ and (first or "").lower() in known:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ and first == "":
            return sqlite3.SQLITE_OK  # a table of no columns: SELECT count(*) FROM a subquery
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in FUNCTIONS:
            return sqlite3.SQLITE_OK
        return sqlite3.SQLITE_DENY

    def _explain(self, problem: Exception, deadline: float) -> str:
        text = str(problem)
        if "interrupted" in text or time.monotonic() > deadline:
            return f"the query took longer than {MAX_SECONDS:g} seconds; ask something simpler"
        if "one statement" in text:
            return "write one statement only"
        if "not authorized" in text or "prohibited" in text or "readonly" in text:
            return f"only SELECT on these tables is allowed: {self.describe()}"
        return f"{text}. Tables: {self.describe()}"


def decoded(data: bytes, where: str) -> str:
    """The text of a CSV file: UTF-8, or UTF-16 and UTF-32 by their mark, else what Western Excel
    writes (cp1252).

    Raises ValueError for bytes that are no text."""
    marked = (encoding for mark, encoding in _MARKS if data.startswith(mark))
    encoding = next(marked, None) or _encoding_without_mark(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{where} is no text in {encoding}: {error.reason} at byte {error.start}; hint: save it as CSV in UTF-8"
        ) from error
    if "\0" in text:
        raise ValueError(f"{where} holds zero bytes, so it is no text; hint: save it as CSV in UTF-8")
    return text


_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's mark does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def _encoding_without_mark(data: bytes) -> str:
    even, odd = data[:4000:2].count(0), data[1:4000:2].count(0)
    if max(even, odd) * 4 > len(data[:4000]):  # every other byte is zero: UTF-16 of Latin letters
        return "utf-16-le" if odd > even else "utf-16-be"
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        # cp1252 leaves five bytes out, which Latin-1 takes for control characters.
        return "latin-1" if any(byte in data for byte in b"\x81\x8d\x8f\x90\x9d") else "cp1252"
    return "utf-8"


def _delimiter(text: str) -> str:
    """Comma, semicolon, tab or bar: whichever splits the first records into equally many fields,
    the most of them; where none does, whichever splits the header. Found by reading, not by
    counting characters: a quoted one is none."""
    widths: dict[str, list[int]] = {}
    for candidate in ",;\t|":
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=candidate)
        with contextlib.suppress(csv.Error):
            widths[candidate] = [len(record) for record in itertools.islice(filter(None, reader), 20)]
    even = {c: w[0] for c, w in widths.items() if len(set(w)) == 1 and w[0] > 1}
    header = {c: w[0] for c, w in widths.items() if w and w[0] > 1}
    found = even or header
    return max(found, key=found.__getitem__) if found else ","


def _shown(columns: list[str], rows: list[tuple[Value, ...]]) -> ToolOk:
    if len(rows) == 1 and len(columns) == 1:
        text = _text(rows[0][0])
        return _capped(text, f"= {text[:60]}")
    lines = ["|".join(columns), *("|".join(map(_text, row)) for row in rows[:MAX_ROWS])]
    brief = f"{min(len(rows), MAX_ROWS)} row{'' if len(rows) == 1 else 's'}"
    if not rows:
        lines.append("(no rows)")
    if len(rows) > MAX_ROWS:
        lines.append(f"(only the first {MAX_ROWS} rows are shown; add a condition or LIMIT)")
        brief = f"more than {brief}"
    return _capped("\n".join(lines), brief)


def _capped(text: str, brief: str) -> ToolOk:
    if len(text) > MAX_CHARS:
        text = text[:MAX_CHARS] + f"\n(cut after {MAX_CHARS} characters)"
    return ToolOk(text, brief)


def _text(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.10g}"
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def _column(text: str, index: int) -> str:
    name = re.sub(r"\W+", "_", text.strip()).strip("_")
    if not name:
        return f"column_{index + 1}"
    return name if not name[0].isdigit() else f"_{name}"


def _typed(values: list[str]) -> list[Value]:
    """All values of a column as integers or as floats where every one is; blank is NULL."""
    filled = [v.strip() for v in values]
    for kind, pattern in ((int, r"[-+]?\d{1,18}"), (float, r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d{1,3})?")):
        if any(filled) and all(not v or re.fullmatch(pattern, v) for v in filled):
            return [kind(v) if v else None for v in filled]
    return [v if v.strip() else None for v in values]
