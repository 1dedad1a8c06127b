"""`abruzzi run` and `abruzzi chat`: answer a question, thinking and calling the built-in tools."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from abruzzi.agent.loop import Finish, Limits, ToolResult
from abruzzi.agent.loop import run as run_agent
from abruzzi.cli import streams
from abruzzi.cli.choose import PRECISION, WEIGHTS, Chosen, choose
from abruzzi.cli.exit_codes import ERROR, LIMIT, OK
from abruzzi.cli.terminal import Terminal
from abruzzi.tools import Tool
from abruzzi.types import Message, MessageEnd, SamplingParams

if TYPE_CHECKING:
    from abruzzi.tasks import Task

RUN_HELP = """Answer one question, thinking and calling tools on the way.

The default model, nano, ships with abruzzi. It is very small: it does multi-step word problems and
questions about a small table or folder, in the style of `abruzzi run --examples`, and little else.
For a real model give --model a checkpoint directory, or the URL of any OpenAI-compatible server.

Example: abruzzi run "Calculate 69 - 21 + 39."
"""
CHAT_HELP = """Talk to a model, turn after turn. An empty line or Ctrl-D ends it.

Example: abruzzi chat --model http://127.0.0.1:8000 --served-model my-model
"""
MODEL = typer.Option("nano", "--model", help="`nano`, a directory in Hugging Face layout, or an http(s) URL.")
SERVED = typer.Option(None, "--served-model", help="The model's name at the endpoint.")
KEY = typer.Option(None, "--api-key", help="The endpoint's key (else OPENAI_API_KEY).")
NO_THINK = typer.Option(False, "--no-think", help="Answer at once, without thinking first.")
NO_TOOLS = typer.Option(False, "--no-tools", help="No tools.")
TABLE = typer.Option(None, "--table", help="A CSV file that the model may query.")
FILES = typer.Option(None, "--files", help="A folder that the model may list, search and read.")
MAX_TOKENS = typer.Option(None, "--max-tokens", min=1, help="At most so many tokens per generation.")
BUDGET = typer.Option(None, "--thinking-budget", min=0, help="At most so many tokens of thinking per generation.")
TEMPERATURE = typer.Option(None, "--temperature", min=0.0, help="0 = always the likeliest token (nano's default).")
SEED = typer.Option(None, "--seed", help="Same seed, same answer (local models).")
STEPS = typer.Option(300, "--max-steps", min=1, help="At most so many generations.")


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("run", help=RUN_HELP)(run)
    app.command("chat", help=CHAT_HELP)(chat)


def run(
    prompt: str = typer.Argument(None, help="The question; `-` reads it from stdin."),
    model: str = MODEL,
    served_model: str = SERVED,
    api_key: str = KEY,
    no_think: bool = NO_THINK,
    no_tools: bool = NO_TOOLS,
    table: Path = TABLE,
    files: Path = FILES,
    max_tokens: int = MAX_TOKENS,
    thinking_budget: int = BUDGET,
    temperature: float = TEMPERATURE,
    seed: int = SEED,
    max_steps: int = STEPS,
    weights: str = WEIGHTS,
    precision: str = PRECISION,
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
    examples: bool = typer.Option(False, "--examples", help="Show what nano can do, and leave."),
    example: int = typer.Option(None, "--example", help="Run this one of --examples, with its table or folder."),
) -> int:
    if examples:
        return _examples()
    task = None if example is None else _example(example, prompt, table, files)
    text = _question(prompt) if task is None else task.prompt if not no_tools else task.prompt_without_tools
    chosen = choose(model, served_model, api_key, thinking=not no_think, weights=weights, precision=precision)
    params = _params(chosen, max_tokens, thinking_budget, temperature, seed)
    terminal = Terminal(quiet=as_json)
    if task is not None and not as_json:
        terminal.question(text)
    recorder = Recorder()
    with ExitStack() as open_tools:
        if no_tools:
            tools: Sequence[Tool] = []
        else:
            tools = _tools(chosen, table, files) if task is None else open_tools.enter_context(task.open_tools())
        for event in run_agent(chosen.model, [Message("user", text)], tools, params, Limits(max_steps)):
            recorder.see(event)
            if not as_json:
                terminal.show(event)
    if as_json and recorder.ends:
        print(json.dumps(recorder.as_json(chosen), ensure_ascii=False))
    elif recorder.ends:
        terminal.summary(recorder.line())
    assert recorder.finish is not None
    recorder.finish.check()
    return recorder.exit_code()


def chat(
    model: str = MODEL,
    served_model: str = SERVED,
    api_key: str = KEY,
    no_think: bool = NO_THINK,
    no_tools: bool = NO_TOOLS,
    table: Path = TABLE,
    files: Path = FILES,
    max_tokens: int = MAX_TOKENS,
    thinking_budget: int = BUDGET,
    temperature: float = TEMPERATURE,
    seed: int = SEED,
    max_steps: int = STEPS,
    weights: str = WEIGHTS,
    precision: str = PRECISION,
) -> int:
    chosen = choose(model, served_model, api_key, thinking=not no_think, weights=weights, precision=precision)
    tools = [] if no_tools else _tools(chosen, table, files)
    params = _params(chosen, max_tokens, thinking_budget, temperature, seed)
    terminal = Terminal()
    history: list[Message] = []
    while (text := _ask()) is not None:
        history.append(Message("user", text))
        recorder = Recorder()
        for event in run_agent(chosen.model, history, tools, params, Limits(max_steps)):
            recorder.see(event)
            terminal.show(event)
        assert recorder.finish is not None
        if not recorder.finish.messages:
            history.pop()  # nothing came of it: it can be asked again
        history.extend(recorder.finish.messages)
        if recorder.ends:
            terminal.summary(recorder.line())
        if recorder.finish.error is not None:
            _tell_failure(recorder.finish)
    return OK


def _tell_failure(finish: Finish) -> None:
    """A failed turn ends a conversation only where nobody sits in front of it."""
    if not sys.stdin.isatty() or not isinstance(finish.error, (ValueError, OSError)):
        finish.check()
    print(f"abruzzi: {' '.join(str(finish.error).split())}", file=sys.stderr)


class Recorder:
    """What a run gave, for the closing line and for --json."""

    def __init__(self) -> None:
        self.ends: list[MessageEnd] = []
        self.results: list[ToolResult] = []
        self.finish: Finish | None = None

    def see(self, event: object) -> None:
        if isinstance(event, MessageEnd):
            self.ends.append(event)
        elif isinstance(event, ToolResult):
            self.results.append(event)
        elif isinstance(event, Finish):
            self.finish = event

    def exit_code(self) -> int:
        assert self.finish is not None
        if self.finish.stop_reason == "error":
            return ERROR
        return OK if self.finish.stop_reason in ("answer", "no_answer") else LIMIT

    def as_json(self, chosen: Chosen) -> dict[str, Any]:
        """The shape that interface.md promises."""
        assert self.finish is not None
        last, usage = self.ends[-1], self.finish.usage
        thoughts = [e.message.reasoning_content for e in self.ends if e.message.reasoning_content]
        return {
            "answer": self.finish.answer,
            "reasoning": "\n".join(thoughts),
            "tool_calls": [
                {"id": r.call.id, "name": r.call.name, "arguments": r.call.arguments, "result": r.result.message}
                for r in self.results
            ],
            "finish_reason": last.finish_reason,
            "stop_reason": self.finish.stop_reason,
            **({} if self.finish.error is None else {"error": " ".join(str(self.finish.error).split())}),
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "completion_tokens": usage.completion_tokens,
                "reasoning_tokens": usage.reasoning_tokens,
            },
            "timings": {
                "prefill_tok_s": self.ends[0].prefill_tok_s,
                "decode_tok_s": last.decode_tok_s,
                "ttft_s": self.ends[0].ttft_s,
            },
            # A local run costs electricity, which is not measured yet: unknown is null, never 0.
            "cost_usd": None,
            "model": chosen.name,
        }

    def line(self) -> str:
        """Tokens, speed and time to the first token."""
        assert self.finish is not None
        usage, rate = self.finish.usage, self.ends[-1].decode_tok_s
        parts = [
            f"{usage.completion_tokens} tokens ({usage.reasoning_tokens} thinking)",
            f"{rate:.0f} tok/s" if rate else "",
            f"first token {self.ends[0].ttft_s * 1000:.0f} ms" if self.ends[0].ttft_s is not None else "",
        ]
        return " · ".join(p for p in parts if p)


def _tools(chosen: Chosen, table: Path | None, files: Path | None) -> list[Tool]:
    """None for a model whose chat format has no calls, unless one was asked for: then ValueError."""
    from abruzzi.tools.registry import Given, tools_for

    if chosen.no_calls:
        if table or files:
            raise ValueError(
                f"{chosen.name} cannot use --table or --files: its chat format, {chosen.no_calls}, has no calls"
            )
        print(f"({chosen.no_calls} has no tool calls: {chosen.name} answers without tools)", file=sys.stderr)
        return []
    return tools_for(Given(table, files))


def _params(
    chosen: Chosen, max_tokens: int | None, budget: int | None, temperature: float | None, seed: int | None
) -> SamplingParams:
    if temperature is None:
        temperature = 0.0 if chosen.local else 1.0
    return SamplingParams(temperature=temperature, max_tokens=max_tokens, thinking_budget=budget, seed=seed)


def _ask() -> str | None:
    if sys.stdin is None:
        raise streams.ClosedError("stdin is closed, so there is nobody to talk to; hint: abruzzi run PROMPT")
    try:
        text = input("> " if sys.stdin.isatty() else "")
    except EOFError:
        return None
    return text if text.strip() else None


def _examples() -> int:
    from abruzzi.tasks import examples

    for number, task in enumerate(examples(), 1):
        print(f"{number}. [{task.family}] {task.prompt}")
    print("\nabruzzi run --example N answers one of them, with its table or folder.")
    return OK


def _example(number: int, prompt: str | None, table: Path | None, files: Path | None) -> Task:
    from abruzzi.tasks import examples

    if prompt is not None or table is not None or files is not None:
        raise typer.BadParameter(
            "--example brings its own question and tools; give neither a prompt nor --table, --files"
        )
    known = examples()
    if not 1 <= number <= len(known):
        raise typer.BadParameter(f"--example {number} is not there; expected 1 to {len(known)}; hint: --examples")
    return known[number - 1]


def _question(prompt: str | None) -> str:
    if prompt is None:
        raise typer.BadParameter("a prompt is missing; hint: abruzzi run --examples")
    text = streams.read_stdin() if prompt == "-" else prompt
    if not text.strip():
        raise typer.BadParameter("the prompt is empty; hint: abruzzi run --examples")
    return text
