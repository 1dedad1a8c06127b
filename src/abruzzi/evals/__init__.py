"""Suites of verifiable tasks against any ChatModel: scores with intervals."""
