"""Constrained decoding: JSON Schemas and tool calls compiled to token masks (structured output)."""
