"""Attention, one kind a file."""
