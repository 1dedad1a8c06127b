"""The scripted model behind a real socket, and a log of what each client asked and got."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from abruzzi.server.app import make_app
from abruzzi.server.engine_thread import EngineThread
from abruzzi.server.memory.seal import Seal
from abruzzi.server.memory.store import ReasoningStore
from abruzzi.server.service import Service, Settings
from tests.unit.server.scripted_engine import KEY, TOK, ScriptedLLM

DIALECTS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
STATES = b"x-abruzzi-reasoning"


@dataclass(slots=True)
class Asked:
    """One request: its JSON, the status of the answer, what the answer said of the history's
    thoughts."""

    path: str
    body: dict[str, Any]
    status: int = 0
    states: str | None = None
    error: str = ""


@dataclass(slots=True)
class Log:
    """url: without /v1. prompts: the ids of every prompt that reached the model."""

    url: str
    llm: ScriptedLLM
    asked: list[Asked] = field(default_factory=list)

    @property
    def prompts(self) -> list[list[int]]:
        return self.llm.prompts

    def generations(self) -> list[Asked]:
        """The requests that are generations, refused ones among them."""
        return [a for a in self.asked if a.path in DIALECTS]


def step_of(prompt: list[int]) -> int:
    """Which step of the conversation a prompt asks for: a function of the prompt, so that a client
    may retry."""
    return prompt.count(TOK.control["<|im_assistant|>"]) - 1


@contextmanager
def serving(turn: Callable[[list[int]], list[int]], context: int = 200_000, **settings: Any) -> Iterator[Log]:
    """A server whose model says `turn(prompt)`. settings: those of Settings."""
    deliveries = iter(range(10**9))
    llm = ScriptedLLM(
        lambda prompt, _: turn(prompt), max_context=context, per_step=lambda: (1, 3, 2, 40)[next(deliveries) % 4]
    )
    engine = EngineThread(llm, 64)
    service = Service(engine, ReasoningStore(), Seal(KEY), Settings(names=("tiny",), isa="scripted", **settings))
    listener = socket.create_server(("127.0.0.1", 0))
    log = Log(f"http://127.0.0.1:{listener.getsockname()[1]}", llm)
    app = _logged(make_app(service), log)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    engine.start()
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield log
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        engine.stop()
        listener.close()


def _logged(app: Any, log: Log) -> Any:
    """The app, with its requests written down."""

    async def logged(scope: Any, receive: Any, send: Any) -> None:
        asked, body, said = Asked(scope["path"], {}), bytearray(), bytearray()

        async def heard() -> Any:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def saying(message: Any) -> None:
            if message["type"] == "http.response.start":
                asked.status = message["status"]
                asked.states = dict(message["headers"]).get(STATES, b"").decode() or None
                asked.body = json.loads(body) if body[:1] == b"{" else {}
                log.asked.append(asked)
            elif asked.status >= 400:
                said.extend(message.get("body", b""))
                asked.error = said.decode("utf-8", "replace")
            await send(message)

        await app(scope, heard, saying)

    return logged
