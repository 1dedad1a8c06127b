"""Coding agents and agent libraries on our server: they start on what `abruzzi connect` writes, loop,
go on and know an overflow (`make clients` runs all and writes the table)."""

from __future__ import annotations

import pytest

from tests.clients import agents
from tests.clients.agents import AGENTS, DONE, QUESTIONS, Agent, Outcome, full_turn, loop_turn
from tests.clients.served import Asked, Log
from tests.unit.server.scripted_engine import TOK, ScriptedLLM, ids

PI = next(a for a in AGENTS if a.name == "pi")


@pytest.mark.clients
@pytest.mark.parametrize("agent", AGENTS, ids=lambda a: a.title)
def test_an_agent_starts_loops_goes_on_and_knows_an_overflow(agent: Agent) -> None:
    if not agent.version:
        pytest.skip(f"{agent.package} is not installed")
    outcome = agents.run(agent)
    assert outcome.ok, outcome


def log_of(prompts: list[list[int]], states: str = "kept=7 restored=0 absent=0 expired=0", status: int = 200) -> Log:
    llm = ScriptedLLM(lambda prompt, _: "")
    llm.prompts = prompts
    return Log("http://x", llm, [Asked("/v1/chat/completions", {}, status, states, "why")])


def whole_run() -> list[list[int]]:
    """The prompts of two turns of three calls each, as a perfect client sends them."""
    prompt, prompts = ids(f"system<|im_user|>user<|im_middle|>{QUESTIONS[0]}[end]" + "x " * 200), []
    for _ in range(8):
        prompts.append(prompt)
        prompt = [*prompt, *loop_turn(PI, prompt, 0), *ids("result[end]")]
    return prompts


def judged(log: Log, said: str = DONE) -> Outcome:
    out = Outcome("pi", "1", "chat", overflow="yes")
    agents._judge(PI, log, said, out)
    return out


def test_a_run_is_judged_by_its_prompts_and_answers() -> None:
    prompts = whole_run()
    assert judged(log_of(prompts)).ok
    assert not judged(log_of(prompts), "nothing").ok
    assert not judged(log_of(prompts[:6])).ok
    assert not judged(log_of(prompts, status=400)).ok
    changed = [p if n < 5 else [*p[:300], p[300] + 1, *p[301:]] for n, p in enumerate(prompts)]
    assert judged(log_of(changed)).prefix_kept == "no: [5]"
    assert "not sent" in judged(log_of(prompts, "kept=0 restored=0 absent=7 expired=0")).thoughts_kept


def test_an_overflow_is_judged_by_the_summary_or_by_what_is_said() -> None:
    compacted = log_of([ids(agents.SUMMARY)])
    assert agents._overflow(PI, compacted, DONE).startswith("yes: it compacts")
    assert agents._overflow(PI, compacted, "").startswith("no:")
    assert agents._overflow(PI, log_of([[1]]), DONE).startswith("no:")


def test_the_scripted_model_gives_a_summary_to_whoever_asks_for_one() -> None:
    called = [*ids("<|im_user|>user<|im_middle|>Work.[end]"), *loop_turn(PI, [], 0)]
    ask = ids("<|im_user|>user<|im_middle|>Please summarize.[end]<|im_assistant|>")
    assert agents.SUMMARY in TOK.decode(full_turn(PI, [*called, *ask], 1))
    assert agents.LONG in TOK.decode(
        full_turn(PI, [*called, *ids("<|im_system|>tool<|im_middle|>1[end]<|im_assistant|>")], 1)
    )
    assert DONE in TOK.decode(full_turn(PI, [*called, *ids(agents.SUMMARY)], 1))
