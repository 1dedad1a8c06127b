"""Agents: a model that thinks, calls tools, reads their results and answers, in turns of steps."""
