"""What a model may call. One tool a file: a schema, limits and a run."""

from __future__ import annotations

from abruzzi.tools.tool import Tool, ToolError, ToolOk, call_tool

__all__ = ["Tool", "ToolError", "ToolOk", "call_tool"]
