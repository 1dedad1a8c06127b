"""schemathesis against the server over a real socket: what /openapi.json allows and what it
forbids, at every route. No 5xx, no hang, what the document forbids is refused, answers are as it
says; afterwards nothing is left running."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import GenerationConfig, SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from abruzzi.engine.sequence import Sequence
from abruzzi.server.app import make_app
from abruzzi.server.engine_thread import EngineThread
from abruzzi.server.memory.seal import Seal
from abruzzi.server.memory.store import ReasoningStore
from abruzzi.server.openapi import document
from abruzzi.server.service import Service, Settings
from tests.unit.server.scripted_engine import ScriptedLLM, ids, saying

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]


ENDS = [i for text in ("[end]", "}", "]", '"', "0") for i in ids(text)]  # what closes an answer soonest


class Obedient(ScriptedLLM):
    """Says its script, and where a grammar forbids that, what ends the answer soonest."""

    def _token(self, sequence: Sequence) -> None:
        allowed = sequence.constraint.allowed() if sequence.constraint is not None else None
        if isinstance(allowed, np.ndarray):
            token_id = next(self.live[sequence], ENDS[0])
            if not allowed[token_id]:
                token_id = next((i for i in ENDS if allowed[i]), int(np.flatnonzero(allowed)[0]))
            self.live[sequence] = chain([token_id], self.live[sequence])
        super()._token(sequence)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Service, str]]:
    said = ("<think>a</think>b[end]", "<think>well</think>Mia has 42.[end]")
    llm: Any = Obedient(lambda _, number: said[min(number, 1)])
    engine = EngineThread(llm)
    service = Service(engine, ReasoningStore(), Seal(b"k" * 32), Settings(names=("tiny",), body_seconds=2.0))
    engine.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(make_app(service), log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield service, f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=10)
    engine.stop()


def schema(url: str, *modes: GenerationMode) -> Any:
    config = SchemathesisConfig()
    config.projects.default.generation = GenerationConfig(modes=list(modes))
    return schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)


LLM: Any = saying("x[end]")
DOCUMENT = document(Service(EngineThread(LLM), ReasoningStore(), Seal(b"k" * 32), Settings(names=("tiny",))))
OPERATIONS = [(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods]


@pytest.mark.parametrize("examples", [12, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        pytest.param(method, path, mode, id=f"{method}-{path}-{mode.value}")
        for method, path in OPERATIONS
        for mode in GenerationMode
        # A GET has nothing to get wrong: any text may be a model's name.
        if not (mode is GenerationMode.NEGATIVE and method == "get")
    ],
)
def test_every_operation(
    served: tuple[Service, str], method: str, path: str, mode: GenerationMode, examples: int
) -> None:
    service, url = served
    cases = schema(url, mode)[path][method].as_strategy(generation_mode=mode)
    statuses: set[int] = set()

    @settings(
        max_examples=examples if method == "post" else 3,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
    )
    @given(cases)
    def ask(case: Any) -> None:
        if mode is GenerationMode.POSITIVE:
            case.body = whole_numbers(case.body)
        started = time.perf_counter()
        response = case.call(timeout=20)
        assert time.perf_counter() - started < 10
        statuses.add(response.status_code)
        case.validate_response(response, checks=CHECKS)

    ask()
    assert mode is GenerationMode.POSITIVE or all(400 <= status < 500 for status in statuses), statuses
    if mode is GenerationMode.POSITIVE and examples >= 50 and "control" not in path:
        assert 200 in statuses  # the document allows what works, and not only what is refused
    idle(service)


def whole_numbers(value: Any) -> Any:
    """5.0 is an integer to JSON Schema; this server takes only 5."""
    if isinstance(value, dict):
        return {k: whole_numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [whole_numbers(v) for v in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def idle(service: Service) -> None:
    """Nothing runs, waits or is remembered of what was asked."""
    llm: Any = service.llm
    deadline = time.monotonic() + 5
    while (service.engine.open or service.running or llm.live) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not service.engine.open and not service.running and not llm.live


def test_the_document_names_every_route_of_the_server(served: tuple[Service, str]) -> None:
    service, _ = served
    app: Any = make_app(service)
    routes = {(m.lower(), r.path.replace(":path", "")) for r in app._app.routes for m in r.methods if m != "HEAD"}
    assert routes == set(OPERATIONS)


def test_no_handle_stays_open(served: tuple[Service, str]) -> None:
    """After all that was sent above, connections that are closed are closed here as well."""
    _, url = served
    before = len(os.listdir("/proc/self/fd"))
    for case_path in ("/health", "/v1/models"):
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1]))) as connection:
                connection.sendall(f"GET {case_path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
                assert b"200 OK" in connection.recv(4096)
    deadline = time.monotonic() + 5
    while len(os.listdir("/proc/self/fd")) > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(os.listdir("/proc/self/fd")) <= before
