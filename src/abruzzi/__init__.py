"""abruzzi: the route to a reasoning agent that you own.

Importing this package is cheap on purpose: it pulls in neither numpy nor torch. Rooms are imported
when they are asked for.
"""

__version__ = "0.1.0.dev0"
