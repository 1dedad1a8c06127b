"""Thinking survives what clients do to a history: the model sees what it sampled, or the answer
says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from abruzzi.server.memory.seal import SampledTurn, Seal, canonical_arguments
from abruzzi.server.memory.store import ReasoningStore
from abruzzi.types import Message
from tests.unit.server.scripted_engine import CALCULATOR, TOK, ScriptedLLM, Served, call, ids, saying, serving, spelled

CHAT, STATES = "/v1/chat/completions", "x-abruzzi-reasoning"
TURNS = [
    "<think>First I add.</think>[calls]" + call("calc", '{"e": "12 + 30"}') + "[/calls][end]",
    "<think>Now twice.</think>Two more.[calls]"
    + call("calc", '{"e":"42 * 2"}', 1)
    + call("calc", '{"e": "1", "a": 2}', 2)
    + "[/calls][end]",
    "<think>Done thinking.</think>\n\nIt is 84. [end]",
    "<think>A new question.</think>Yes.[end]",
]
Mutation = Callable[[dict[str, Any], int], dict[str, Any]]


def keep(message: dict[str, Any], _: int) -> dict[str, Any]:
    return message


def strip(message: dict[str, Any], _: int) -> dict[str, Any]:
    return {k: v for k, v in message.items() if k not in ("reasoning", "reasoning_content")}


def one_name(message: dict[str, Any], _: int) -> dict[str, Any]:
    return {**strip(message, 0), "thinking": message["reasoning"]}


def details(message: dict[str, Any], _: int) -> dict[str, Any]:
    return {**strip(message, 0), "reasoning_details": [{"type": "reasoning.text", "text": message["reasoning"]}]}


def inline(message: dict[str, Any], _: int) -> dict[str, Any]:
    return {**strip(message, 0), "content": f"<think>{message['reasoning']}</think>{message['content'] or ''}"}


def reformat(message: dict[str, Any], _: int) -> dict[str, Any]:
    """As clients do that parse and dump: arguments without spaces in another order, text
    trimmed."""
    message = json.loads(json.dumps(strip(message, 0)))
    message["content"] = (message["content"] or "").strip()
    for made in message.get("tool_calls", []):
        arguments = json.loads(made["function"]["arguments"])
        made["function"]["arguments"] = json.dumps(dict(sorted(arguments.items())), separators=(",", ":"))
    return message


def foreign_ids(message: dict[str, Any], number: int) -> dict[str, Any]:
    """As clients do that make ids of their own."""
    message = json.loads(json.dumps(strip(message, 0)))
    for n, made in enumerate(message.get("tool_calls", [])):
        made["id"] = f"toolu_{number}_{n}"
    return message


def converse(server: Served, mutate: Mutation, restart: Callable[[], None] = lambda: None) -> list[str]:
    """The scripted conversation through a client that treats its history so; the states it was
    told."""
    history: list[dict[str, Any]] = [{"role": "user", "content": "What is 12 + 30, twice?"}]
    states = []
    for number in range(len(TURNS)):
        body = {"messages": history, "tools": [CALCULATOR]}
        answer = server.post(CHAT, body, authorization="Bearer client-one")
        assert answer.status_code == 200, answer.text
        states.append(answer.headers[STATES])
        message = mutate(answer.json()["choices"][0]["message"], number)
        history.append(message)
        made = message.get("tool_calls", [])
        history += [{"role": "tool", "tool_call_id": c["id"], "content": "42"} for c in made]
        if not message.get("tool_calls"):
            history.append({"role": "user", "content": "Sure?"})
        restart()
    return states


def prompts_with(mutate: Mutation) -> list[list[int]]:
    llm = saying(*map(spelled, TURNS))
    with serving(llm) as server:
        converse(server, mutate)
    return llm.prompts


@pytest.mark.parametrize("mutate", [strip, one_name, details, inline, reformat, foreign_ids])
def test_whatever_a_client_does_the_model_sees_what_it_sampled(mutate: Mutation) -> None:
    prompts = prompts_with(mutate)
    assert prompts == prompts_with(keep)
    for number, (before, after) in enumerate(pairwise(prompts)):
        sampled = spelled(TURNS[number])
        assert after[: len(before) + len(sampled)] == [*before, *sampled]  # append-only, ids as sampled


def as_text(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As Qwen Code sends it over Responses: each thought as a message of the assistant, in front of
    the turn; one that only calls loses its own text."""
    sent = []
    for message in history:
        thought = message.get("reasoning")
        if message["role"] == "assistant" and thought:
            message = strip(message, 0)
            if message.get("tool_calls") and not message["content"]:
                message["content"] = f"{thought} "
            else:
                sent.append({"role": "assistant", "content": thought})
        sent.append(message)
    return sent


def converse_as_text(
    change: Callable[[list[dict[str, Any]]], None] = lambda sent: None,
) -> tuple[list[str], ScriptedLLM]:
    llm = saying(*map(spelled, TURNS))
    states, history = [], [{"role": "user", "content": "What is 12 + 30, twice?"}]
    with serving(llm) as server:
        for _ in TURNS:
            sent = as_text(history)
            change(sent)
            answer = server.post(CHAT, {"messages": sent, "tools": [CALCULATOR]})
            states.append(answer.headers[STATES])
            history.append(answer.json()["choices"][0]["message"])
            made = history[-1].get("tool_calls", [])
            history += [{"role": "tool", "tool_call_id": c["id"], "content": "42"} for c in made]
            if not made:
                history.append({"role": "user", "content": "Sure?"})
    return states, llm


def test_a_thought_that_comes_back_as_text_is_the_thought_again() -> None:
    states, llm = converse_as_text()
    assert states[-1] == "kept=3 restored=0 absent=0 expired=0"
    assert llm.prompts == prompts_with(keep)


def test_a_text_that_is_not_the_thought_stays_what_the_client_said() -> None:
    def edit(sent: list[dict[str, Any]]) -> None:
        for message in sent:
            if message.get("content") in ("First I add. ", "Now twice."):
                message["content"] = "Somebody else's words."

    states, llm = converse_as_text(edit)
    assert "absent=0" not in states[-1]
    assert TOK.decode(llm.prompts[-1]).count("Somebody else's words.") == 2
    assert "First I add." not in TOK.decode(llm.prompts[-1])


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    llm = saying(*map(spelled, TURNS))
    stores = [ReasoningStore(tmp_path / "turns.sqlite")]
    with serving(llm, stores[0]) as server:

        def restart() -> None:
            stores[-1].close()
            stores.append(ReasoningStore(tmp_path / "turns.sqlite"))
            server.service._restorer._store = server.service.store = stores[-1]

        states = converse(server, strip, restart)
    assert states[-1] == "kept=0 restored=3 absent=0 expired=0"
    assert llm.prompts == prompts_with(keep)
    assert (tmp_path / "turns.sqlite").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("sampled", "printed"),  # as JSON.stringify(JSON.parse(...)) of Node 22 prints it
    [
        ('{"x": 1.0, "y": 1e3, "z": -0}', '{"x":1,"y":1000,"z":0}'),
        ('{"n": 12345678901234567890, "e": 1e-7}', '{"n":12345678901234567000,"e":1e-7}'),
        ('{"b": 1, "10": 2, "9": [3.50]}', '{"9":[3.5],"10":2,"b":1}'),
        ('{"s": "\\u00e9\\/ 1.0"}', '{"s":"é/ 1.0"}'),
    ],
)
def test_arguments_that_went_through_javascript_are_the_same(sampled: str, printed: str) -> None:
    assert canonical_arguments(sampled) == canonical_arguments(printed)
    assert canonical_arguments(sampled) != canonical_arguments(printed.replace("1", "2"))


def test_what_litellm_adds_to_a_message_is_taken_back() -> None:
    llm = saying(thinking(1), "x[end]")
    with serving(llm) as server:
        history = first_turn(server, "one")
        history[1]["provider_specific_fields"] = {"refusal": None, "reasoning": "Secret 1."}
        assert ask(server, history, "one").headers[STATES].startswith("kept=0 restored=1")


def ask(server: Served, history: list[dict[str, Any]], key: str) -> Any:
    return server.post(CHAT, {"messages": history, "tools": [CALCULATOR]}, authorization=f"Bearer {key}")


def first_turn(server: Served, key: str) -> list[dict[str, Any]]:
    """A history after one call whose thought the client dropped."""
    user = [{"role": "user", "content": "Add."}]
    message = strip(ask(server, user, key).json()["choices"][0]["message"], 0)
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "42"}
    return [*user, message, result]


def thinking(number: int) -> str:
    return f"<think>Secret {number}.</think>[calls]" + call("calc", '{"e": "1"}') + "[/calls][end]"


@pytest.mark.parametrize("same_key", [True, False])
def test_two_clients_with_identical_calls_never_see_each_others_thought(same_key: bool) -> None:
    llm = saying(thinking(1), thinking(2), "x[end]")
    keys = ("one", "one" if same_key else "two")
    with serving(llm) as server:
        histories = [first_turn(server, key) for key in keys]
        for number, (key, history) in enumerate(zip(keys, histories), 1):
            assert ask(server, history, key).headers[STATES].startswith("kept=0 restored=1")
            assert f"Secret {number}." in TOK.decode(llm.prompts[-1])
            assert f"Secret {3 - number}." not in TOK.decode(llm.prompts[-1])
        # The other's ids, and ids that nobody gave: nothing is guessed.
        stolen = ask(server, histories[0], keys[1] if not same_key else "three")
        assert stolen.headers[STATES] in (
            "kept=0 restored=0 absent=1 expired=0",
            "kept=0 restored=1 absent=0 expired=0",
        )
        assert "Secret 1." not in TOK.decode(llm.prompts[-1])


def test_same_words_different_thoughts_and_no_id_is_not_guessed() -> None:
    llm = saying(thinking(1), thinking(2), "x[end]")
    with serving(llm) as server:
        histories = [first_turn(server, "one") for _ in range(2)]
        renamed = json.loads(json.dumps(histories[0]).replace(histories[0][2]["tool_call_id"], "toolu_1"))
        assert ask(server, renamed, "one").headers[STATES] == "kept=0 restored=0 absent=1 expired=0"


@pytest.mark.parametrize(
    "edit",
    [
        lambda h: h[0].update(content="Subtract."),
        lambda h: h[1]["tool_calls"][0]["function"].update(arguments='{"e": "2"}'),
        lambda h: h[1].update(content="I said something else."),
        lambda h: h[1].update(reasoning_content="I thought something else."),
    ],
)
def test_a_clients_edit_wins(edit: Callable[[Any], None]) -> None:
    llm = saying(thinking(1), "x[end]")
    with serving(llm) as server:
        history = first_turn(server, "one")
        edit(history)
        answer = ask(server, history, "one")
    prompt = TOK.decode(llm.prompts[-1])
    assert "Secret 1." not in prompt and "restored=0" in answer.headers[STATES]
    assert ("something else" in prompt) == ("something else" in json.dumps(history))


def test_strict_refuses_a_thought_that_nobody_has() -> None:
    llm = saying(thinking(1), "x[end]")
    with serving(llm, strict_reasoning=True) as server:
        history = first_turn(server, "one")
        assert ask(server, history, "one").status_code == 200
        refused = ask(server, history, "two")
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "reasoning_absent"
        assert refused.json()["error"]["param"] == "messages[1]"
        assert ask(server, [history[0], {**history[1], "reasoning": "Mine."}, history[2]], "two").status_code == 200


def test_the_store_is_bounded_and_says_what_it_forgot() -> None:
    now = [1000.0]
    store = ReasoningStore(max_turns=8, max_age=100, clock=lambda: now[0])
    llm = saying(*(thinking(n) for n in range(30)))
    with serving(llm, store, strict_reasoning=True, constrained=False) as server:
        histories = [first_turn(server, "one") for _ in range(20)]
        assert store.count() == 8
        assert ask(server, histories[0], "one").json()["error"]["code"] == "reasoning_expired"
        assert ask(server, histories[19], "one").status_code == 200
        now[0] += 101
        assert ask(server, histories[19], "one").json()["error"]["code"] == "reasoning_expired"


def test_a_damaged_store_or_key_says_so(tmp_path: Path) -> None:
    (tmp_path / "turns.sqlite").write_text("this is no database, and long enough to be looked at " * 40)
    with pytest.raises(ValueError, match="no store of turns"):
        ReasoningStore(tmp_path / "turns.sqlite")
    key = tmp_path / "key"
    first = Seal.from_file(key)
    assert key.stat().st_mode & 0o777 == 0o600 and len(key.read_bytes()) == 32
    turn = SampledTurn(b"p" * 16, b"c" * 16, (1, 2, 70_000), (True, False, True))
    assert Seal.from_file(key).read(b"s", first.write(b"s", turn)) == turn
    key.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        Seal.from_file(key)


def test_a_seal_holds_for_its_scope_and_nothing_else() -> None:
    seal = Seal(b"k" * 32)
    turn = SampledTurn(b"p" * 16, b"c" * 16, tuple(range(50)), (True,) * 50, whole=False)
    sealed = seal.write(b"one", turn)
    assert seal.read(b"one", sealed) == turn
    assert seal.read(b"one", "EqQBCkYIARgCKkBd") is None  # another maker's
    for forged in (
        sealed[:-1] + ("A" if sealed[-1] != "A" else "B"),
        sealed[:40] + "x" + sealed[41:],
        "abz1.",
        "abz1.a.b",
    ):
        with pytest.raises(ValueError, match="not made by this server"):
            seal.read(b"one", forged)
    for other in (Seal(b"K" * 32), seal):
        with pytest.raises(ValueError, match="not made by this server"):
            other.read(b"two", sealed)


def test_a_stop_string_keeps_the_thought_and_not_what_it_cut_off() -> None:
    llm = saying(spelled("<think>Deep.</think>shown STOP hidden[end]"), "x[end]")
    with serving(llm) as server:
        user = {"role": "user", "content": "Hi"}
        body = {"messages": [user], "stop": "STOP"}
        message = strip(server.post(CHAT, body).json()["choices"][0]["message"], 0)
        assert message["content"] == "shown "
        again = server.post(CHAT, {"messages": [user, message, user]})
    assert again.headers[STATES] == "kept=0 restored=1 absent=0 expired=0"
    prompt = llm.prompts[-1]
    thought = spelled("<think>Deep.</think>")
    assert any(prompt[i : i + len(thought)] == thought for i in range(len(prompt)))
    assert "shown <|im_end|>" in TOK.decode(prompt) and "hidden" not in TOK.decode(prompt)


def test_fifty_calls_keep_and_strip() -> None:
    def script(_: list[int], number: int) -> list[int]:
        if number == 50:
            return ids("<think>Enough.</think>Done.[end]")
        return spelled(
            f"<think>Step {number}.</think>[calls]" + call("calc", f'{{"e": "{number}"}}', number) + "[/calls][end]"
        )

    prompts = []
    for mutate in (keep, reformat):
        llm = ScriptedLLM(script, max_context=100_000)
        with serving(llm) as server:
            history: list[dict[str, Any]] = [{"role": "user", "content": "Go."}]
            for number in range(51):
                message = mutate(ask(server, history, "one").json()["choices"][0]["message"], number)
                history.append(message)
                history += [
                    {"role": "tool", "tool_call_id": c["id"], "content": "ok"} for c in message.get("tool_calls", [])
                ]
        prompts.append(llm.prompts)
    assert prompts[0] == prompts[1] and len(prompts[0]) == 51
    assert all(b[: len(a)] == a for a, b in pairwise(prompts[0]))


def test_a_history_that_ends_with_the_assistant_is_resolved() -> None:
    history = [Message("user", "Hi"), Message("assistant", "Hello, I think."), Message("assistant", "Yes?")]
    with serving(saying("x[end]")) as server:
        found = server.service._restorer.resolve(b"", history, {}, (), None)
    assert found.messages == tuple(history) and found.states == {1: "absent", 2: "absent"}
