"""Countdown and logic puzzles, each proven to have its answer."""
