"""Arithmetic step by step, and amounts that depend on one another."""
