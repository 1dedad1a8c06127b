"""Tools (function calling): what a model may call. One a file, with a schema, limits and a run; see
registry.py."""

from __future__ import annotations

from abruzzi.tools.tool import Tool, ToolError, ToolOk, call_tool

__all__ = ["Tool", "ToolError", "ToolOk", "call_tool"]
