"""The composition root: chooses, builds and calls. The only room that wires the others together."""
