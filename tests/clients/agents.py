"""Coding agents and agent libraries that we did not write, as people use them: one row each.

`make clients` runs `python -m tests.clients.agents --out DIR` behind matrix.py. A command-line agent
gets its configuration from `abruzzi connect` (written into a home of its own) and is started on it;
a library runs drivers/python_agents.py. Asked of each: is the first request taken without a refusal,
does a loop of three tool steps end, does a second turn keep the prompt's prefix and the thoughts,
and does the client know an overflow for what it is (it compacts and goes on, or raises its own
error for it).

The model is scripted: `run` calls the row's tool three times a turn, `overflow` asks for long output
until the context is full, and gives a summary to whoever asks for one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count, pairwise
from pathlib import Path

from abruzzi.connect import Places, ask, connection, write
from tests.clients.matrix import HERE, OWN, ROOT, environment, keep, options, version
from tests.clients.served import Log, serving
from tests.unit.server.scripted_engine import TOK, call, ids, spelled

AIDER = ROOT / ".venv-clients-aider" / "bin"  # its pins fit nobody else's
STEPS = 3
CONTEXT = 400_000
SECONDS = 150
DONE, SUMMARY = "All is done.", "the work goes on"
CALL_BEGIN = TOK.control["<|tool_call_begin|>"]
LONG = "seq 1 4000"  # some 10,000 tokens of the test's vocabulary
WITHIN = "in a turn; not from its first to its second process"
QUESTIONS = ("Work through the list.", "Again.")


@dataclass(frozen=True, slots=True)
class Agent:
    """One client in one dialect.

    connect: the name by which `abruzzi connect` knows it; library: its function in the driver
    instead. package: whose version is told, from npm or from PyPI. tool, arguments: how it runs a
    shell command, {} being the command. turns: the shell commands of a first and a second turn.
    room: tokens of its first prompt, and then some; the context of the overflow's run. knows: what
    shows in what it says, when it knows an overflow and does not go on. remarks: of the table. steps:
    calls in a turn. ends: the shell command that ends a turn, where no text does. settings: a shell
    command that writes them, where `abruzzi connect` speaks another dialect to the client."""

    name: str
    dialect: str
    package: str
    tool: str = ""
    arguments: str = ""
    connect: str = ""
    library: str = ""
    turns: tuple[str, ...] = ()
    room: int = 20_000
    knows: str = ""
    remarks: str = ""
    steps: int = STEPS
    ends: str = ""
    settings: str = ""

    @property
    def title(self) -> str:
        return f"{self.name} {self.dialect}"

    @property
    def version(self) -> str:
        """Of what is driven, from its own environment; "" where it is not installed."""
        return version(self.package, AIDER if self.package == "aider-chat" else OWN)


def _library(name: str, package: str, *dialects: str, knows: str, remarks: str = "") -> list[Agent]:
    return [
        Agent(name, d, package, "calc", '{{"e": "{}"}}', library=name, room=2_000, knows=knows, remarks=remarks)
        for d in dialects
    ]


CODEX = "codex exec {} --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox"
CLAUDE = 'claude -p "{}" {} --disallowedTools WebSearch --allowedTools Bash'
COMMAND = '{{"command": "{}"}}'


def _qwen(dialect: str, auth: str, remarks: str = "") -> Agent:
    """Qwen Code in a dialect that `abruzzi connect` does not choose for it."""
    model = '"model": {"name": "tiny", "generationConfig": {"contextWindowSize": \'$CONTEXT\'}}'
    settings = f'{{"security": {{"auth": {{"selectedType": "{auth}"}}}}, {model}}}'
    return Agent(
        *("Qwen Code", dialect, "@qwen-code/qwen-code", "run_shell_command", COMMAND),
        turns=tuple(f'qwen --auth-type {auth} --yolo {go} "{q}"' for go, q in zip(("-p", "--continue -p"), QUESTIONS)),
        room=110_000,
        remarks=remarks,
        settings=f"mkdir -p ~/.qwen; echo '{settings}' > ~/.qwen/settings.json",
    )


AGENTS = [
    Agent(
        *("Codex", "responses", "@openai/codex", "exec_command", '{{"cmd": "{}"}}', "codex"),
        turns=(f'{CODEX.format("")} "{QUESTIONS[0]}"', f'{CODEX.format("resume --last")} "{QUESTIONS[1]}"'),
        room=50_000,
    ),
    Agent(
        *("Claude Code", "messages", "@anthropic-ai/claude-code", "Bash", COMMAND, "claude"),
        turns=(CLAUDE.format(QUESTIONS[0], ""), CLAUDE.format(QUESTIONS[1], "--continue")),
        room=75_000,
        knows="Prompt is too long|context",
    ),
    Agent(
        *("pi", "chat", "@earendil-works/pi-coding-agent", "bash", COMMAND, "pi"),
        turns=(f'pi -p "{QUESTIONS[0]}"', f'pi -p --continue "{QUESTIONS[1]}"'),
    ),
    Agent(
        *("opencode", "chat", "opencode-ai", "bash", COMMAND, "opencode"),
        turns=(f'opencode run "{QUESTIONS[0]}"', f'opencode run --continue "{QUESTIONS[1]}"'),
        room=40_000,
    ),
    Agent(
        *("Qwen Code", "chat", "@qwen-code/qwen-code", "run_shell_command", COMMAND, "qwen"),
        turns=(f'qwen --yolo -p "{QUESTIONS[0]}"', f'qwen --yolo --continue -p "{QUESTIONS[1]}"'),
        room=110_000,
        remarks="--continue writes its first message anew (the date), so the second process begins another prefix",
    ),
    _qwen("responses", "openai-responses", remarks="it sends its thoughts as messages of the assistant"),
    _qwen("messages", "anthropic"),
    Agent(
        *("Cline", "chat", "cline", "run_commands", '{{"commands": ["{}"]}}', "cline"),
        turns=(f'cline -P openai-compatible "{QUESTIONS[0]}"',),
        room=45_000,
        knows="context window exceeded — compacting",
        remarks="one turn: its command line resumes by an id that it does not print",
    ),
    Agent(
        *("aider", "chat", "aider-chat", "", "", "aider"),
        turns=(
            "echo hello > a.txt; aider --yes-always --no-git --no-check-update --no-show-model-warnings "
            f'--analytics-disable --no-pretty --message "{QUESTIONS[0]}" a.txt',
        ),
        room=1_000,
        knows="token limit|context window|ContextWindowExceeded",
        remarks="it edits by text and has no tools",
        steps=0,
    ),
    Agent(
        *("mini-swe-agent", "chat", "mini-swe-agent", "bash", COMMAND),
        turns=(f"mini --yolo --exit-immediately -l 0 -m openai/tiny -t '{QUESTIONS[0]}'",),
        knows="ContextWindowExceeded",
        remarks="one turn a process",
        ends=f"echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && echo {DONE}",
    ),
    *_library("openai_agents", "openai-agents", "chat", "responses", knows="BadRequestError"),
    *_library("pydantic_ai", "pydantic-ai-slim", "chat", "responses", "messages", knows="WindowExceededError"),
    *_library("langchain", "langchain-openai", "chat", "responses", knows="ContextOverflowError"),
    *_library("langchain", "langchain-anthropic", "messages", knows="ContextOverflowError"),
    *_library("smolagents", "smolagents", "chat", knows="AgentGenerationError", remarks="calls become text"),
    *_library("inspect_ai", "inspect-ai", "chat", "responses", "messages", knows="model_length"),
]


@dataclass(slots=True)
class Outcome:
    """A row of the table: "yes", "no: why", or "-" where the client has no such thing."""

    client: str
    version: str
    dialect: str
    first_request: str = ""
    loop: str = ""
    prefix_kept: str = ""
    thoughts_kept: str = ""
    overflow: str = ""
    first_prompt_tokens: int = 0
    remarks: str = ""
    refused: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        cells = (self.first_request, self.loop, self.prefix_kept, self.thoughts_kept, self.overflow)
        return not any(cell.startswith("no:") for cell in cells)


def made(agent: Agent, prompt: list[int]) -> int:
    """Calls that the prompt's history holds."""
    return TOK.decode(prompt).count("Calling tools:\n") if agent.library == "smolagents" else prompt.count(CALL_BEGIN)


def loop_turn(agent: Agent, prompt: list[int], asked: int) -> list[int]:
    """Three calls, then the answer, in every turn."""
    calls, answered = made(agent, prompt), TOK.decode(prompt).count(DONE)
    if agent.library == "smolagents" and calls % (STEPS + 1) == STEPS:
        arguments = json.dumps({"answer": DONE})
        return ids(f"<think>Done. </think>[calls]{call('final_answer', arguments, 0)}[/calls][end]")
    if agent.ends and calls == STEPS:
        last = agent.arguments.format(agent.ends)
        return spelled(f"<think>Done. </think>[calls]{call(agent.tool, last, calls)}[/calls][end]")
    if agent.library != "smolagents" and calls >= agent.steps * (answered + 1):
        return spelled(f"<think>Done.</think>{DONE}[end]")
    index = 0 if agent.library == "smolagents" else calls
    arguments = agent.arguments.format(f"echo step {calls}")
    return spelled(f"<think>Step {calls}. </think>[calls]{call(agent.tool, arguments, index)}[/calls][end]")


def full_turn(agent: Agent, prompt: list[int], asked: int) -> list[int]:
    """Long results until somebody asks for a summary; the answer once there is one, or when so much
    was asked that the client must have made room by itself."""
    text = TOK.decode(prompt)
    if SUMMARY in text or asked > 8:
        return spelled(f"<think>Done.</think>{DONE}[end]")
    if _asks_for_a_summary(agent, prompt, text):
        told = f"<summary>{SUMMARY}</summary> <state_snapshot>{SUMMARY}</state_snapshot>"
        return spelled(f"<think>Hm.</think>{told}[end]")
    if not agent.tool:
        return spelled(f"<think>Done.</think>{DONE}[end]")
    calls = made(agent, prompt)
    return spelled(f"<think>Step. </think>[calls]{call(agent.tool, agent.arguments.format(LONG), calls)}[/calls][end]")


def _asks_for_a_summary(agent: Agent, prompt: list[int], text: str) -> bool:
    """Whether the last turn does: behind the conversation, or with it written out inside."""
    last = text.split("<|im_end|>")[-2].lower()
    told = made(agent, prompt) > 0 or (QUESTIONS[0].lower() in last and len(last) > 2_000)
    return told and any(word in last for word in ("summar", "compact", "snapshot"))


def start(agent: Agent, log: Log, home: Path, turns: Sequence[str], context: int) -> str:
    """Run the client's turns against a context of so many tokens; all that it said."""
    env = environment(str(home))
    env["PATH"] = f"{env['PATH']}{os.pathsep}{AIDER}"
    if agent.connect:
        write(connection(agent.connect, ask(log.url, None), Places(home, {})), home / "ours")
    else:
        env |= {"OPENAI_API_KEY": "none", "OPENAI_BASE_URL": f"{log.url}/v1", "OPENAI_API_BASE": f"{log.url}/v1"}
        env |= {"ANTHROPIC_API_KEY": "none", "ANTHROPIC_BASE_URL": log.url}
        env |= {"OPENAI_MODEL": "tiny", "ANTHROPIC_MODEL": "tiny", "CONTEXT": str(context)}
        env |= {"MSWEA_CONFIGURED": "true", "MSWEA_COST_TRACKING": "ignore_errors", "MSWEA_SILENT_STARTUP": "1"}
    if agent.library:
        driver = str(HERE / "drivers" / "python_agents.py")
        commands = [[str(OWN / "python"), driver, agent.library, log.url, agent.dialect, *turns]]
    else:
        commands = [["bash", "-c", turn] for turn in (*filter(None, (agent.settings,)), *turns)]
    work = home / "work"
    work.mkdir()
    said = ""
    for command in commands:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=SECONDS, cwd=work, env=env, stdin=subprocess.DEVNULL
            )
            said += done.stdout + done.stderr
        except subprocess.TimeoutExpired as late:
            said += f"\n{late}"
    return said


def run(agent: Agent) -> Outcome:
    """One row."""
    out = Outcome(agent.name, agent.version, agent.dialect, remarks=agent.remarks)
    with served(agent, loop_turn, CONTEXT) as (log, home):
        said = start(agent, log, home, QUESTIONS if agent.library else agent.turns, CONTEXT)
        _judge(agent, log, said, out)
    with served(agent, full_turn, agent.room) as (log, home):
        questions = (QUESTIONS[0] + " word" * 2_000,) if agent.library else agent.turns[:1]
        said = start(agent, log, home, questions, agent.room)
        out.overflow = _overflow(agent, log, said)
    return out


@contextmanager
def served(
    agent: Agent, turn: Callable[[Agent, list[int], int], list[int]], context: int
) -> Iterator[tuple[Log, Path]]:
    """A scripted server and a home directory."""
    asked = count(1)
    with (
        serving(lambda prompt: turn(agent, prompt, next(asked)), context=context) as log,
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home,
    ):
        yield log, Path(home)


def _judge(agent: Agent, log: Log, said: str, out: Outcome) -> None:
    requests = log.generations()
    out.refused = sorted({f"{a.status} {a.path}: {a.error[:300]}" for a in requests if a.status >= 400})
    out.first_request = "yes" if requests and not out.refused else f"no: {(out.refused or ['none came'])[0]}"
    # Some ask beside the conversation for a title, or whether the server knows Responses.
    prompts = [p for p in log.prompts if p[:150] == log.prompts[-1][:150]]
    out.first_prompt_tokens = len(prompts[0]) if prompts else 0
    turns = len(QUESTIONS) if agent.library else len(agent.turns)
    wanted = turns * (agent.steps + 1)
    if not agent.steps:
        out.loop = "-"
    else:
        told = DONE in said and len(prompts) >= wanted
        out.loop = "yes" if told else f"no: {len(prompts)} of {wanted} prompts; it said {said.strip()[-200:]!r}"
    broken = [n + 1 for n, (a, b) in enumerate(pairwise(prompts)) if b[: len(a)] != a]
    second = agent.steps + 1
    if len(prompts) < 2:
        out.prefix_kept = "-"
    elif not broken:
        out.prefix_kept = "yes" if turns > 1 else "yes, in one turn"
    else:
        out.prefix_kept = WITHIN if broken == [second] else f"no: {broken}"
    states = [dict(part.split("=") for part in a.states.split()) for a in requests if a.states]
    kept = states[-1] if states else {}
    if not agent.steps or not kept:
        out.thoughts_kept = "-"
    elif kept.get("absent") == "0" and int(kept["kept"]) + int(kept["restored"]) > 0:
        out.thoughts_kept = "yes, sent back" if kept["restored"] == "0" else "yes, restored by the server"
    elif broken == [second] and any(s["kept"] == str(agent.steps) and s["absent"] == "0" for s in states):
        out.thoughts_kept = WITHIN  # nothing of ours begins as the second one begins
    else:
        told = " ".join(f"{state}={number}" for state, number in kept.items())
        out.thoughts_kept = f"not sent, and not to be found: {told}"


def _overflow(agent: Agent, log: Log, said: str) -> str:
    refused = [a for a in log.generations() if a.status >= 400]
    if any(SUMMARY in TOK.decode(p) for p in log.prompts) and DONE in said:
        return "yes: it compacts" + (" after the refusal" if refused else " before it is refused") + " and finishes"
    if agent.knows and any(word in said for word in agent.knows.split("|")):
        word = next(w for w in agent.knows.split("|") if w in said)
        return f"yes: it says {word!r}" + (" and finishes" if agent.tool and not agent.library and DONE in said else "")
    return f"no: {said.strip()[-300:]!r}"


def table(outcomes: Sequence[Outcome]) -> str:
    """The rows as Markdown."""
    head = ("client", "version", "dialect", "first request", "loop", "prefix kept", "thoughts kept", "overflow")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for o in outcomes:
        cells = (o.client, o.version, o.dialect, o.first_request, o.loop, o.prefix_kept, o.thoughts_kept, o.overflow)
        lines.append(f"| {' | '.join(' '.join(c.replace('|', '/').split()) for c in cells)} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    args = options(__doc__)
    outcomes, skipped = [], []
    for agent in (a for a in AGENTS if args.only in a.title):
        if not agent.version:
            skipped.append(agent.title)
            print(f"skip {agent.title}: {agent.package} is not installed", flush=True)
            continue
        outcomes.append(run(agent))
        o = outcomes[-1]
        print(f"{'ok  ' if o.ok else 'FAIL'} {agent.title}: {table([o]).splitlines()[-1]}", flush=True)
    keep(args.out, "agents", {"rows": [asdict(o) for o in outcomes], "skipped": skipped}, table(outcomes))
    return 0 if outcomes and all(o.ok for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
