"""Configuration of other people's clients (coding agents, chat programs) for a running server.

    made = connection("codex", Server("http://127.0.0.1:8420", "nano", 4096, None), Places.of_machine())
    made.files[0].path                  # ~/.codex/config.toml
    write(made, home)                   # merged into what is there; a journal remembers it
    undo("codex", home)                 # takes exactly that back

clients.py says what each client reads, document.py edits a file of each format, journal.py writes
and takes back.
"""

from abruzzi.connect.clients import CLIENTS, connection, require
from abruzzi.connect.connection import Connection, File, Places, Secret
from abruzzi.connect.journal import Change, undo, write
from abruzzi.connect.server import Server, ask

__all__ = [
    "CLIENTS",
    "Change",
    "Connection",
    "File",
    "Places",
    "Secret",
    "Server",
    "ask",
    "connection",
    "require",
    "undo",
    "write",
]
