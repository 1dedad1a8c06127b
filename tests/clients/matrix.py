"""Which clients keep the model's prompt what it was, over 50 tool calls: one row each, as a table
and as JSON.

`make clients` builds the environments and runs `python -m tests.clients.matrix --out DIR`. Each row
is a process of its own against a server of its own. A row holds when the prompt ids of every step
are exactly those of a conversation that never left the process (conversation.growth), whatever the
client did to the history in between.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.clients import conversation
from tests.clients.served import Log, serving, step_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OWN = ROOT / ".venv-clients" / "bin"
NODE = HERE / "node_modules"
DIALECT = {"/v1/chat/completions": "chat", "/v1/responses": "responses", "/v1/messages": "messages"}
SECONDS = 180


@dataclass(frozen=True, slots=True)
class Row:
    """A client in one way of using it. extra: needs the environments of `make clients`."""

    client: str
    driver: str
    variant: str
    stream: bool
    extra: bool = False
    shell: tuple[str, str] | None = None  # an agent has tools of its own: its shell's name and argument

    @property
    def name(self) -> str:
        return f"{self.client} {self.variant} {'stream' if self.stream else 'whole'}"

    def command(self) -> list[str]:
        kind = self.driver.rpartition(".")[2]
        python = str(OWN / "python") if self.extra else sys.executable
        run = {"py": [python], "sh": ["bash"], "mjs": [str(NODE / ".bin" / "node")]}[kind]
        return [*run, str(HERE / "drivers" / self.driver)]

    @property
    def installed(self) -> bool:
        return not self.extra or (OWN.is_dir() and NODE.is_dir())


def _both(client: str, driver: str, *variants: str, extra: bool = False) -> list[Row]:
    return [Row(client, driver, v, stream, extra) for v in variants for stream in (False, True)]


ROWS = [
    *_both("openai chat", "openai_chat.py", "keep", "drop"),
    *_both("openai responses", "openai_responses.py", "keep", "sealed", "drop"),
    *_both("anthropic", "anthropic_messages.py", "keep", "drop"),
    *_both("curl", "curl_chat.sh", "keep", "drop", extra=True),
    *_both("LiteLLM", "litellm_any.py", "openai", "hosted_vllm", "anthropic", extra=True),
    *_both("Vercel AI SDK", "ai_sdk.mjs", "as it is", extra=True),
    *_both("llm", "llm_agent.sh", "as it is", extra=True),
    *(
        Row("kimi-code", "kimi_code.sh", provider, True, extra=True, shell=("Bash", "command"))
        for provider in ("kimi", "openai", "openai_responses", "anthropic")
    ),
    Row("codex", "codex.sh", "as it is", True, extra=True, shell=("exec_command", "cmd")),
]


@dataclass(slots=True)
class Outcome:
    """steps: prompts that reached the model. first_same: the first prompt is the reference's as
    well (clients that write tools down in their own words have another one). identical: every step
    added exactly the reference's ids.

    sent: of the last request's assistant messages, how many came with their thought; states: what
    the server said of them. difference: the first thing that was not as it must be."""

    client: str
    variant: str
    dialect: str
    stream: bool
    steps: int = 0
    calls: int = 0
    first_same: bool = False
    identical: bool = False
    sent: int = 0
    turns: int = 0
    states: str = ""
    seconds: float = 0.0
    difference: str = ""
    refused: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.identical and not self.difference


def scripted(row: Row, prompt: list[int]) -> list[int]:
    """The turn of the conversation that a prompt asks for."""
    if row.shell is not None:
        return conversation.shell_turn(step_of(prompt), *row.shell)
    return conversation.TURNS[min(step_of(prompt), len(conversation.TURNS) - 1)][0]


def run(row: Row) -> Outcome:
    """The whole conversation through one client."""
    with (
        serving(partial(scripted, row), context=2_000_000) as log,
        tempfile.TemporaryDirectory() as folder,
    ):
        file = Path(folder) / "spec.json"
        file.write_text(json.dumps(conversation.spec()))
        started = time.monotonic()
        command = [*row.command(), log.url, "stream" if row.stream else "whole", row.variant, str(file)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, cwd=folder, env=environment(folder)
            )
        except subprocess.TimeoutExpired as late:
            done = subprocess.CompletedProcess(command, -1, "", f"{late}")
        outcome = judge(row, log)
        outcome.seconds = round(time.monotonic() - started, 1)
        if done.returncode != 0:
            outcome.difference = outcome.difference or f"exit {done.returncode}: {done.stderr.strip()[-600:]}"
            return outcome
        said = json.loads(done.stdout.strip().splitlines()[-1])
        outcome.calls = said["calls"]
        if row.shell is not None:
            if said != {"answers": [conversation.ANSWERS[0]], "calls": conversation.STEPS}:
                outcome.difference = outcome.difference or f"the client got {said}"
            return outcome
        # Some show all that was said on the way before it.
        ends = [given.rstrip().endswith(wanted) for given, wanted in zip(said["answers"], conversation.ANSWERS)]
        if ends != [True, True] or said["calls"] != conversation.CALLS:
            outcome.difference = outcome.difference or f"the client got {said}, expected {conversation.CALLS} calls"
        return outcome


def environment(home: str) -> dict[str, str]:
    """A client's environment: its own home, nothing sent anywhere but to us."""
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LC_ALL", "SSL_CERT_FILE")}
    kept["PATH"] = f"{OWN}{os.pathsep}{NODE / '.bin'}{os.pathsep}{kept.get('PATH', '')}"
    return {**kept, "HOME": home, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "127.0.0.1", "LC_ALL": "C.UTF-8"}


def judge(row: Row, log: Log) -> Outcome:
    """What the log says of a client."""
    requests = log.generations()
    last = requests[-1] if requests else None
    outcome = Outcome(row.client, row.variant, DIALECT[last.path] if last else "", row.stream, len(log.prompts))
    outcome.refused = sorted({f"{a.status} {a.path}: {a.error[:300]}" for a in requests if a.status >= 400})
    if last is not None:
        outcome.turns, outcome.sent = thoughts(last.path, last.body)
        outcome.states = last.states or ""
        streamed = {bool(a.body.get("stream")) for a in requests}
        if streamed != {row.stream}:
            outcome.difference = f"stream: the client asked for {streamed}"
    if log.prompts:
        outcome.first_same = log.prompts[0] == conversation.first_prompt()
        grown = same_growth(log.prompts) if row.shell is None else appended(log.prompts, *row.shell)
        outcome.identical, problem = grown
        outcome.difference = problem or outcome.difference
    return outcome


def same_growth(prompts: Sequence[list[int]]) -> tuple[bool, str]:
    """Whether each prompt is the one before it and the reference's next ids; and the first that is
    not."""
    grown = conversation.growth()
    expected = list(prompts[0])
    for step, prompt in enumerate(prompts[1:]):
        expected = expected + grown[step] if step < len(grown) else expected
        if prompt != expected:
            at = next((i for i, (a, b) in enumerate(zip(prompt, expected)) if a != b), min(len(prompt), len(expected)))
            shown = [conversation.TOK.decode(ids[max(0, at - 40) : at + 60]) for ids in (prompt, expected)]
            return False, f"step {step + 1}: {shown[0]!r} instead of {shown[1]!r}"
    if len(prompts) != len(grown) + 1:
        return False, f"{len(prompts)} prompts, expected {len(grown) + 1}"
    return True, ""


def appended(prompts: Sequence[list[int]], name: str, argument: str) -> tuple[bool, str]:
    """Of an agent whose results are its own: whether each prompt is the one before it, the turn
    exactly as it was sampled, and a result of that step's call."""
    for step, (before, after) in enumerate(pairwise(prompts)):
        expected = before + conversation.shell_turn(step, name, argument)
        rest = conversation.TOK.decode(after[len(expected) :])
        if after[: len(expected)] != expected:
            return False, f"step {step + 1}: {conversation.TOK.decode(after[len(before) :])[:300]!r}"
        if f"result {step}\n" not in rest or "<think>" in rest:
            return False, f"step {step + 1} was answered by {rest[:300]!r}"
    if len(prompts) != conversation.STEPS + 1:
        return False, f"{len(prompts)} prompts, expected {conversation.STEPS + 1}"
    return True, ""


def thoughts(path: str, body: dict[str, Any]) -> tuple[int, int]:
    """How many turns of the assistant a request holds, and how many with their thought."""
    if path == "/v1/responses":
        items = body.get("input") if isinstance(body.get("input"), list) else []
        own = [i.get("type") in ("reasoning", "function_call") or i.get("role") == "assistant" for i in items]
        turns = sum(now and not before for before, now in pairwise([False, *own]))
        return turns, sum(i.get("type") == "reasoning" for i in items)
    spoken = [m for m in body.get("messages", []) if m.get("role") == "assistant"]
    names = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
    if path == "/v1/messages":
        kept = [m for m in spoken if any(b.get("type") == "thinking" for b in m["content"] if isinstance(b, dict))]
    else:
        kept = [m for m in spoken if any(m.get(n) for n in names)]
    return len(spoken), len(kept)


def versions() -> dict[str, str]:
    """What was driven: from its own environment."""
    found = {n: metadata.version(n) for n in ("openai", "anthropic")}
    found["curl"] = subprocess.run(["curl", "--version"], capture_output=True, text=True).stdout.split()[1]
    others = ["litellm", "llm", *json.loads((HERE / "package.json").read_text())["dependencies"]]
    return found | {package: is_there for package in others if (is_there := version(package))}


def version(package: str, environment: Path = OWN) -> str:
    """Of a package that npm installed, or pip into an environment's bin/; "" where there is none."""
    file = NODE / package / "package.json"
    if file.is_file():
        return json.loads(file.read_text())["version"]
    folder = f"{package.replace('-', '_')}-"
    found = sorted((environment.parent / "lib").glob(f"python*/site-packages/{folder}*.dist-info"))
    return found[0].name.removeprefix(folder).removesuffix(".dist-info") if found else ""


def options(doc: str | None) -> argparse.Namespace:
    """out: where the tables go; only: part of the names of the rows to run."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "clients")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    return parser.parse_args()


def keep(out: Path, name: str, record: dict[str, Any], markdown: str) -> None:
    """A record as JSON, and its table beside it."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    (out / f"{name}.md").write_text(markdown)


def table(outcomes: Sequence[Outcome]) -> str:
    """The matrix as Markdown."""
    head = "| client | used | dialect | stream | prompts | calls | prompt ids | first prompt | thoughts sent | server |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|---|"]
    for o in outcomes:
        ids = "identical" if o.ok else "DIFFER"
        first = "same" if o.first_same else "its own"
        cells = (o.client, o.variant, o.dialect, "yes" if o.stream else "no", o.steps, o.calls, ids, first)
        lines.append(f"| {' | '.join(map(str, cells))} | {o.sent} of {o.turns} | {o.states} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    args = options(__doc__)
    outcomes = []
    for row in (r for r in ROWS if args.only in r.name):
        outcomes.append(run(row))
        o = outcomes[-1]
        print(
            f"{'ok  ' if o.ok else 'FAIL'} {row.name:32} {o.seconds:5.1f} s  {o.steps} prompts, {o.states}", flush=True
        )
        for line in (o.difference, *o.refused):
            if line:
                print(f"     {line}")
    keep(args.out, "matrix", {"versions": versions(), "rows": [asdict(o) for o in outcomes]}, table(outcomes))
    return 0 if outcomes and all(o.ok for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
