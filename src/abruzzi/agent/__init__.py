"""Turns and steps: a model that thinks, calls tools, reads their results and answers."""
