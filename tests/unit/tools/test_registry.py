"""The registry: one list of built-in tools for the command line and the page, and only safe ones
for the page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest

from abruzzi.cli.serve import _page
from abruzzi.tools import ToolOk, call_tool
from abruzzi.tools.registry import BUILT_IN, BuiltIn, Given, tools_for, tools_to_serve
from abruzzi.types import ToolCall, ToolSpec


class Clock:
    """A tool that somebody adds."""

    spec = ToolSpec("clock", "", {"type": "object", "properties": {}})

    def run(self, arguments: Mapping[str, Any]) -> ToolOk:
        return ToolOk("noon", "noon")


@pytest.fixture
def everything(tmp_path: Path) -> Given:
    table = tmp_path / "people.csv"
    table.write_text("name,age\nAda,36\n")
    return Given(table=table, files=tmp_path)


def names(tools: list[Any]) -> list[str]:
    return [tool.spec.name for tool in tools]


def test_a_tool_is_offered_when_what_it_needs_was_given(everything: Given) -> None:
    assert names(tools_for(Given())) == ["calculator"]
    assert names(tools_for(Given(table=everything.table))) == ["table", "calculator"]
    assert names(tools_for(everything)) == ["table", "files", "calculator"] == [entry.name for entry in BUILT_IN]


def test_every_built_in_tool_has_a_schema_that_is_one(everything: Given) -> None:
    for tool in tools_for(everything):
        jsonschema.Draft202012Validator.check_schema(tool.spec.parameters)
    found = call_tool(tools_for(everything), ToolCall("table", '{"sql": "SELECT age FROM people"}'))
    assert found.message == "36"


def test_a_line_in_the_registry_offers_a_tool_everywhere_that_it_may() -> None:
    safe, unsafe = BuiltIn("clock", lambda _: Clock(), safe_to_serve=True), BuiltIn("clock", lambda _: Clock())
    assert names(tools_for(Given(), [*BUILT_IN, unsafe])) == ["calculator", "clock"]
    assert names(tools_to_serve([safe, *BUILT_IN])) == ["clock", "calculator"]
    assert names(tools_to_serve([unsafe, *BUILT_IN])) == ["calculator"]


def test_the_page_offers_the_safe_ones_and_nothing_of_a_persons() -> None:
    def served(calls: bool) -> Any:
        return SimpleNamespace(tok=SimpleNamespace(format=SimpleNamespace(calls=calls)))

    page = _page(served(True), "x", None)
    assert names(list(page.tools)) == names(tools_to_serve()) == ["calculator"]
    assert {entry.name for entry in BUILT_IN if entry.safe_to_serve} == {"calculator"}  # a new one: think first
    assert _page(served(True), "nano", 2.0).tools
    assert not _page(served(False), "x", None).tools  # its chat format has no calls


def test_what_was_given_wrongly_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a directory; hint"):
        tools_for(Given(files=tmp_path / "gone"))
    with pytest.raises(FileNotFoundError):
        tools_for(Given(table=tmp_path / "gone.csv"))
