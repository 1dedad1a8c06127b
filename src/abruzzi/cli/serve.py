"""`abruzzi serve`: the HTTP server on this machine, or behind a key on others."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import typer

from abruzzi.cli.choose import PRECISION, WEIGHTS
from abruzzi.cli.exit_codes import INTERRUPTED, OK

if TYPE_CHECKING:
    from abruzzi.server.page.routes import Page
    from abruzzi.server.service import Service

SERVE_HELP = """Serve a model over HTTP in OpenAI's and Anthropic's dialects, and a page at / to watch it think.

It listens on this machine only; --host elsewhere needs --api-key. Sampled turns are kept under
$ABRUZZI_HOME (~/.abruzzi), so that a client that drops the thinking between two tool calls gets it back.

Example: abruzzi serve --model nano --port 8420
"""
PORTS_TRIED = 20


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("serve", help=SERVE_HELP)(serve)


def serve(
    model: str = typer.Option("nano", "--model", help="`nano`, a directory in Hugging Face layout, or org/name."),
    host: str = typer.Option("127.0.0.1", "--host", help="Where to listen; elsewhere than here needs --api-key."),
    port: int = typer.Option(None, "--port", min=0, max=65535, help="8420, or the next free one; 0 = any."),
    api_key: str = typer.Option(None, "--api-key", help="What clients must send (else ABRUZZI_API_KEY)."),
    served_model_name: list[str] = typer.Option(None, "--served-model-name", help="The name(s) of the model."),
    allowed_host: list[str] = typer.Option(None, "--allowed-host", help="A further name of this server (Host header)."),
    temperature: float = typer.Option(1.0, "--temperature", min=0.0, max=2.0, help="For requests that name none."),
    no_think: bool = typer.Option(False, "--no-think", help="No thinking, unless a request asks for it."),
    weights: str = WEIGHTS,
    precision: str = PRECISION,
    strict_reasoning: bool = typer.Option(
        False, "--strict-reasoning", help="Refuse a history whose thinking was dropped and is not known here."
    ),
    reasoning_field: str = typer.Option(
        "both", "--reasoning-field", help="Send thinking as reasoning_content, reasoning, or both."
    ),
    unconstrained: bool = typer.Option(
        False, "--unconstrained", help="Calls as the model writes them, unless a request demands a form."
    ),
    lenient_fields: bool = typer.Option(
        False, "--lenient-fields", help="Drop fields that are not known here, and name them in X-Abruzzi-Dropped."
    ),
    ignore_hosted_tools: bool = typer.Option(
        False, "--ignore-hosted-tools", help="Leave out tools that only their vendor can run (web_search)."
    ),
    max_sequences: int = typer.Option(512, "--max-queue", min=1, help="Generations that may run or wait; then 429."),
    max_turns: int = typer.Option(20_000, "--max-turns", min=1, help="Sampled turns to remember."),
    usd_per_hour: float = typer.Option(
        None, "--usd-per-hour", min=0.0, help="What this machine costs: the page then prices each turn's time."
    ),
    grace: float = typer.Option(30.0, "--grace", min=0.0, help="Seconds for running requests at shutdown."),
) -> int:
    from abruzzi.cli.choose import is_url
    from abruzzi.server.guard import require_key_off_loopback

    key = api_key or os.environ.get("ABRUZZI_API_KEY") or None
    require_key_off_loopback(host, key)
    if is_url(model):
        raise ValueError(f"--model {model} is an endpoint already; hint: serve a checkpoint, or use that URL itself")
    listener = _listen(host, port)
    with closing(listener):
        service = _service(
            model,
            thinking=not no_think,
            weights=weights,
            precision=precision,
            max_sequences=max_sequences,
            max_turns=max_turns,
            names=tuple(served_model_name or ()),
            temperature=temperature,
            strict_reasoning=strict_reasoning,
            reasoning_field=reasoning_field,
            constrained=not unconstrained,
            lenient_fields=lenient_fields,
            ignore_hosted_tools=ignore_hosted_tools,
        )
        return _run(service, _page(service, model, usd_per_hour), listener, host, key, tuple(allowed_host or ()), grace)


def _page(service: Service, model: str, usd_per_hour: float | None) -> Page:
    """The page at /, with the built-in tools that are safe to serve."""
    from abruzzi.server.page.routes import Page, PageSettings
    from abruzzi.tools.registry import tools_to_serve

    tools = tuple(tools_to_serve()) if service.tok.format.calls else ()
    if model != "nano":
        return Page(service, tools, PageSettings(usd_per_hour=usd_per_hour))
    from abruzzi.tasks import examples

    questions = tuple(task.prompt for task in examples() if task.family == "word_problems")
    note = "nano is very small: it does multi-step word problems like these, and little else."
    return Page(service, tools, PageSettings(questions, note, usd_per_hour=usd_per_hour))


def _service(
    model: str,
    thinking: bool,
    weights: str,
    precision: str,
    max_sequences: int,
    max_turns: int,
    names: tuple[str, ...],
    **settings: Any,
) -> Service:
    """Everything behind the routes, put together."""
    from abruzzi import kernels
    from abruzzi.cli.choose import choose
    from abruzzi.engine.llm import LLM
    from abruzzi.home import home_folder
    from abruzzi.server.engine_thread import EngineThread
    from abruzzi.server.memory.seal import Seal
    from abruzzi.server.memory.store import ReasoningStore
    from abruzzi.server.service import Service, Settings

    chosen = choose(model, thinking=thinking, weights=weights, precision=precision)
    assert isinstance(chosen.model, LLM)
    home = home_folder() / "server"
    # An option that is wrong is known before anything is made on disk.
    wanted = Settings(names=names or (chosen.name,), isa=kernels.isa(), **settings)
    seal = Seal.from_file(home / "key")
    store = ReasoningStore(home / "turns.sqlite", max_turns)
    return Service(EngineThread(chosen.model, max_sequences), store, seal, wanted)


def _listen(host: str, port: int | None) -> socket.socket:
    """A listening socket. No port given: 8420 or the next free one. Raises OSError with a hint."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    wanted = range(8420, 8420 + PORTS_TRIED) if port is None else (port,)
    error: OSError | None = None
    for number in wanted:
        # Named, because asyncio switches Nagle's algorithm off (40 ms a request otherwise) only for
        # what says TCP.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host.strip("[]"), number))
            listener.listen(512)
            return listener
        except OSError as failed:
            listener.close()
            error = failed
    what = f"port {port}" if port is not None else f"none of the ports {wanted[0]} to {wanted[-1]}"
    raise OSError(f"cannot listen on {host}, {what}: {error}; hint: --port 0 takes any free one")


def _run(
    service: Service,
    page: Page,
    listener: socket.socket,
    host: str,
    key: str | None,
    allowed: tuple[str, ...],
    grace: float,
) -> int:
    """Serve until a signal; the exit code. The first one lets running requests finish within
    `grace` seconds, then they are told that the server shuts down; a second one ends at once."""
    import uvicorn

    from abruzzi.server.app import make_app
    from abruzzi.server.connection import Connection
    from abruzzi.server.errors import ApiError

    engine = service.engine
    shutting_down = ApiError(503, "the server is shutting down", code="shutting_down", retry_after=5)

    class Server(uvicorn.Server):
        """uvicorn that tells the engine of a shutdown."""

        interrupted = False

        def handle_exit(self, sig: int, frame: Any) -> None:
            if engine.open and not engine.closing:
                print(f"abruzzi: {engine.open} generations run; up to {grace:g} s for them", file=sys.stderr)
            engine.refuse(shutting_down)
            timer = threading.Timer(grace, lambda: engine.refuse(shutting_down, running=True))
            timer.daemon = True
            timer.start()
            # Not uvicorn's own, which raises the signal again at the end: to be told to stop is no
            # error.
            self.force_exit, self.should_exit = self.should_exit, True
            self.interrupted = sig == signal.SIGINT

    config = uvicorn.Config(
        make_app(service, host, key, allowed, page.routes(), page.open_paths()),
        http=Connection,
        ws="none",
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=int(grace) + 5,
        h11_max_incomplete_event_size=64 * 1024,
    )
    engine.start()
    try:
        shown = f"[{host}]" if ":" in host else host
        print(f"abruzzi serves {service.settings.names[0]} at http://{shown}:{listener.getsockname()[1]}", flush=True)
        server = Server(config)
        server.run(sockets=[listener])
        return INTERRUPTED if server.interrupted else OK
    finally:
        engine.stop()
        service.store.close()
