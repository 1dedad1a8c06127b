"""The table: right answers, and no way out of SELECT."""

from __future__ import annotations

import threading

import pytest

from abruzzi.tools import ToolError, ToolOk
from abruzzi.tools.table import MAX_CHARS, MAX_ROWS, Table, decoded

CSV = 'item,price,qty\napple,3,10\nbread,2.5,\n"olive oil",8,2\n'


@pytest.fixture
def table() -> Table:
    return Table.from_csv(CSV, "shop")


def ask(table: Table, sql: str) -> str:
    result = table.run({"sql": sql})
    assert isinstance(result, ToolOk), result.message
    return result.message


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT price FROM shop WHERE item = 'olive oil'", "8"),
        ("SELECT SUM(qty) FROM shop", "12"),
        ("SELECT AVG(price) FROM shop", "4.5"),
        ("SELECT item, qty FROM shop ORDER BY price DESC LIMIT 2", "item|qty\nolive oil|2\napple|10"),
        ("SELECT qty FROM shop WHERE item = 'bread'", "NULL"),
        ("SELECT item FROM shop WHERE price > 100", "item\n(no rows)"),
        ("SELECT COUNT(*) FROM (SELECT item FROM shop)", "3"),
        ("SELECT upper(item) || '!' FROM shop LIMIT 1;", "APPLE!"),
        ("SELECT item, RANK() OVER (ORDER BY price) FROM shop LIMIT 1", "item|RANK() OVER (ORDER BY price)\nbread|1"),
    ],
)
def test_answers(table: Table, sql: str, says: str) -> None:
    assert ask(table, sql) == says


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM shop",
        "DROP TABLE shop",
        "INSERT INTO shop VALUES (1, 2, 3)",
        "UPDATE shop SET qty = 0",
        "CREATE TABLE t (a)",
        "CREATE TEMP TABLE t (a)",
        "CREATE VIEW v AS SELECT 1",
        "PRAGMA query_only = OFF",
        "PRAGMA database_list",
        "SELECT * FROM pragma_table_info('shop')",
        "SELECT * FROM sqlite_master",
        "ATTACH '/tmp/abruzzi-attack.db' AS x",
        "VACUUM INTO '/tmp/abruzzi-attack.db'",
        "SELECT load_extension('x')",
        "SELECT readfile('/etc/passwd')",
        "SELECT writefile('/tmp/abruzzi-attack', 'x')",
        "SELECT randomblob(1000000000)",
        "SELECT zeroblob(1000000000)",
        "SELECT printf('%1000000000d', 1)",
        "SELECT hex(zeroblob(100000000))",
        "SELECT replace(item, 'a', 'b') FROM shop",
        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT COUNT(*) FROM r",
        "SELECT 1; SELECT 2",
        "BEGIN",
        "EXPLAIN SELECT * FROM shop",
        "",
        "SELECT",
        "SELECT nope FROM shop",
        "SELECT * FROM shops",
        "SELECT '" + "x" * 20_000 + "'",
        "\0SELECT 1",
    ],
)
def test_no_way_out(table: Table, sql: str) -> None:
    result = table.run({"sql": sql})
    assert isinstance(result, ToolError), result.message
    assert "Traceback" not in result.message
    assert ask(table, "SELECT COUNT(*) FROM shop") == "3"  # the next question works, nothing was changed


def test_errors_name_tables_and_columns(table: Table) -> None:
    result = table.run({"sql": "SELECT cost FROM shop"})
    assert "no such column: cost" in result.message and "shop(item, price, qty)" in result.message


def test_time_rows_and_characters_are_limited_and_said() -> None:
    big = Table.from_rows("t", ["a", "b"], [(i, "x" * 50) for i in range(400)])
    slow = big.run({"sql": "SELECT COUNT(*) FROM t a, t b, t c, t d WHERE a.a + b.a + c.a + d.a < 0"})
    assert isinstance(slow, ToolError) and "took longer" in slow.message
    shown = ask(big, "SELECT a FROM t")
    assert shown.splitlines()[MAX_ROWS] == str(MAX_ROWS - 1) and f"only the first {MAX_ROWS} rows" in shown
    wide = ask(big, "SELECT b, b, b, b FROM t")
    assert len(wide) < MAX_CHARS + 100 and f"cut after {MAX_CHARS} characters" in wide
    assert ask(big, "SELECT COUNT(*) FROM t") == "400"


def test_it_may_be_used_from_another_thread(table: Table) -> None:
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(ask(table, "SELECT SUM(qty) FROM shop")))
    thread.start()
    thread.join()
    assert said == ["12"]


@pytest.mark.parametrize(
    ("csv", "says"),
    [("", "empty"), ("a,b\n1\n", "line 2 has 1 values; expected 2"), ("a,A\n1,2\n", "different names")],
)
def test_bad_csv_is_named(csv: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Table.from_csv(csv)


def test_columns_become_numbers_only_when_all_of_them_are() -> None:
    table = Table.from_csv("\ufeffno 1,x\n007,1e3\n12,2\nabc,\n", "2nd file")
    assert table.describe() == "_2nd_file(no_1, x)"
    assert ask(table, "SELECT typeof(no_1), typeof(x) FROM _2nd_file LIMIT 1").endswith("text|real")


ROWS = 'name,city,n\nZoë,München,1\nÅsa,"Malmö, Lund",22\n'


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_csv_is_read_in_whatever_encoding_a_spreadsheet_writes(encoding: str, end: str) -> None:
    text = decoded(ROWS.replace("\n", end).encode(encoding), "people.csv")
    table = Table.from_csv(text)
    assert table.run({"sql": "SELECT city FROM data WHERE name = 'Åsa'"}).message == "Malmö, Lund"
    assert table.run({"sql": "SELECT sum(n) FROM data"}).message == "23"


@pytest.mark.parametrize(
    ("text", "columns", "value"),
    [
        ("a;b\n1;2,5\n3;4,5\n", ("a", "b"), "2,5"),
        ("a\tb\n1\tx, y\n", ("a", "b"), "x, y"),
        ("a|b\n1|2\n", ("a", "b"), "2"),
        ('a;b\n1;"two\nlines; and more"\n', ("a", "b"), "two\nlines; and more"),
        ('"a";"b"\n"1";"x""y"\n', ("a", "b"), 'x"y'),
        ("a,b\n1,x;y\n2,z;w\n", ("a", "b"), "x;y"),
        ("b\nx;y\n", ("b",), "x;y"),
    ],
)
def test_the_delimiter_splits_every_record_alike(text: str, columns: tuple[str, ...], value: str) -> None:
    table = Table.from_csv(text)
    assert table.schema["data"] == columns
    assert table.run({"sql": "SELECT b FROM data LIMIT 1"}).message == value


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\xff\xfea\x00,", "no text in utf-16"),
        (b"PK\x03\x04\x00\x00a,b\n1,2\n", "zero bytes"),
    ],
)
def test_what_is_no_text_is_named_with_its_file(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=rf"^t\.csv.*{says}.*hint: "):
        decoded(data, "t.csv")


def test_a_ragged_table_of_another_delimiter_is_ragged_all_the_same() -> None:
    with pytest.raises(ValueError, match="CSV line 3 has 3 values; expected 2"):
        Table.from_csv("a;b\n1;2\n1;2;3\n")
