"""Benchmarks of the engine: speed of its steps, estimates before loading, scores of given text."""
