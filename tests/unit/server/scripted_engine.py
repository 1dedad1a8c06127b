"""An engine that says what it is told to, and a server around it (or around a real one), in
process."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeVar

import anthropic
import httpx2
import numpy as np
import openai

from abruzzi.engine.constraint import Constraint
from abruzzi.engine.scheduler import Occupancy
from abruzzi.engine.sequence import Sequence, Token
from abruzzi.server.app import make_app
from abruzzi.server.engine_thread import EngineThread
from abruzzi.server.memory.seal import Seal
from abruzzi.server.memory.store import ReasoningStore
from abruzzi.server.service import Service, Settings
from abruzzi.tokenizer import Tokenizer
from abruzzi.types import SamplingParams
from tests import tiny

T = TypeVar("T")
TOK = tiny.vocabulary()
CONTROL = {
    "[call]": "<|tool_call_begin|>",
    "[args]": "<|tool_call_argument_begin|>",
    "[/call]": "<|tool_call_end|>",
    "[calls]": "<|tool_calls_section_begin|>",
    "[/calls]": "<|tool_calls_section_end|>",
    "[end]": "<|im_end|>",
}
KEY = bytes(range(32))
CALCULATOR: Any = {
    "type": "function",
    "function": {
        "name": "calc",
        "description": "Computes.",
        "parameters": {"type": "object", "properties": {"e": {"type": "string"}}, "required": ["e"]},
    },
}


def ids(text: str) -> list[int]:
    """Ids of a message as a model writes it: <think>...</think>text[calls]...[/calls][end], and see
    `call`."""
    for short, name in CONTROL.items():
        text = text.replace(short, name)
    return TOK.encode(text, allow_special=True)


def spelled(text: str) -> list[int]:
    """The same message, sampled letter by letter: ids that no tokenizer would make of its text."""
    out: list[int] = []
    for token_id in ids(text):
        piece = TOK.token_bytes(token_id)
        plain = token_id not in TOK.control_ids and len(piece) > 1 and piece.isascii()
        out += [i for c in piece.decode() for i in TOK.encode(c)] if plain else [token_id]
    return out


def call(name: str, arguments: str, index: int = 0) -> str:
    return f"[call]functions.{name}:{index}[args]{arguments}[/call]"


class ScriptedLLM:
    """script: (prompt ids, number of the submission) -> ids, or text for `ids`. per_step: tokens
    per delivery."""

    def __init__(
        self,
        script: Callable[[list[int], int], str | list[int]],
        tok: Tokenizer = TOK,
        max_context: int = 4096,
        per_step: Callable[[], int] = lambda: 1,
    ) -> None:
        self.tokenizer, self.name, self.max_context, self.thinking = tok, "scripted", max_context, True
        self.vocab_size = tok.vocab_size
        self.submitted: list[Sequence] = []
        self.prompts: list[list[int]] = []
        self.gate = threading.Event()  # no steps while it is clear
        self.gate.set()
        self.live: dict[Sequence, Iterator[int]] = {}
        self._script, self._per_step = script, per_step

    def logits(self, ids_: Iterable[int]) -> np.ndarray:
        """Every token equally likely, wherever a prompt is scored."""
        return np.zeros((len(list(ids_)), self.vocab_size), np.float32)

    def occupancy(self) -> Occupancy:
        return Occupancy(waiting=0, running=len(self.live), blocks_held=len(self.live), blocks=1000)

    def submit(
        self, ids_: Iterable[int], params: SamplingParams | None = None, constraint: Constraint | None = None
    ) -> Sequence:
        params, prompt = params or SamplingParams(), list(ids_)
        room = self.max_context - len(prompt)
        limit = room if params.max_tokens is None else min(room, params.max_tokens)
        ends = frozenset((*self.tokenizer.end_ids, *params.stop_token_ids))
        sequence = Sequence(list(prompt), len(prompt), params, 0, limit, ends, constraint, cached_tokens=0)
        said = self._script(prompt, len(self.prompts))
        self.live[sequence] = iter(ids(said) if isinstance(said, str) else said)
        self.prompts.append(prompt)
        self.submitted.append(sequence)
        return sequence

    def step(self) -> list[Sequence]:
        self.gate.wait(0.01)
        if not self.gate.is_set():
            return []
        moved = list(self.live)
        for sequence in moved:
            for _ in range(self._per_step()):
                if sequence.finish_reason is None:
                    self._token(sequence)
            if sequence.finish_reason is not None:
                del self.live[sequence]
        return moved

    def abort(self, sequence: Sequence) -> None:
        self.live.pop(sequence, None)

    def _token(self, sequence: Sequence) -> None:
        """The script's next token; one that is forced comes first. A script must keep to the
        masks."""
        forced = sequence.constraint.allowed() if sequence.constraint is not None else None
        token_id = next(self.live[sequence], next(iter(ids("[end]"))))
        if isinstance(forced, int):
            if token_id != forced:
                self.live[sequence] = chain([token_id], self.live[sequence])
            sequence.append(Token(forced, -9.0, sampled=False))
        else:
            top = ((token_id, -0.5), (TOK.encode("z")[0], -3.0), (TOK.encode("y")[0], -4.0))
            sequence.append(Token(token_id, -0.5, top=top[: sequence.params.top_logprobs]))


class Served:
    """A server in process: the service, the app, and clients of it."""

    def __init__(self, service: Service, app: Any) -> None:
        self.service, self.app = service, app
        self.llm: Any = service.engine.llm

    def http(self, **headers: str) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(app=self.app)
        return httpx2.AsyncClient(transport=transport, base_url="http://localhost", headers=headers, timeout=20)

    def openai(self, key: str = "key-one") -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url="http://localhost/v1", api_key=key, http_client=self.http(), max_retries=0)

    def anthropic(self, key: str = "key-one") -> anthropic.AsyncAnthropic:
        return anthropic.AsyncAnthropic(
            base_url="http://localhost", api_key=key, http_client=self.http(), max_retries=0
        )

    def post(self, path: str, body: Any, **headers: str) -> httpx2.Response:
        return self.do(lambda: self.http(**headers).post(path, json=body))

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return self.do(lambda: self.http(**headers).get(path))

    def do(self, work: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await asyncio.wait_for(work(), 20)

        return asyncio.run(run())


@contextmanager
def serving(llm: Any, store: ReasoningStore | None = None, **options: Any) -> Iterator[Served]:
    """Options: Settings' fields, and those of EngineThread and make_app."""
    thread = EngineThread(llm, options.pop("max_sequences", 512))
    app_options = {k: options.pop(k) for k in ("host", "api_key", "hosts") if k in options}
    service = Service(thread, store or ReasoningStore(), Seal(KEY), Settings(names=("tiny",), isa="avx2", **options))
    thread.start()
    try:
        yield Served(service, make_app(service, **app_options))
    finally:
        thread.stop()


def saying(*texts: str | list[int], **options: Any) -> ScriptedLLM:
    """One message per submission; the last one again and again."""
    return ScriptedLLM(lambda _, number: texts[min(number, len(texts) - 1)], **options)


def chunks(response: httpx2.Response) -> list[dict[str, Any]]:
    """The JSON of a stream's events; [DONE] must be there and is dropped."""
    data = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]", response.text[-300:]
    return [json.loads(d) for d in data[:-1]]
