"""HTTP/1.1 connections (uvicorn's, over h11) with timeouts against slow clients (slowloris).

uvicorn waits for ever for the head of a request that does not come: some hundred silent
connections, or such as send a byte a minute, and nobody else gets in. Here a head must be there
HEAD_SECONDS after the connection or after its own first byte. (How long a body may take is
body.py's; between requests uvicorn's keep-alive counts.) And a client that takes nothing of an
answer for STALL_SECONDS, though some of it waits, has left without saying so.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0
STALL_SECONDS = 60.0


class Connection(H11Protocol):
    """One connection. Give it to uvicorn.Config as `http`."""

    _deadline: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget()
        self._flows()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_again()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._flows()

    def _watch(self) -> None:
        """Start the clock where a head is awaited, stop it where one has come."""
        if self.conn.their_state is not h11.IDLE:
            self._forget()
        elif self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def _give_up(self) -> None:
        self._deadline = None
        if self.conn.their_state is h11.IDLE:
            self.transport.close()

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _look_again(self) -> None:
        """Look again in STALL_SECONDS whether less is waiting than now."""
        self._stall = self.loop.call_later(STALL_SECONDS, self._stalled, self.transport.get_write_buffer_size())

    def _stalled(self, waited: int) -> None:
        if self.transport.get_write_buffer_size() < waited:
            self._look_again()
        else:
            self.transport.abort()  # close() would wait until all is sent

    def _flows(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None
